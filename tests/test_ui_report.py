from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pandas
import pytest
from IPython.core.formatters import DisplayFormatter

from peft_nb.data.quality.fixes import Edit
from peft_nb.errors import DataError
from peft_nb.system import frontend
from peft_nb.ui.check import check
from peft_nb.ui.report import Report, bins
from tests.templates import tokenizer
from tests.test_data_quality_checks import KEY, sound
from tests.test_ui_status import EVIL, Balanced
from tests.widgets import published

NOWHERE = "nobody/has-this-model"


def messy() -> pandas.DataFrame:
    rows = sound()
    rows[3]["completion"] = f"{EVIL} anna.berg@tidewater.shop"
    rows[4] = {"prompt": EVIL, "completion": None}
    rows[9] = dict(rows[2])
    rows[10]["completion"] = f"api_key = {KEY}"
    return pandas.DataFrame(rows)


@pytest.fixture
def report() -> Report:
    return check(messy(), model=NOWHERE)


def test_text_is_deterministic(report: Report) -> None:
    assert repr(report) == "\n".join(
        [
            "DataFrame, 60 rows; columns prompt, completion → prompt_completion",
            "1 error, 3 warnings",
            "  error    1 row empty where text is needed (4)",
            "             row 4: column 'completion' is empty",
            "             → fill or drop them (--fix drops the row)",
            "  warning  1 row with secrets (keys or passwords) (10)",
            "             row 10: OPENAI_KEY s…",
            "             → remove them, and revoke what is real (--kinds secret redacts it)",
            "  warning  1 duplicate row (9)",
            f"{'':<13}row 9: duplicate of row 2: how can i find my parcel parcel: choose find under find-parcel",
            "             → keep one of each (--fix drops the row)",
            "  warning  1 row with personal data (PII) (3)",
            "             row 3: EMAIL a…@t…",
            "             → redact it, or personal_data: redact (--kinds personal redacts it)",
            f"  note: lengths are estimated, 4 characters per token: the tokenizer of {NOWHERE} is not on this machine",
            *repr(report).split("\n")[15:],
        ]
    )
    assert repr(report).split("\n")[15].startswith("tokens per row (estimated): shortest ")
    assert repr(report).endswith(f"  next  clean = report.fixed()\n        %%peft lora --data clean --model={NOWHERE}")


def test_a_clean_set_says_so_in_one_line() -> None:
    report = check(sound(), model=NOWHERE)
    assert repr(report).split("\n")[1] == "clean: nothing to fix"
    assert "<table" not in report._repr_html_()


def test_html_is_whole_and_what_comes_from_the_data_is_escaped(report: Report) -> None:
    html = report._repr_html_()
    page = Balanced(html)
    assert "<script" not in html
    assert "row 3: EMAIL a…@t…" in page.words
    assert "error" in page.words
    assert any(attributes.get("alt", "").startswith("tokens per row (estimated)") for attributes in page.attributes)
    assert "anna.berg" not in html
    assert KEY not in html


def test_hostile_names_and_labels_are_escaped() -> None:
    labels = (EVIL, f"{EVIL}2")
    rows = [{"text": row["prompt"], "label": labels[number % 2]} for number, row in enumerate(sound(4))]
    rows[1]["label"] = rows[1]["label"].upper()
    report = check(rows, model=NOWHERE)
    report.fixed(EVIL)
    assert "<script" not in report._repr_html_().lower()
    assert report.next_steps[-1].endswith("--task=classification")


def test_fixing_shows_what_was_changed_and_leaves_the_original(report: Report) -> None:
    before = report.data.copy(deep=True)
    clean = report.fixed("clean")
    assert isinstance(clean, pandas.DataFrame)
    assert len(clean) == 58
    pandas.testing.assert_frame_equal(report.data, before)
    assert "fixed: 2 changes, 58 of 60 rows are left in clean" in repr(report)
    assert repr(report).split("\n")[1] == "fixed: 2 changes, 58 of 60 rows are left in clean"
    assert report.changes_said[3:] == [
        "row 9: dropped: duplicate of row 2",
        "  before  how can i find my parcel parcel: choose find under find-parcel",
    ]
    words = Balanced(report._repr_html_()).words
    assert "dropped: duplicate of row 2" in words
    assert report.changes_said[-1].split("  ")[-1] in words
    assert report.next_steps == [
        f"%peft data clean --model={NOWHERE} --row 0",
        f"%%peft lora --data clean --model={NOWHERE}",
    ]
    assert (report.verdict, [finding.kind for finding in report.findings]) == ("2 warnings", ["secret", "personal"])
    assert (report.findings[0].rows, len(report.lengths)) == ((8,), 58)  # row 10 of the original
    assert "  fixed    1 duplicate row (9)" in repr(report).split("\n")
    assert "✓ fixed" in words
    assert [finding.kind for finding in check(clean, model=NOWHERE).findings] == ["secret", "personal"]


def test_redaction_has_to_be_named_and_is_shown_masked(report: Report) -> None:
    assert KEY in report.fixed().loc[10, "completion"]
    clean = report.fixed("clean", kinds=["all", "personal", "secret"])
    assert clean.loc[10, "completion"] == "api_key = <OPENAI_KEY>"
    assert check(clean, model=NOWHERE).findings == []
    assert [(edit.row, edit.column) for edit in report.edits] == [
        (3, "completion"),
        (4, ""),
        (9, ""),
        (10, "completion"),
    ]
    assert report.edits[3] == Edit(10, "completion", "api_key = s…", "api_key = <OPENAI_KEY>")
    page = Balanced(report._repr_html_())
    assert "api_key = s…" in page.words
    assert "api_key = <OPENAI_KEY>" in page.words
    for shown in (repr(report), report._repr_html_(), str(report.edits)):
        assert not [text for text in ("anna", KEY) if text in shown]
    assert "<script" not in report._repr_html_()


def test_rows_are_shown_as_they_are_once_fixed(mixed: Report) -> None:
    assert "".join(token.text for token in mixed.tokens(12).tokens if token.supervised).startswith("ring")
    mixed.fixed("clean")
    learned = "".join(token.text for token in mixed.tokens(10).tokens if token.supervised)
    assert learned.startswith("ring the bell twice")
    with pytest.raises(DataError, match="row 58: there are 58 rows"):
        mixed.tokens(58)


def test_what_was_fixed_without_a_name_is_given_one_in_the_next_steps(report: Report) -> None:
    report.fixed(kinds=["empty", "personal"])
    assert report.next_steps == [
        "clean = report.fixed(kinds=['empty', 'personal'])",
        f"%%peft lora --data clean --model={NOWHERE}",
    ]


def test_nothing_is_trained_when_no_row_is_left() -> None:
    report = check([{"prompt": "a", "completion": ""}] * 3, model=NOWHERE)
    assert report.fixed("clean", drop=True) == []
    assert report.lengths == []
    assert report.next_steps == []
    assert "0 of 3 rows are left in clean" in Balanced(report._repr_html_()).words


def test_labelled_data_are_counted_by_label_and_an_encoder_is_suggested(tmp_path: Path) -> None:
    rows = [{"text": f"{row['prompt']} {n}", "label": f"<b>{n % 7}"} for n, row in enumerate(sound())]
    file = tmp_path / "rows.json"
    file.write_text(json.dumps(rows), encoding="utf-8")
    report = check(file)
    assert report.labels_said == "7 labels: <b>0 9, <b>1 9, <b>2 9, <b>3 9, <b>4 8 and 2 more"
    assert set(report.next_steps[-1].split()[-2:]) == {"--model=minilm-l6", "--task=classification"}
    html = report._repr_html_()
    assert html.count("&lt;b&gt;6") == 1
    assert "<summary>7 labels" in html
    assert report.labels_said in repr(report)


def test_dropping_more_than_a_tenth_has_to_be_confirmed() -> None:
    rows = sound(20)
    for number in range(3):
        rows[number]["completion"] = ""
    report = check(rows, model=NOWHERE)
    asked = "fixing would drop 3 of 20 rows, more than a tenth (empty 3)"
    told = f"{asked}; look at report.edits, and to drop them: report.fixed(drop=True), or --drop"
    assert report.question() == asked
    with pytest.raises(DataError, match=re.escape(told)):
        report.fixed()
    assert (report.changes_said, len(report.edits)) == ([], 3)
    assert len(report.fixed(drop=True)) == 17
    assert report.question(["encoding"]) == ""
    rows[2]["completion"] = "two is a tenth"
    assert len(check(rows, model=NOWHERE).fixed()) == 18


def test_the_next_steps_find_a_file_where_the_check_found_it(tmp_path: Path) -> None:
    file = tmp_path / "own rows.csv"
    pandas.DataFrame([{"prompt": f"What is {n}?", "completion": f"It is {n}."} for n in range(60)]).to_csv(file)
    assert check(file, model=NOWHERE).next_steps == [
        f"%peft data '{file}' --model={NOWHERE} --row 0",
        f"%%peft lora --data '{file}' --model={NOWHERE}",
    ]


def test_what_is_allowed_is_not_found() -> None:
    assert [finding.kind for finding in check(messy(), model=NOWHERE, allow="anna.berg@*").findings] == [
        "empty",
        "secret",
        "duplicate",
    ]


def test_json_holds_no_text_of_the_data(report: Report) -> None:
    written = report.to_json()
    told = json.loads(written)
    assert [finding["kind"] for finding in told["findings"]] == ["empty", "secret", "duplicate", "personal"]
    assert told["findings"][2]["rows"] == [9]
    assert {"row": 9, "what": "dropped: duplicate of row 2"} in told["changes"]
    assert not [text for text in ("anna", KEY, "alert") if text in written]


# ---- fixing by kind ---------------------------------------------------------------------------


@pytest.fixture
def mixed(tmp_path: Any) -> Report:
    """A report with findings that are fixed and one that is not."""
    tokenizer().save_pretrained(tmp_path)
    rows = sound()
    rows[3]["completion"] = None
    rows[9] = dict(rows[2])
    rows[10]["completion"] = f"api_key = {KEY}"
    rows[12]["completion"] = "ring\x07 the bell\u200b twice"
    rows[20]["completion"] = "w" * 300
    return check(pandas.DataFrame(rows), model=str(tmp_path), max_length=64)


def test_only_the_kinds_that_are_named_are_fixed(mixed: Report) -> None:
    clean = mixed.fixed("clean", kinds=["duplicate", "control"])
    assert len(clean) == 59
    assert clean.loc[12, "completion"] == "ring the bell twice"
    assert KEY in clean.loc[10, "completion"]
    assert [str(change) for change in mixed.changes] == [
        "row 9: dropped: duplicate of row 2",
        "row 12: removed control characters",
    ]
    assert not [step for step in mixed.next_steps if step.startswith("%%peft")]  # an empty row stops training
    left = {finding.kind for finding in check(clean, model="nobody/nowhere").findings}
    assert left == {"empty", "secret"}
    mixed.fixed("clean")
    assert mixed.next_steps[-1].startswith("%%peft lora --data clean")


@pytest.mark.parametrize(
    ("kinds", "told"),
    [
        (["empy"], "empy: no kind that can be fixed by itself; did you mean 'empty'?"),
        ("long", "long: no kind that can be fixed by itself; choose of empty, secret, duplicate, control"),
    ],
)
def test_a_kind_that_cannot_be_fixed_is_refused(mixed: Report, kinds: Any, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        mixed.fixed(kinds=kinds)
    assert mixed.changes_said == []


def test_lengths_are_counted_in_equal_steps() -> None:
    assert bins([0, 1, 5, 9], 5) == [(0, 1, 2), (2, 3, 0), (4, 5, 1), (6, 7, 0), (8, 9, 1)]
    assert bins([3], 40) == [(0, 0, 0), (1, 1, 0), (2, 2, 0), (3, 3, 1)]
    assert sum(count for *_, count in bins(list(range(1000)), 32)) == 1000
    assert len(bins(list(range(1000)), 32)) <= 32


def test_the_static_report_stands_in_where_there_are_no_widgets(mixed: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    formatter = DisplayFormatter()
    formatter.active_types = formatter.format_types
    static = formatter.format(mixed)[0]
    assert static["text/plain"] == repr(mixed)
    assert "data:image/png;base64," in static["text/html"]
    assert set(static) == {"text/plain", "text/html"}
    monkeypatch.setattr(frontend, "frontend", lambda: "jupyterlab")
    with published() as bundles:
        formatter.format(mixed)
    view, page = bundles
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"]
    assert page["text/plain"] == static["text/plain"]
    assert static["text/html"] in page["text/html"]


def test_a_terminal_shortens_an_example_that_a_page_shows_whole() -> None:
    answer = f"begins {'word ' * 50}ends"
    rows = [*sound(), {"prompt": "What is long?", "completion": answer}]
    report = check([*rows, dict(rows[-1])], model=NOWHERE)
    report.fixed("clean")
    for shown in (repr(report), report._repr_html_()):
        assert "begins word" in shown
    assert "word ends" in Balanced(report._repr_html_()).words
    assert "word ends" not in repr(report)
