from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.data.detection import detect
from peft_nb.errors import DataError, ModelError
from peft_nb.spec import RunSpec
from peft_nb.ui.check import check
from peft_nb.ui.tokens import Token, TokenView, of_row
from tests.templates import tokenizer
from tests.test_data_quality_checks import sound
from tests.test_ui_status import Balanced

NOWHERE = "nobody/has-this-model"


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A folder with a tokenizer and no weights: more than is needed."""
    tokenizer().save_pretrained(tmp_path)
    return str(tmp_path)


def test_white_space_and_what_cannot_be_seen_have_signs() -> None:
    assert Token(" a\n\u200b", False, False).visible == "·a⏎⟨200B⟩"
    assert Token("<|im_end|>", False, True).visible == "<|im_end|>"


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
    assert shown.headline == f"row 0: {len(shown.tokens)} tokens, label: x"
    assert "the loss is that of its label" in repr(shown)
    assert "label: &lt;b&gt;, x" in check([{"text": "a", "label": ["<b>", "x"]}], model=folder).tokens()._repr_html_()


def test_a_pair_is_shown_with_its_prompt_once_and_both_answers(folder: str) -> None:
    rows = [{"prompt": "Is it <b>here</b>?", "chosen": "Yes, <it> is.", "rejected": "Yes, or not."}]
    shown = check(rows, model=folder).tokens()
    prompt, chosen, rejected = shown.parts.values()
    assert [name.partition(",")[0] for name in shown.parts] == ["prompt", "chosen", "rejected"]
    assert "".join(token.text for token in prompt).endswith("Is it <b>here</b>?<|im_end|>\n<|im_start|>assistant\n")
    assert not any(token.supervised for token in prompt)
    assert [token.text for token in chosen if not token.supervised] == []
    assert "".join(token.text for token in chosen) == "Yes, <it> is.<|im_end|>"
    assert "".join(token.text for token in rejected) == "Yes, or not.<|im_end|>"
    assert prompt + rejected == shown.rejected
    counts = f"prompt {len(prompt)} tokens, chosen {len(chosen)} in the loss, rejected {len(rejected)} in the loss"
    assert shown.headline == f"row 0: {counts}"
    text, html = repr(shown), shown._repr_html_()
    Balanced(html)
    assert text.count("prompt, the same for both: ") == text.count("<|im_start|>|assistant") == 1
    assert "\nrejected: [Y|e|s" in text
    assert "<b>" not in html
    assert "<it>" not in html
    assert html.count("&lt;|im_start|&gt;") == 2  # of the user and of the assistant, once for both sequences


def test_a_pair_that_is_cut_says_which_side(folder: str) -> None:
    rows = [{"prompt": "a", "chosen": "yes", "rejected": "no " * 40}]
    shown = check(rows, model=folder, max_length=60).tokens()
    assert len(shown.rejected) == 60
    assert shown.headline.endswith(f"of {shown.rejected_whole}, the rest is over max_length")
    assert " of " not in shown.headline.partition(", rejected ")[0]


def test_a_rated_answer_says_how_it_is_rated() -> None:
    rows = [{"prompt": "a", "completion": "b", "label": True}, {"prompt": "a", "completion": "c", "label": False}]
    view = TokenView(0, [Token("a", False, False), Token("b", True, False)], 2, "note", "desirable")
    assert view.headline == "row 0: 2 tokens, 1 in the loss, rated desirable"
    told = of_row(0, rows, detect(rows), tokenizer(), RunSpec(data="rows"))
    assert told.headline == f"row 0: {len(told.tokens)} tokens, 2 in the loss, rated desirable"


def test_long_rows_are_shown_in_part(folder: str) -> None:
    shown = check([{"prompt": "a", "completion": "word " * 500}], model=folder).tokens()
    assert "more tokens" in repr(shown)
    assert len(repr(shown)) < 6000


def test_what_cannot_be_shown_is_one_line(folder: str) -> None:
    with pytest.raises(ModelError, match=f"tokenizer of {NOWHERE}, which is not on this machine"):
        check(sound(), model=NOWHERE).tokens()
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": None}]
    told = check(rows, model=folder)
    with pytest.raises(DataError, match="row 2: there are 2 rows, numbered from 0"):
        told.tokens(2)
    with pytest.raises(DataError, match=r"row 1 \(counting from 0\): column 'completion' is empty"):
        told.tokens(1)
