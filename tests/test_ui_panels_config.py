from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.data.sources import BUILTIN
from peft_nb.errors import CommandError, SpecError
from peft_nb.magics.line import COMMANDS
from peft_nb.methods import complete
from peft_nb.runs.run import Run, active
from peft_nb.spec import RunSpec
from peft_nb.ui.panels.config import ConfigPanel, named
from tests.widgets import button_of, words_of

HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(1)> مرحبا 👩‍🔧 " + "w" * 300


@pytest.fixture
def filled(base: Path, rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A panel on the tiny base, in a notebook that holds some rows."""
    monkeypatch.chdir(tmp_path)
    fields = {"model": str(base), "max_steps": 4, "batch_size": 5, "dtype": "float32", "device": "cpu", "judge": "off"}
    panel = ConfigPanel(fields, {"tickets": rows, "_hidden": rows, "number": 3})
    yield panel
    panel._debouncer.cancel()
    panel._debouncer.wait()


def said(panel: ConfigPanel, doing: str) -> str:
    """What the panel says at last of what is done aside."""
    until = time.monotonic() + 30
    while time.monotonic() < until and (panel._busy.locked() or doing in panel._outcome.value):
        time.sleep(0.02)
    time.sleep(0.05)
    return str(panel._outcome.value)


def test_a_mistake_is_shown_while_it_is_typed_and_the_cell_follows(filled: ConfigPanel) -> None:
    controls = filled.controls
    assert controls["data"].input.options == ("tickets", *BUILTIN)
    assert controls["data"].value == "tickets"
    assert filled.cell.value.startswith("%%peft lora --data tickets --out run\nmodel: ")
    controls["r"].value = "many"
    assert "not a finite number" in controls["r"].note.value
    assert controls["r"].input.description == "r: error"
    assert (filled.cell.value, filled.insert.cell) == ("", "")
    controls["r"].value = "4"
    assert "alert" not in controls["r"].note.value
    assert "r: 4\n" in filled.cell.value
    assert repr(filled) == f"a form for the cell\n\n{filled.cell.value}".rstrip()
    controls["method"].value = "ia3"
    assert controls["r"].box.layout.display == "none"
    assert "r: 4" not in filled.cell.value
    controls["method"].value = "lora"
    assert "r: 4\n" in filled.cell.value


def test_a_mistake_in_a_part_that_is_folded_away_opens_it(filled: ConfigPanel) -> None:
    fold = filled.collapsibles["logging"]
    assert fold.inside.layout.display == "none"
    fold.button.click()
    assert fold.inside.layout.display is None
    assert fold.button.description.startswith("▼ Advanced: logging")
    fold.button.click()
    filled.controls["eval_steps"].value = "0"
    assert fold.inside.layout.display is None


def test_the_data_are_checked_and_the_run_is_forecast_while_it_is_typed(filled: ConfigPanel) -> None:
    filled._debouncer.wait()
    assert "23 rows" in filled.data_status.line.value
    assert "1 info" in filled.data_status.line.value
    assert "<table" in filled.data_status.whole.value
    assert re.search(r"Trains on 21 rows in 4 steps, (about )?[\d.]+ s", filled.estimate_status.line.value)
    assert "fits" in filled.estimate_status.line.value
    assert "optimizer" in filled.estimate_status.whole.value
    filled.controls["data"].value = "tikets"
    filled._debouncer.wait()
    assert "did you mean &#x27;tickets&#x27;?" in filled.data_status.line.value
    assert filled.data_status.details.box.layout.display == "none"
    filled.controls["data"].value = "owner/name"
    filled._debouncer.wait()
    assert "%peft estimate owner/name" in filled.estimate_status.line.value


def test_the_form_opens_with_six_fields_and_the_rest_is_found_by_words(filled: ConfigPanel) -> None:
    parts = filled.collapsibles.values()
    assert all(part.inside.layout.display == "none" for part in parts)
    first = {name for name, control in filled.controls.items() if control.box in filled.box.children[1].children}
    assert first == {"data", "model", "method", "epochs", "learning_rate", "out"}
    filled.search.value = "warmup"
    shown = {name for name, control in filled.controls.items() if control.box.layout.display is None}
    assert shown - first == {"warmup_steps", "warmup_ratio", "lr_scheduler_type"}
    offered = {section for section, part in filled.collapsibles.items() if part.box.layout.display is None}
    assert offered == {"training"}
    assert filled.collapsibles["training"].inside.layout.display is None
    filled.search.value = ""
    assert all(part.inside.layout.display == "none" for part in parts)
    assert filled.controls["seed"].box.layout.display is None
    filled._debouncer.wait()
    assert "Trains on" in filled.page()
    assert "%%peft lora --data tickets --out run" in filled.page()


def test_new_variables_are_offered(filled: ConfigPanel, rows: list[dict[str, str]]) -> None:
    filled._namespace["more"] = rows[:20]
    filled._offer_variables()
    assert filled.controls["data"].input.options[0] == "more"
    filled._debouncer.wait()
    filled._namespace["tickets"] = rows[:21]
    filled._offer_variables()
    filled._debouncer.wait()
    assert "21 rows" in filled.data_status.line.value


def test_a_form_looks_at_what_cells_make_only_while_somebody_sees_it(
    shell: InteractiveShell, rows: list[dict[str, str]]
) -> None:
    names: dict[str, Any] = {"tickets": rows}
    panel = ConfigPanel(None, names)
    following = shell.events.callbacks["post_run_cell"]

    def offered(name: str) -> bool:
        names[name] = rows
        shell.run_cell("pass")
        return name in panel.controls["data"].input.options

    assert offered("first")
    panel._keyboard.views = 1
    assert offered("second")
    panel._keyboard.views = 0  # its output was cleared, or its cell was run again
    assert not offered("third")
    panel._keyboard.views = 1
    assert "third" in panel.controls["data"].input.options
    assert panel._follow in following
    panel.box.close()
    assert not offered("fourth")
    assert panel._follow not in following
    panel._debouncer.cancel()
    panel._debouncer.wait()


def test_what_goes_wrong_while_a_form_is_drawn_is_said_in_it(
    filled: ConfigPanel, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("peft_nb.ui.form.read", lambda raw: 1 / 0)
        filled.controls["r"].value = "5"
    assert "ZeroDivisionError: division by zero" in filled._outcome.value
    filled.controls["r"].value = "6"
    assert "r: 6\n" in filled.cell.value


def test_advice_is_given_and_taken(filled: ConfigPanel) -> None:
    filled.goal.value = "style"
    filled.advise.click()
    assert "advice: " in said(filled, "advising …")
    assert filled._advised.inside.layout.display is None
    rank = next(rank for rank, take in enumerate(filled.takes) if take.description == "Use ln-tuning")
    filled.takes[rank].click()
    assert filled.form.spec is not None
    assert (filled.form.spec.method, filled.form.spec.data) == ("ln-tuning", "tickets")


def test_a_file_and_a_cell_fill_it(filled: ConfigPanel, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("method: ia3\nepochs: 2\n")
    filled.recipe.value = "mine.yaml"
    filled._fill_in()
    assert filled.form.spec == RunSpec(data="tickets", method="ia3", epochs=2)
    filled.cell.value = "%%peft qlora --data tickets --out mine\nr: 4"
    assert filled.form.spec == RunSpec(data="tickets", method="qlora", r=4)
    assert filled.controls["out"].value == "mine"
    filled.cell.value = "%%peft lora --data tickets --on local:2\nr: 4"
    assert "filled in from the cell; the form trains here, the cell on local:2" in filled._outcome.value
    filled.cell.value = "print('nothing of ours')"
    assert "begins with %%peft" in filled._outcome.value
    with pytest.raises(CommandError, match="give the path of a YAML file"):
        named("none.yaml")
    with pytest.raises(SpecError, match="did you mean 'epochs'"):
        ConfigPanel({"epoch": 3}, {})
    assert COMMANDS["panel"].flags == {}
    shown = COMMANDS["panel"].act(type("Shell", (), {"user_ns": {}})(), recipe="mine.yaml")
    assert shown.form.spec.method == "ia3"
    shown._debouncer.cancel()


def test_start_refuses_what_is_wrong_and_trains_what_is_right(filled: ConfigPanel) -> None:
    filled.controls["epochs"].value = "-1"
    filled.start.click()
    assert "epochs: " in said(filled, "starting …")
    assert filled.run is None
    filled.controls["epochs"].value = "3"
    filled.controls["out"].value = "mine"
    filled.start.click()
    until = time.monotonic() + 60
    while time.monotonic() < until and "finished" not in filled._outcome.value:
        time.sleep(0.05)
    run = filled._namespace["mine"]
    assert isinstance(run, Run)
    assert (run.status, run.spec) == ("finished", complete(filled.form.valid_spec()))
    words = words_of(filled.shown)
    assert "4 of 4" in words
    assert "%peft save mine" in words
    assert "<img" not in words  # the curve is a chart


def test_stop_ends_the_run_that_was_started(filled: ConfigPanel) -> None:
    filled.controls["max_steps"].value = "100000"
    filled.start.click()
    until = time.monotonic() + 60
    while time.monotonic() < until and "tokens/s" not in words_of(filled.shown):
        time.sleep(0.05)
    filled.start.click()
    assert "still training" in said(filled, "starting …")
    filled.controls["r"].value = "4"
    filled._debouncer.wait()
    assert "estimated when no run is training" in filled.estimate_status.line.value
    button_of(filled.shown, "Stop").click()
    assert filled.run is not None
    assert filled.run.wait().status == "stopped"
    assert not active()
