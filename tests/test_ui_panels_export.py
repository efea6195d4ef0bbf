"""The choice of a format in the panel of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from peft_nb.adapters.exporters import EXPORTERS
from peft_nb.runs.run import Run
from peft_nb.ui.panels.export import ExportForm
from peft_nb.ui.panels.run import RunPanel
from tests.test_ui_panels_run import outcome, until


def test_a_format_is_chosen_with_its_options_or_says_why_it_cannot_be() -> None:
    written: list[tuple[str, dict[str, Any]]] = []
    form = ExportForm({**dict.fromkeys(EXPORTERS, ""), "merged": "it is <odd>"}, lambda *one: written.append(one))
    assert [value for _, value in form.format.options] == [*EXPORTERS]
    assert EXPORTERS["script"].help in form._told.value
    form.format.value = "merged"
    assert "not possible: it is &lt;odd&gt;" in form._told.value
    assert form.button.disabled
    form.format.value = "gguf"
    assert not form.button.disabled
    (outtype,) = form._more.children
    assert (outtype.description, "q8_0" in outtype.placeholder) == ("outtype", True)
    form.button.click()
    outtype.value = "q8_0"
    form.button.click()
    assert written == [("gguf", {}), ("gguf", {"outtype": "q8_0"})]


def test_a_run_is_exported_from_its_panel(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    panel = RunPanel(finished, lambda: None)
    panel.export.disabled = False
    panel.export.click()
    until(lambda: "choose a format below" in outcome(panel))
    form = panel._formats
    form.format.value = "gguf"
    form.button.click()
    until(lambda: "run by llama.cpp" in outcome(panel))
    until(lambda: "equal greedy tokens" in form._result.value)
    assert Path(f"{finished.id}.gguf").is_file()
    form.format.value = "yaml"
    form.button.click()
    until(lambda: f"exported to {finished.id}.yaml" in outcome(panel))
    assert form._result.value == ""
