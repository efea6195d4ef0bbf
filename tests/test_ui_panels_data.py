from __future__ import annotations

import re
import threading
import time
from typing import Any

import pandas
import pytest

from peft_nb.ui.check import check
from peft_nb.ui.panels.data import DataPanel
from peft_nb.ui.report import Report
from tests.templates import tokenizer
from tests.test_data_quality_checks import KEY, sound

EVIL = "<script>alert(1)</script><img src=x onerror=alert(1)> مرحبا 👩‍🔧 " + "w" * 300


@pytest.fixture
def report(tmp_path: Any) -> Report:
    tokenizer().save_pretrained(tmp_path)
    rows = sound()
    rows[3]["completion"] = None
    rows[9] = dict(rows[2])
    rows[10]["completion"] = f"api_key = {KEY}"
    rows[12]["completion"] = "ring\x07 the bell\u200b twice"
    rows[20]["completion"] = EVIL
    return check(pandas.DataFrame(rows), model=str(tmp_path), max_length=64)


@pytest.fixture
def names() -> dict[str, Any]:
    return {}


@pytest.fixture
def panel(report: Report, names: dict[str, Any]) -> DataPanel:
    return DataPanel(report, names)


def rows_counted(lengths: str) -> int:
    """How many rows the histogram has, by its numbers."""
    (numbers,) = re.findall("<pre>(.*?)</pre>", lengths, re.DOTALL)
    return sum(int(line.split()[-1]) for line in numbers.splitlines())


def said(panel: DataPanel) -> str:
    return re.sub("<[^>]+>", "", panel._outcome.value)


def fix(panel: DataPanel, kind: str | None = None) -> str:
    return press(panel, panel.fixes[kind] if kind else panel.every)


def press(panel: DataPanel, button: Any) -> str:
    panel._outcome.value = ""
    button.click()
    until = time.monotonic() + 60
    while any(one.name == "peft_nb-fixing" for one in threading.enumerate()):  # also what it does to the panel
        assert time.monotonic() < until
        time.sleep(0.02)
    return said(panel)


# ---- fixing by kind ---------------------------------------------------------------------------


# ---- the panel ---------------------------------------------------------------------------------


def test_it_shows_what_the_report_says(panel: DataPanel, report: Report) -> None:
    html = panel._table.value
    assert "error" in html
    assert "warning" in html
    assert "<script" not in html
    assert KEY not in html
    lengths = panel._lengths.value
    assert "<img" in lengths
    assert "the dashed line is max_length 64; 41 rows over it" in lengths
    assert rows_counted(lengths) == len(report.lengths)


def test_each_kind_is_fixed_by_its_button_and_all_by_one(
    panel: DataPanel, report: Report, names: dict[str, Any]
) -> None:
    assert list(panel.fixes) == ["empty", "secret", "duplicate", "control"]
    assert fix(panel, "duplicate") == "fixed: 1 change, 59 of 60 rows are left in clean"
    assert len(names["clean"]) == 59
    assert fix(panel, "empty") == "fixed: 2 changes, 58 of 60 rows are left in clean"
    assert len(names["clean"]) == 58
    assert panel.fixes["empty"].description.startswith("✓ Fix 1 row empty")
    assert panel.fixes["secret"].description.startswith("Fix 1 row with secrets")
    assert KEY in names["clean"].loc[10, "completion"]
    assert "<strong>2 warnings, 1 info</strong>" in panel._head.value
    assert panel._table.value.count("✓ fixed") == 2
    assert rows_counted(panel._lengths.value) == len(report.lengths) == 58
    assert (panel.row.max, panel.row.description) == (57, "Row, 0 to 57")
    assert "%%peft lora --data clean" in panel._changes.value
    panel.variable.value = "all_clean"
    assert fix(panel) == "fixed: 3 changes, 58 of 60 rows are left in all_clean"
    assert KEY in names["all_clean"].loc[10, "completion"]
    assert fix(panel, "secret") == "fixed: 4 changes, 58 of 60 rows are left in all_clean"
    assert names["all_clean"].loc[10, "completion"] == "api_key = <OPENAI_KEY>"
    assert len(report.data) == 60
    assert "before and after, by row of the original" in panel._changes.value
    assert "api_key = s…" in panel._changes.value
    assert KEY not in panel._changes.value
    assert panel.confirm.layout.display == "none"


def test_dropping_many_rows_is_confirmed_once(names: dict[str, Any]) -> None:
    rows = sound(20)
    for number in range(3):
        rows[number]["completion"] = ""
    rows[9]["completion"] = "ring\x07 the bell"
    panel = DataPanel(check(pandas.DataFrame(rows), model="nobody/nowhere"), names)
    assert fix(panel, "empty").startswith("fixing would drop 3 of 20 rows, more than a tenth (empty 3): press “Drop")
    assert (names, panel.confirm.layout.display) == ({}, None)
    assert press(panel, panel.confirm) == "fixed: 3 changes, 17 of 20 rows are left in clean"
    assert (len(names["clean"]), panel.confirm.layout.display) == (17, "none")
    assert fix(panel, "control") == "fixed: 4 changes, 17 of 20 rows are left in clean"


@pytest.mark.parametrize(
    ("name", "told"), [("2x", "2x&#x27; is no name for a variable"), ("def", "is no name"), (EVIL, "is no name")]
)
def test_a_name_that_is_none_is_refused_in_the_panel(
    panel: DataPanel, names: dict[str, Any], name: str, told: str
) -> None:
    panel.variable.value = name
    panel.every.click()
    until = time.monotonic() + 60
    while "alert" not in panel._outcome.value:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert told in panel._outcome.value
    assert "<script" not in panel._outcome.value
    assert names == {}


def test_the_original_is_never_overwritten(report: Report) -> None:
    report.source = type(report.source)(**{**vars(report.source), "name": "clean"})
    panel = DataPanel(report, {})
    assert "holds the original" in fix(panel)


def test_a_row_is_shown_token_by_token(panel: DataPanel) -> None:
    assert "row 0: " in panel._seen.value
    panel.row.value = 20
    assert "row 20: 64 tokens of " in panel._seen.value
    assert "masked" in panel._seen.value
    assert "<script" not in panel._seen.value
    panel.row.value = 3
    assert "column &#x27;completion&#x27; is empty" in panel._seen.value
    panel.row.value = 99
    assert panel.row.value == 59


def test_clean_data_without_a_tokenizer() -> None:
    panel = DataPanel(check(sound(), model="nobody/nowhere"), {})
    assert panel.fixes == {}
    assert "clean: nothing to fix" in panel.box.children[1].value
    assert "which is not on this machine" in panel._seen.value
    assert "all far below max_length 1,024" in panel._lengths.value
