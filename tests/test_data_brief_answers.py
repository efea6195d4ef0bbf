"""The pairs and rated answers of the project's own: same facts, brief against long-winded."""

from __future__ import annotations

import re
from collections import Counter

from peft_nb.data import brief_answers

PAIRS, RATED = brief_answers.load(), brief_answers.load_rated()["train"]
TRAIN, EVAL = PAIRS["train"], PAIRS["eval"]


def words(text: str) -> list[str]:
    return re.findall(r"[\w.,:'-]*\w", text.casefold())


def test_counts() -> None:
    assert (len(TRAIN), len(EVAL), len(RATED)) == (332, 60, 120)
    assert Counter(row["label"] for row in RATED) == {True: 60, False: 60}


def test_columns() -> None:
    assert {tuple(row) for row in TRAIN + EVAL} == {("prompt", "chosen", "rejected")}
    assert {tuple(row) for row in RATED} == {("prompt", "completion", "label")}
    texts = [text for row in TRAIN + EVAL + RATED for text in row.values() if isinstance(text, str)]
    assert all(text and text == text.strip() and "\n" not in text for text in texts)


def test_no_prompt_and_no_answer_comes_twice() -> None:
    for role in ("prompt", "chosen", "rejected"):
        assert len({tuple(words(row[role])) for row in TRAIN + EVAL}) == len(TRAIN) + len(EVAL)
    assert len({row["prompt"] for row in RATED}) == len(RATED)


def test_held_out_prompts_are_nowhere_trained_on() -> None:
    held = {row["prompt"] for row in EVAL}
    assert held.isdisjoint(row["prompt"] for row in TRAIN + RATED)
    close = [
        (one["prompt"], other["prompt"])
        for one in EVAL
        for other in TRAIN
        for a, b in [({*words(one["prompt"])}, {*words(other["prompt"])})]
        if len(a & b) / len(a | b) >= 0.8
    ]
    assert close == []


def test_the_long_answer_holds_the_words_of_the_brief_one_and_several_times_as_many() -> None:
    for row in TRAIN + EVAL:
        brief, long = words(row["chosen"]), words(row["rejected"])
        assert 4 <= len(brief) <= 15, row
        assert 33 <= len(long) <= 62, row
        assert len(row["prompt"].split()) < 30, row
        assert " ".join(brief) in " ".join(long)


def test_rated_answers_are_good_where_they_are_brief() -> None:
    assert all((len(words(row["completion"])) <= 15) is row["label"] for row in RATED)


def test_no_phrase_gives_the_long_answers_away() -> None:
    said = [row["rejected"] for row in TRAIN]
    sentences = Counter(sentence for text in said for sentence in {*re.split(r"(?<=[.!?]) ", text)})
    beginnings = Counter(tuple(text.split()[:4]) for text in said)
    assert max(sentences.values()) < 0.06 * len(said)
    assert max(beginnings.values()) < 0.1 * len(said)
