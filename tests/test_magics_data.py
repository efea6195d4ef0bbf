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
    assert "1 error, 1 warning" in capsys.readouterr().out


def test_fixed_data_are_bound_and_clean(shell: InteractiveShell) -> None:
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
    assert {"empty", "duplicate", "long_prompt"} <= {finding.kind for finding in report.findings}
    again = run(shell, report.next_steps[0])
    assert again.changes == report.changes


def test_many_rows_are_dropped_only_when_that_is_said(shell: InteractiveShell) -> None:
    shell.user_ns["tickets"].loc[20:27, "completion"] = ""
    told = refused(shell, "%peft data tickets --model base --fix --out clean", DataError)
    assert told.startswith("fixing would drop 10 of 60 rows, more than a tenth (empty 9, duplicate 1); look at report.")
    assert "clean" not in shell.user_ns
    run(shell, "%peft data tickets --model base --fix --drop --out clean")
    assert len(shell.user_ns["clean"]) == 50


def test_redaction_is_chosen_by_name_and_takes_an_allow_list(shell: InteractiveShell) -> None:
    shell.user_ns["tickets"].loc[20, "completion"] = "write to help@tidewater.shop or to anna.berg@gmail.com"
    run(shell, "%peft data tickets --model base --fix --out clean")
    assert "anna.berg@gmail.com" in shell.user_ns["clean"].loc[20, "completion"]
    report = run(shell, "%peft data tickets --model base --kinds all,personal --allow *@tidewater.shop --out clean")
    assert shell.user_ns["clean"].loc[20, "completion"] == "write to help@tidewater.shop or to <EMAIL>"
    assert len(shell.user_ns["clean"]) == 58
    assert "anna" not in repr(report) + report._repr_html_()
    allowing = run(shell, "%peft data tickets --model base --allow '*@tidewater.shop,anna*'").next_steps[0]
    assert allowing == "%peft data tickets --model=base '--allow=*@tidewater.shop,anna*' --fix --out clean"


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("", CommandError, "%peft data: something is missing; write %peft data NAME [--fix] [--kinds KIND,...] [--"),
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
