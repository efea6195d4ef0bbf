from __future__ import annotations

from pathlib import Path

import pandas
import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.data.sources import BUILTIN
from peft_nb.magics.completion import complete
from peft_nb.spec import METHODS, RunSpec
from peft_nb.spec.place import FIELDS
from peft_nb.spec.sweep import SweepSpec

NAMESPACE = {
    "tickets": pandas.DataFrame({"prompt": ["a"]}),
    "rows": [{"prompt": "a", "completion": "b"}],
    "_hidden": pandas.DataFrame(),
    "numbers": [1, 2],
    "text": "tickets",
    "marks": lambda prompt, answer, reference: 1.0,
}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PEFT_NB_STORE", raising=False)


def at_cursor(cell: str) -> tuple[str, list[str]]:
    """Complete a cell in which ``|`` stands for the cursor."""
    before, _, after = cell.partition("|")
    line, column = before.count("\n"), len(before.split("\n")[-1])
    found = complete(before + after, line, column, NAMESPACE)
    return found.fragment, found.matches


@pytest.mark.parametrize(
    ("cell", "fragment", "offered"),
    [
        ("%%peft lo|", "lo", [name for name in METHODS if name.startswith("lo")]),
        ("%%peft lora --lea|", "--lea", ["--learning-rate"]),
        ("%%peft lora --lora-a|\nr: 8", "--lora-a", ["--lora-alpha"]),
        ("%%peft lora --data |", "", ["tickets", "rows", *BUILTIN]),
        ("%%peft lora --data=ti|", "ti", ["tickets"]),
        ("%%peft lora --data x\nregression: |", "", ["tickets", "rows", *BUILTIN]),
        ("%%peft lora --data x\nscore: |", "", ["exact_match", "rouge_l", "marks"]),
        ("%%peft lora --data x\njudge: |", "", ["quick", "full", "off"]),
        ("%%peft lora --data tickets --model smol|", "smol", ["smollm2-135m"]),
        ("%%peft lora --loss-on |", "", ["assistant", "completion", "all"]),
        ("%%peft lora --no-f|", "--no-f", ["--no-freeze-encoder", "--no-fast"]),
        ("%%peft lora --data x\nlearn|", "learn", ["learning_rate: "]),
        ("%%peft lora --data x\nmodel: smol|\nr: 8", "smol", ["smollm2-135m"]),
        (
            "%%peft lora --data x\nlr_scheduler_type: co|",
            "co",
            ["cosine", "constant", "constant_with_warmup"],
        ),
        ("%%peft lora --data x\nfast: |", "", ["true", "false"]),
        ("%%peft\nmethod: |", "", list(METHODS)),
        ("%%peft\ndata: ti|", "ti", ["tickets"]),
        ("%%peft lora --data x\nepochs: |", "", []),
        ("%%peft lora --data x\nnonsense: |", "", []),
        ("%peft sh|", "sh", ["show"]),
        ("x = 1\n%peft res|", "res", ["resume"]),
        ("%peft resume lora-3f9a2c --b|", "--b", ["--background"]),
        ("%peft resume lora-3f9a2c --|", "--", ["--out", "--background", *(f"--{one.name}" for one in FIELDS)]),
        ("%peft show --|", "--", []),
        ("%peft train spec.yaml --ep|", "--ep", ["--epochs", "--epsilon"]),
        ("%peft data |", "", ["tickets", "rows", *BUILTIN]),
        ("%peft data tickets --f|", "--f", ["--fix", "--format"]),
        ("%peft data tickets --r|", "--r", ["--row", "--revision"]),
        ("%peft data tickets --ep|", "--ep", []),
        ("%peft methods smol|", "smol", ["smollm2-135m"]),
        ("%peft advise ti|", "ti", ["tickets"]),
        ("%peft advise --goal kn|", "kn", ["knowledge"]),
        (
            "%peft advise tickets --m|",
            "--m",
            ["--model", "--memory-gb", "--minutes", "--must-merge", "--many-adapters"],
        ),
        ("%peft help learning|", "learning", ["learning_rate"]),
        ("%%pef|", "", []),
        ("%%peft|", "", []),
        ("%%peftology lo|", "", []),
        ("x = lo|", "", []),
        ("|", "", []),
    ],
)
def test_what_is_offered(cell: str, fragment: str, offered: list[str]) -> None:
    assert at_cursor(cell) == (fragment, offered)


def test_a_field_that_is_set_already_is_not_offered_again() -> None:
    _, offered = at_cursor("%%peft lora\nr: 8\n|\nseed: 1")
    known = [*RunSpec.describe(), *SweepSpec.describe()]
    assert offered == [f"{field.name}: " for field in known if field.name not in ("r", "seed")]
    _, offered = at_cursor("%%peft lora --epochs 1 --e|")
    assert offered == ["--eval-data", "--eval-fraction", "--early-stopping-patience", "--epsilon", "--eval-steps"]


def test_tab_makes_no_store() -> None:
    at_cursor("%peft show |")
    assert list(Path.cwd().iterdir()) == []


@pytest.fixture
def shell(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.delenv("PEFT_NB_STORE")
    shell.user_ns.update(NAMESPACE)
    return shell


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("%%peft lora --data tickets --epo|", "%%peft lora --data tickets --epochs"),
        ("%%peft lora --data ti|\nr: 8", "%%peft lora --data tickets\nr: 8"),
        ("%%peft lora\nlearning_r|\nr: 8", "%%peft lora\nlearning_rate: \nr: 8"),
        ("%%peft lora\nformat: ques|", "%%peft lora\nformat: question_answer"),
    ],
)
def test_the_completer_of_ipython_offers_only_ours(shell: InteractiveShell, cell: str, expected: str) -> None:
    before, _, after = cell.partition("|")
    with provisionalcompleter():
        (only,) = shell.Completer.completions(before + after, len(before))
    assert before[: only.start] + only.text + after == expected


def test_files_are_offered_where_a_file_may_stand(shell: InteractiveShell) -> None:
    Path("tickets.jsonl").touch()
    text = "%%peft lora --data tick"
    with provisionalcompleter():
        offered = {found.text for found in shell.Completer.completions(text, len(text))}
    assert offered == {"tickets", "tickets.jsonl"}
