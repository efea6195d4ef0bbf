from __future__ import annotations

from pathlib import Path

import pandas
import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import CommandError, DataError, SpecError
from peft_nb.ui.report import Report
from peft_nb.ui.tokens import TokenView
from tests.shell import refused, run
from tests.templates import tokenizer
from tests.test_data_quality_checks import sound


@pytest.fixture
def shell(shell: InteractiveShell, tmp_path: Path) -> InteractiveShell:
    tokenizer().save_pretrained(tmp_path / "base")
    rows = sound()
    rows[3]["completion"] = None
    rows[9] = dict(rows[2])
    shell.user_ns["tickets"] = pandas.DataFrame(rows)
    return shell


def test_a_check_is_shown_and_can_be_kept(shell: InteractiveShell, capsys: pytest.CaptureFixture[str]) -> None:
    report = run(shell, "%peft data tickets --model base --out report")
    assert isinstance(report, Report)
    assert shell.user_ns["report"] is report
    assert [(finding.kind, finding.rows) for finding in report.findings] == [("empty", (3,)), ("duplicate", (9,))]
    assert not report.checked.estimated
    assert report.next_steps == [
        "%peft data tickets --model=base --fix --out clean",
        "%peft data tickets --model=base --row 0",
        "%%peft lora --data clean --model=base",
    ]
    assert "2 findings: stops training 1, harms the result 1" in capsys.readouterr().out


def test_mended_data_are_bound_and_clean(shell: InteractiveShell) -> None:
    report = run(shell, "%peft data tickets --model base --fix --out clean")
    clean = shell.user_ns["clean"]
    assert isinstance(clean, pandas.DataFrame)
    assert (len(clean), len(shell.user_ns["tickets"])) == (58, 60)
    assert "58 of 60 rows are left in clean" in repr(report)
    assert report.next_steps[-1] == "%%peft lora --data clean --model=base"
    assert run(shell, "%peft data clean --model base").findings == []


def test_one_row_is_shown_as_tokens(shell: InteractiveShell) -> None:
    shown = run(shell, "%peft data tickets --row 1 --model base")
    assert isinstance(shown, TokenView)
    assert shown.row == 1


def test_the_fields_of_a_spec_are_flags(shell: InteractiveShell) -> None:
    shell.user_ns["odd"] = shell.user_ns["tickets"].rename(columns={"prompt": "ask", "completion": "say"})
    columns = "--columns prompt=ask,completion=say"
    report = run(shell, f"%peft data odd {columns} --max-length 16 --model base --system 'Be kind.'")
    assert {"empty", "duplicate", "nothing"} <= {finding.kind for finding in report.findings}
    again = run(shell, report.next_steps[0])
    assert again.changes == report.changes


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("", CommandError, "%peft data: something is missing; write %peft data NAME [--fix] [--row N] [--out VAR]"),
        ("tickts", DataError, "did you mean 'tickets'?"),
        ("tickets other", CommandError, "%peft data takes one name; write %peft data NAME"),
        ("tickets --row two", CommandError, "--row two: not the number of a row; write one such as 0"),
        ("tickets --row 99 --model base", DataError, "row 99: there are 60 rows, numbered from 0"),
        ("tickets --fix --out 2x", CommandError, "--out '2x': not a name for a variable"),
        ("tickets --epochs 2", CommandError, "no such flag: '--epochs'"),
        ("tickets --max-length 3", SpecError, "max_length: 3 is below the smallest allowed value 8"),
        ("numbers", DataError, "fit no known layout"),
    ],
)
def test_a_mistake_is_one_line(shell: InteractiveShell, line: str, kind: type, said: str) -> None:
    shell.user_ns["numbers"] = pandas.DataFrame({"x": [1], "y": [2]})
    told = refused(shell, f"%peft data {line}", kind)
    assert said in told
    assert "\n" not in told
