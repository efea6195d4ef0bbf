from __future__ import annotations

import time
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output

from peft_nb.errors import RunError, SpecError, StoreError
from peft_nb.magics.completion import complete
from peft_nb.runs.run import Run
from peft_nb.runs.sweeps import search
from peft_nb.runs.sweeps.search import Search
from peft_nb.system import frontend
from peft_nb.ui.discover import Discovery
from peft_nb.ui.sweep import Sweep
from tests.shell import refused, run

BODY = "dtype: float32\ndevice: cpu\nbatch_size: 5\njudge: off\n"


def ended() -> None:
    until = time.monotonic() + 60
    while search.active():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_cell_with_several_values_binds_the_best_run(
    shell: InteractiveShell, base: Path, rows: list[dict[str, str]]
) -> None:
    shell.user_ns["tickets"] = rows
    cell = f"%%peft lora --data tickets --search grid --out best\nmodel: {base}\nmax_steps: 3\nname: desk\n{BODY}"
    assert run(shell, f"{cell}sweep: {{learning_rate: [1e-4, 1e-2]}}") is None
    best = shell.user_ns["best"]
    assert isinstance(best, Run)
    assert best.spec.learning_rate == 1e-2
    shown = run(shell, "%peft sweep")
    assert isinstance(shown, Sweep)
    assert [one.state for one in shown.trials] == ["finished", "finished"]
    assert run(shell, "%peft sweep desk --out desk").id == shell.user_ns["desk"].id == shown.id
    assert complete("%peft sweep d", 0, len("%peft sweep d"), {}).matches == ["desk"]

    long = cell.replace("--out best", "--background").replace("max_steps: 3", "epochs: 90")
    run(shell, f"{long}sweep: {{learning_rate: [1e-4, 1e-3]}}")
    assert search.active()
    run(shell, "%peft stop")
    ended()
    assert run(shell, "%peft sweep").status == "stopped"
    assert "was stopped after" not in "".join(run(shell, "%peft sweep").record.notes)


def test_a_notebook_without_widgets_gets_a_page_that_is_kept_up_to_date(
    shell: InteractiveShell, base: Path, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frontend, "frontend", lambda: "notebook-headless")
    shell.user_ns["tickets"] = rows
    cell = f"%%peft lora --data tickets --search grid\nmodel: {base}\nmax_steps: 2\n{BODY}"
    with capture_output() as captured:
        run(shell, f"{cell}sweep: {{learning_rate: [1e-4, 1e-2]}}")
    pages = [one.data["text/html"] for one in captured.outputs]
    assert "running, 0 of 2 trials" in pages[0]
    assert "finished, 2 trials" in pages[-1]
    assert {frozenset(one.data) for one in captured.outputs} == {frozenset({"text/html", "text/plain"})}


def test_where_no_trial_can_run_the_cell_fails_with_the_line(
    shell: InteractiveShell, base: Path, rows: list[dict[str, str]]
) -> None:
    shell.user_ns["tickets"] = rows
    cell = f"%%peft lora --data tickets --out best\nmodel: {base}\nmax_steps: 2\n{BODY}"
    assert "no trial finished: target_modules" in refused(
        shell, f"{cell}sweep: {{target_modules: [[x], [y]]}}", RunError
    )
    assert "best" not in shell.user_ns


def test_a_sweep_goes_on_by_its_name(
    shell: InteractiveShell, swept: Search, rows: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEFT_NB_STORE", str(swept.store.folder))
    assert "(in memory)" in refused(shell, "%peft sweep tickets --resume --trials 9")  # its rows are not at hand
    assert run(shell, "%peft sweep tickets").record.trials == swept.record.trials


def test_adapters_are_discovered(shell: InteractiveShell, base: Path, rows: list[dict[str, str]]) -> None:
    shell.user_ns["tickets"] = rows
    fixed = "--max-steps 2 --batch-size 5 --dtype float32 --device cpu"
    run(shell, f"%peft discover tickets --minutes 0.001 --model {base} {fixed} --out found")
    found = shell.user_ns["found"]
    assert isinstance(found, Discovery)
    assert found.cell.startswith(f"%%peft {found.spec.method} --data tickets --out run\n")


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("%peft sweep", RunError, "the store holds no sweep yet"),
        ("%peft sweep tickets", StoreError, "there is no sweep 'tickets'"),
        ("%%peft lora --data tickets --trials 3", SpecError, "trials: belongs to a sweep"),
        ("%%peft lora --data tickets\nsweep: {learning_rat: [1, 2]}", SpecError, "did you mean 'learning_rate'?"),
        ("%%peft lora --data tickets\nsweep: 3", SpecError, "names no fields with several values each"),
    ],
)
def test_a_mistake_is_told(shell: InteractiveShell, line: str, kind: type, said: str) -> None:
    shell.user_ns["tickets"] = [{"prompt": "a", "completion": "b"}]
    assert said in refused(shell, line, kind)


def test_tab_knows_the_fields_of_a_sweep(shell: InteractiveShell) -> None:
    assert complete("%%peft --tri", 0, len("%%peft --tri"), {}).matches == ["--trials"]
    assert complete("%%peft --search g", 0, len("%%peft --search g"), {}).matches == ["grid"]
    assert complete("%%peft lora\nswe", 1, 3, {}).matches == ["sweep: "]
