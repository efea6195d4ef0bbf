from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas
import pytest
from test_ui_status import EVIL, Balanced

from peft_nb.errors import DataError, ModelError, SpecError
from peft_nb.ui import progress_bar as module
from peft_nb.ui.check import check
from peft_nb.ui.report import Report
from tests.templates import tokenizer
from tests.test_data_quality_checks import KEY, sound

NOWHERE = "nobody/has-this-model"


def messy() -> pandas.DataFrame:
    rows = sound()
    rows[3]["completion"] = f"{EVIL} anna.berg@example.org"
    rows[4] = {"prompt": EVIL, "completion": None}
    rows[9] = dict(rows[2])
    rows[10]["completion"] = f"api_key = {KEY}"
    return pandas.DataFrame(rows)


@pytest.fixture
def report() -> Report:
    return check(messy(), model=NOWHERE)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder with a tokenizer and no weights: more than is needed."""
    tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def test_text_is_deterministic(report: Report) -> None:
    assert repr(report) == "\n".join(
        [
            "DataFrame, 60 rows; columns prompt, completion → prompt_completion",
            "4 findings: stops training 1, harms the result 3",
            "  stops training    1 row empty where text is needed (4)",
            "                      row 4: column 'completion' is empty",
            "                      → fill or drop them (--fix drops the row)",
            "  harms the result  1 row with keys or passwords (10)",
            "                      row 10: OPENAI_KEY s…",
            "                      → remove them, and revoke what is real (--fix redacts it)",
            "  harms the result  1 row repeating an earlier one (9)",
            f"{'':<22}row 9: repeats row 2: how can i find my parcel parcel: choose find under find-parcel",
            "                      → keep one of each (--fix drops the row)",
            "  harms the result  1 row with personal data (3)",
            "                      row 3: EMAIL a…@e…",
            "                      → redact it, or personal_data: redact (--fix redacts it)",
            f"  note: lengths are estimated, 4 characters a token: the tokenizer of {NOWHERE} is not on this machine",
            *repr(report).split("\n")[15:],
        ]
    )
    assert repr(report).split("\n")[15].startswith("tokens a row (estimated): shortest ")
    assert repr(report).endswith(f"  next  clean = report.fixed()\n        %%peft lora --data clean --model={NOWHERE}")


def test_a_clean_set_says_so_in_one_line() -> None:
    report = check(sound(), model=NOWHERE)
    assert repr(report).split("\n")[1] == "clean: nothing to mend"
    assert "<table" not in report._repr_html_()


def test_html_is_whole_and_what_comes_from_the_data_is_escaped(report: Report) -> None:
    html = report._repr_html_()
    page = Balanced(html)
    assert "<script" not in html
    assert "row 3: EMAIL a…@e…" in page.words
    assert "stops training" in page.words
    assert any(attributes.get("alt", "").startswith("tokens a row (estimated)") for attributes in page.attributes)
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


def test_mending_shows_what_was_changed_and_leaves_the_original(report: Report) -> None:
    before = report.data.copy(deep=True)
    clean = report.fixed("clean")
    assert isinstance(clean, pandas.DataFrame)
    assert len(clean) == 58
    pandas.testing.assert_frame_equal(report.data, before)
    assert "mended: 4 changes, 58 of 60 rows are left in clean" in repr(report)
    assert "row 9: dropped: repeats row 2" in Balanced(report._repr_html_()).words
    assert report.next_steps == [f"%%peft lora --data clean --model={NOWHERE}"]
    assert check(clean, model=NOWHERE).findings == []


def test_json_holds_no_text_of_the_data(report: Report) -> None:
    written = report.to_json()
    told = json.loads(written)
    assert [finding["kind"] for finding in told["findings"]] == ["empty", "secret", "duplicate", "personal"]
    assert told["findings"][2]["rows"] == [9]
    assert {"row": 3, "what": "redacted EMAIL"} in told["changes"]
    assert not [text for text in ("anna", KEY, "alert") if text in written]


def test_held_out_rows_may_be_live(report: Report) -> None:
    found = check(sound(), eval_data=pandas.DataFrame(sound()[7:9]), model=NOWHERE).findings
    assert [(finding.kind, finding.rows) for finding in found] == [("leak", (7, 8))]


def test_mistakes_are_one_line() -> None:
    with pytest.raises(DataError, match="fit no known layout; say which column is which"):
        check([{"x": "1", "y": "2"}])
    with pytest.raises(SpecError, match="max_length: 3 is below"):
        check(sound(), max_length=3)


# ---- tokens ------------------------------------------------------------------------------------


def test_the_tokens_of_a_row(folder: str) -> None:
    report = check([{"prompt": "Where\tis it?", "completion": "It is on <its> way."}], model=folder)
    assert not report.checked.estimated
    shown = report.tokens(0)
    text = repr(shown)
    assert text.startswith(f"row 0: {len(shown.tokens)} tokens, ")
    learned = "".join(token.text for token in shown.tokens if token.supervised)
    assert learned == "It is on <its> way.<|im_end|>"
    assert (
        "".join(token.text for token in shown.tokens if token.special) == "<|im_start|><|im_end|><|im_start|><|im_end|>"
    )
    assert text.count("[") == text.count("]") == 2  # once in the legend
    assert "⇥" in text
    assert "⏎" in text
    html = shown._repr_html_()
    page = Balanced(html)
    assert "<its>" not in html
    assert "<|im_start|>" in page.words
    boxes = [attributes["style"] or "" for attributes in page.attributes if "white-space:pre" in str(attributes)]
    assert sum("underline" in style and "700" in style for style in boxes) == 1 + sum(
        t.supervised for t in shown.tokens
    )


def test_a_cut_row_and_a_part_of_a_character(folder: str) -> None:
    report = check([{"prompt": "a", "completion": "日本 " * 40}], model=folder, max_length=50)
    shown = report.tokens()
    assert len(shown.tokens) == 50
    assert "50 tokens of " in repr(shown)
    assert "\ufffd" not in repr(shown)


def test_labelled_texts_are_only_read(folder: str) -> None:
    shown = check([{"text": "some words", "label": "x"}], model=folder).tokens()
    assert "0 of them trained on" in shown.headline
    assert "its label is learned" in repr(shown)


def test_long_rows_are_shown_in_part(folder: str) -> None:
    shown = check([{"prompt": "a", "completion": "word " * 500}], model=folder).tokens()
    assert "more tokens" in repr(shown)
    assert len(repr(shown)) < 6000


def test_what_cannot_be_shown_is_one_line(folder: str, report: Report) -> None:
    with pytest.raises(ModelError, match=f"tokenizer of {NOWHERE}, which is not on this machine"):
        report.tokens()
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}]
    told = check(rows, model=folder)
    with pytest.raises(DataError, match="row 2: there are 2 rows, numbered from 0"):
        told.tokens(2)
    with pytest.raises(DataError, match=r"row 1 \(counting from 0\): column 'completion' is empty"):
        told.tokens(1)


def test_a_live_pair_lends_its_tokenizer() -> None:
    class Model:
        config = SimpleNamespace(model_type="x")

        def named_modules(self) -> list[Any]:
            return []

        modules = named_modules

    report = check(sound(), model=(Model(), tokenizer()))
    assert report.notes == []
    assert report.tokens(3).tokens
    assert "in memory" not in " ".join(report.next_steps)


# ---- progress ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frontend", "bars"), [("jupyterlab", True), ("notebook-headless", False), ("terminal", False)]
)
def test_bars_are_for_people(monkeypatch: pytest.MonkeyPatch, frontend: str, bars: bool) -> None:
    monkeypatch.setattr(module.frontend, "frontend", lambda: frontend)
    with module.progress_bar() as progress:
        assert (progress is not None) == bars
        if progress:
            progress(0.5, "reading")
            progress(0.1, "counting")


def test_a_method_that_needs_more_rows_says_so() -> None:
    (finding,) = check(sound(60), model=NOWHERE, method="prompt").findings
    assert finding.title == "60 rows, where prompt usually needs 200 (rule of thumb)"
    assert check(sound(60), model=NOWHERE).findings == []
