from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb import Labels, Run
from peft_nb.store import Store
from tests.shell import refused, run
from tests.stores import finish
from tests.test_runs_labelling import kind_of, topics  # noqa: F401


def test_a_pool_is_labelled_and_its_rows_train_the_next_run(
    shell: InteractiveShell,
    topics: Run,  # noqa: F811
    encoder: Path,
    labelled: list[dict[str, str]],
) -> None:
    shell.user_ns |= {"topics": topics, "pool": [row["text"] for row in labelled[40:80]]}
    how = f"--run topics --budget 12 --encoder {encoder} --as ann"
    found = run(shell, f"%peft label pool {how} --strategy random --out labelled_rows")
    assert isinstance(found, Labels)
    assert shell.user_ns["labelled_rows"] is found
    while item := found.next():
        found.label(kind_of(str(item.prompt)))
    assert {*found.rows.labelled_by} == {"ann"}
    flags = f"--model {encoder} --task classification --device cpu --max-steps 1 --eval-fraction 0"
    run(shell, f"%%peft lora --data labelled_rows --init-adapter topics {flags} --out again")
    assert str(shell.user_ns["again"].facts.data).endswith("12 rows")
    del shell.user_ns["labelled_rows"]
    assert "12" in repr(run(shell, "%peft data labelled_rows"))  # by its folder
    assert refused(shell, "%peft label pool").startswith("--run: name the run that guesses")
    assert "takes a pool of rows, and --run RUN" in refused(shell, "%peft label pool more --run topics")
    said = refused(shell, "%peft label pool --run topics --strategy bot")
    assert "--strategy bot: not one of both, uncertainty" in said
    assert "not a whole number" in refused(shell, "%peft label pool --run topics --budget x")


def test_feedback_is_given_as_rows(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store()
    id = finish(store, "tickets")
    store.vote("Hi", {id: "Ho"}, id)
    store.promote(id, "production", why="it is the first")
    assert list(run(shell, "%peft feedback tickets@production").answer) == ["Ho"]
    run(shell, "%peft feedback --for kto --out rows")
    assert list(shell.user_ns["rows"].label) == [True]
    assert run(shell, "%peft feedback tickets --for dpo") is None
    assert "no feedback that dpo learns from yet: press a thumb or edit an answer" in capsys.readouterr().out
    assert "--for sft: not one of kto, dpo, generation" in refused(shell, "%peft feedback --for sft")
