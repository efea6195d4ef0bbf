from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb import Run
from peft_nb.__main__ import main
from tests.shell import refused, run
from tests.test_runs_watch import prompts


def test_a_cell_and_a_scheduled_check(
    shell: InteractiveShell, kinds: dict[str, Run], encoder: Path, monkeypatch: pytest.MonkeyPatch, capsys: object
) -> None:
    shell.user_ns |= {"tickets": kinds["fruit"], "same": prompts("fruit", 5), "other": prompts("tool", 5)}
    found = run(shell, f"%peft watch tickets same --encoder {encoder} --fail-on drift --out drift")
    assert shell.user_ns["drift"] is found
    assert not found.drifted
    assert run(shell, f"%peft watch tickets other --encoder {encoder}").drifted
    said = refused(shell, f"%peft watch tickets other --encoder {encoder} --fail-on drift")
    assert "fruit v1, 30 new rows: changed: inputs" in said
    assert "--fail-on loss: not one of drift" in refused(shell, "%peft watch tickets other --fail-on loss")
    monkeypatch.setenv("PEFT_NB_STORE", str(kinds["fruit"].store.folder))
    Path("other.txt").write_text("\n\n".join(prompts("tool", 5)))
    words = ["watch", "fruit", "other.txt", "--encoder", str(encoder)]
    assert main(words) == 0
    assert main([*words, "--fail-on", "drift"]) == 1
