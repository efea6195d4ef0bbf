from __future__ import annotations

from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import DataError
from peft_nb.ui.index import Index
from tests.shell import refused, run
from tests.test_documents_retriever import HANDBOOK


def test_documents_are_read_once_and_opened_again(shell: InteractiveShell, encoder: Path) -> None:
    Path("manuals").mkdir()
    (Path("manuals") / "desk.txt").write_text("\n\n".join(HANDBOOK.values()))
    found = run(shell, f"%peft index manuals/ --model {encoder} --size 200 --name desk --out kb")
    assert isinstance(found, Index)
    assert shell.user_ns["kb"] is found
    assert found.retriever.facts.size == 200
    assert run(shell, "%peft index kb") is found
    again = run(shell, "%peft index desk")
    assert (again.name, len(again)) == ("desk", len(found))
    shell.user_ns["handbook"] = HANDBOOK
    assert run(shell, f"%peft index handbook --model {encoder}").name == "handbook"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("%peft index nowhere/manuals", "nowhere/manuals: no such file or folder"),
        ("%peft index", "%peft index: something is missing"),
    ],
)
def test_mistakes_are_one_line(shell: InteractiveShell, line: str, said: str) -> None:
    assert said in refused(shell, line)


def test_what_cannot_be_read_is_told(shell: InteractiveShell) -> None:
    Path("empty").mkdir()
    with pytest.raises(DataError, match="holds no document"):
        run(shell, "%peft index empty")


def test_rows_are_made_from_an_index_and_bound(shell: InteractiveShell, encoder: Path) -> None:
    shell.user_ns["handbook"] = {"desk": "# Parcels\nA label for a parcel costs nothing."}
    run(shell, f"%peft index handbook --model {encoder} --out kb")
    made = run(shell, "%peft synthesize kb --rows 1 --out rows")
    assert shell.user_ns["rows"] is made.rows
    assert list(made.rows.question) == ["How much does a label for a parcel cost?"]
    assert run(shell, "%peft synthesize handbook --rows 1").rows.equals(made.rows)
    assert "there is no index 'nothing'" in refused(shell, "%peft synthesize nothing")
    assert "--rows two: not a whole number" in refused(shell, "%peft synthesize kb --rows two")
