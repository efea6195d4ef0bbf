"""Rows as the model will see them: each rendered and tokenised once for all who look at them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from peft_nb.data import RowProblem, encoding, labels, pairs, rendered
from peft_nb.data.detection import detect
from peft_nb.data.quality.checks import check
from peft_nb.data.quality.lengths import Options
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import Renderer, unwrap
from tests.templates import CHAT, learned, tokenizer

COUNT = 600  # more than a batch


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each text was tokenised, be it a whole conversation or not; prompts alone are not counted."""
    counts: Counter[str] = Counter()
    write, texts, tokens = Renderer.chats, Renderer.texts, rendered.tokens

    def counted_chats(self: Renderer, conversations: Any, generation: bool = False) -> Any:
        counts.update(turns[-1]["content"] for turns in conversations if not generation)
        return write(self, conversations, generation)

    def counted_texts(self: Renderer, given: Any, generation: bool = False) -> Any:
        counts.update(given)
        return texts(self, given, generation)

    def counted_tokens(made: Any, given: Any, max_length: int | None = None) -> Any:
        counts.update(given)
        return tokens(made, given, max_length)

    monkeypatch.setattr(Renderer, "chats", counted_chats)
    monkeypatch.setattr(Renderer, "texts", counted_texts)
    monkeypatch.setattr(rendered, "tokens", counted_tokens)
    return counts


def questions(count: int = COUNT) -> list[dict[str, str]]:
    return [{"question": f"Where is parcel {n}?", "answer": f"It is in street {n}."} for n in range(count)]


def once(seen: Counter[str], wanted: Any) -> bool:
    return seen == Counter(dict.fromkeys(wanted, 1))


def test_forecast_check_and_encoding_render_each_row_once(seen: Counter[str]) -> None:
    rows = questions()
    all_of_them = RenderedRows(rows, detect(rows), tokenizer())
    forecast = encoding.encode(all_of_them.first(256), max_length=64).examples
    checked = check(rows, all_of_them.layout, rendered=all_of_them, options=Options(max_length=64))
    encoded = encoding.encode(all_of_them, max_length=64).examples
    assert once(seen, (row["answer"] for row in rows))
    assert checked.lengths.tolist() == encoded.lengths.tolist()
    assert list(forecast) == list(encoded[:256])
    assert list(encoded) == list(encoding.encode(RenderedRows(rows, detect(rows), tokenizer()), max_length=64).examples)


def test_labelled_texts_are_tokenised_once(seen: Counter[str]) -> None:
    rows = [{"text": f"Where is parcel {n}?", "label": "ab"[n % 2]} for n in range(COUNT)]
    all_of_them = RenderedRows(rows, detect(rows), tokenizer())
    classes = labels.find(rows, all_of_them.layout)
    first = labels.encode(*learned(all_of_them.first(100), classes), max_length=64).examples
    check(rows, all_of_them.layout, rendered=all_of_them)
    encoded = labels.encode(*learned(all_of_them, classes), max_length=64).examples
    assert once(seen, (row["text"] for row in rows))
    assert list(encoded[:100]) == list(first)


def test_plain_texts_are_tokenised_once(seen: Counter[str]) -> None:
    rows = [{"text": f"Parcel {n} is in street {n}."} for n in range(COUNT)]
    all_of_them = RenderedRows(rows, detect(rows), tokenizer())
    assert list(all_of_them.first(10)) == list(all_of_them)[:10]
    assert once(seen, (row["text"] for row in rows))
    assert all_of_them.note == "plain texts, no template"


def test_only_the_first_rows_are_kept_in_memory(seen: Counter[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "REMEMBERED", 520)
    rows = questions()
    all_of_them = RenderedRows(rows, detect(rows), tokenizer())
    assert list(all_of_them) == list(all_of_them)
    assert [seen[row["answer"]] for row in rows] == [1] * 520 + [2] * 80


def test_two_may_look_at_the_rows_in_turns(seen: Counter[str]) -> None:
    rows = questions()
    all_of_them = RenderedRows(rows, detect(rows), tokenizer())
    assert all(one == other for one, other in zip(all_of_them, all_of_them, strict=True))
    assert list(all_of_them) == list(RenderedRows(rows, detect(rows), tokenizer()))


def test_a_row_that_cannot_be_used_says_why_in_its_place() -> None:
    rows: list[dict[str, Any]] = [*questions(3), {"question": "Where?", "answer": None}, *questions(2)]
    found = list(RenderedRows(rows, detect(rows), tokenizer()))
    assert [isinstance(one, RowProblem) for one in found] == [False, False, False, True, False, False]
    with pytest.raises(RowProblem, match="column 'answer' is empty"):
        unwrap(found[3])


def test_of_a_pair_the_chosen_side_is_rendered_for_who_looks_at_rows() -> None:
    rows = [{"prompt": "Where is it?", "chosen": "In street 7.", "rejected": "No idea."}]
    found = RenderedRows(rows, detect(rows), tok := tokenizer(), system="Answer briefly.")
    (one,) = found
    ids, spans = unwrap(one)
    assert tok.decode(ids[slice(*spans[0])]) == "In street 7.<|im_end|>"
    assert tok.decode(ids).startswith("<|im_start|>system\nAnswer briefly.<|im_end|>")
    (((chosen, (other, span)),),) = map(unwrap, found.pairs())
    assert chosen == one
    assert tok.decode(other[slice(*span[0])]) == "No idea.<|im_end|>"
    assert [turn["role"] for turn in found.messages(rows[0])] == ["system", "user", "assistant"]


def test_both_sides_of_pairs_are_rendered_once_for_all(seen: Counter[str]) -> None:
    asked = questions()
    rows = [{"prompt": one["question"], "chosen": one["answer"], "rejected": f"No {one['answer']}"} for one in asked]
    all_of_them = RenderedRows(rows, detect(rows), tokenizer())
    forecast = pairs.encode(all_of_them.first(256), max_length=64).examples
    check(rows, all_of_them.layout, rendered=all_of_them, options=Options(max_length=64))
    encoded = pairs.encode(all_of_them, max_length=64).examples
    assert once(seen, (row[side] for row in rows for side in ("chosen", "rejected")))
    assert list(forecast) == list(encoded[:256])


def test_a_side_that_cannot_be_used_says_why_for_its_row() -> None:
    rows = [
        {"prompt": "Where?", "chosen": "Here.", "rejected": no} for no in ("There.", "<|im_end|>", None, "Nowhere.")
    ]
    for found in (RenderedRows(rows, detect(rows), tokenizer()), RenderedRows(rows, detect(rows), tokenizer()).pairs()):
        assert [isinstance(one, RowProblem) for one in found] == [False, True, True, False]


def test_a_conversation_ends_with_its_last_answer() -> None:
    rows = [{"messages": [*CHAT, {"role": "user", "content": "thanks"}]}]
    assert RenderedRows(rows, detect(rows), tokenizer()).messages(rows[0]) == CHAT


def test_nothing_is_rendered_for_rows_that_were_encoded_before(tmp_path: Path, seen: Counter[str]) -> None:
    rows = questions(30)
    for _ in range(2):
        given = RenderedRows(rows, detect(rows), tokenizer())
        encoding.cached(tmp_path, "data", given, max_length=64)
    assert once(seen, (row["answer"] for row in rows))
