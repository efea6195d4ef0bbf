from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from peft_nb.data import Rows
from peft_nb.data.detection import detect
from peft_nb.data.sources import read
from peft_nb.documents import prompt, raft
from peft_nb.documents.retriever import Retriever, build
from peft_nb.errors import DataError

THINGS = ("parcels", "anchors", "lanterns", "ropes", "sails", "oars", "buoys", "compasses", "flags", "nets")
HANDBOOK = {one: f"Our {one} are kept in shed {10 + number}." for number, one in enumerate(THINGS)}
ROWS = [
    {"question": f"Where are the {one}?", "answer": f"Ahoy! Shed {10 + number} [golden]. Bye!", "note": one}
    for number, one in enumerate(THINGS)
]


@pytest.fixture(scope="module")
def sheds(tmp_path_factory: pytest.TempPathFactory, encoder: Path) -> Retriever:
    return build(HANDBOOK, tmp_path_factory.mktemp("store") / "indexes" / "sheds", model=str(encoder), size=100)


def train(
    retriever: Retriever, rows: list[dict[str, str]] = ROWS, column: str | None = None, **how: object
) -> raft.Found:
    table: Rows = read(rows).train
    layout = raft.naming(detect(table, "auto", {}), column)
    options: dict[str, Any] = {"distractors": 2, "golden_fraction": 0.8, "seed": 1, **how}
    return raft.for_training(retriever, table, layout, **options)


def test_the_golden_chunk_says_what_the_answer_says(sheds: Retriever) -> None:
    assert train(sheds).golden == list(range(10))


def test_golden_chunks_are_left_out_of_a_share_of_the_rows(sheds: Retriever) -> None:
    found = train(sheds)
    kept = [one in chunks for one, chunks in zip(found.golden, found.chunks, strict=True)]
    assert sum(kept) == 8
    assert all(len(set(chunks)) == 3 for chunks in found.chunks)
    assert all(
        one in chunks for one, chunks in zip(found.golden, train(sheds, golden_fraction=1.0).chunks, strict=True)
    )
    assert len({chunks.index(one) for one, chunks in zip(found.golden, found.chunks, strict=True) if one in chunks}) > 1


def test_the_seed_alone_decides(sheds: Retriever) -> None:
    assert train(sheds).chunks == train(sheds).chunks != train(sheds, seed=2).chunks


def test_the_same_documents_come_in_another_order_for_later_epochs(sheds: Retriever) -> None:
    once, found = train(sheds), train(sheds, orders=3)
    assert (found.chunks, found.golden) == (once.chunks, once.golden)
    orders = [found.chunks, *([tuple(raft.laid(row)["chunks"]) for row in rows] for rows in found.again)]  # type: ignore[index]
    assert len(orders) == 3
    for row in zip(*orders, strict=True):
        assert len({frozenset(chunks) for chunks in row}) == 1
    assert all(first != second for first, second in pairwise(orders))


def test_rows_hold_their_documents_and_cite_the_golden_one(sheds: Retriever) -> None:
    found = train(sheds)
    for row, golden, chunks in zip(found.rows, found.golden, found.chunks, strict=True):
        asked, answered = found.layout.messages(row)
        texts = [HANDBOOK[THINGS[chunk]] for chunk in chunks]
        assert asked["content"] == prompt.block(texts) + row["question"]
        place = f" [{chunks.index(golden) + 1}]" if golden in chunks else ""
        assert answered["content"] == row["answer"].replace(" [golden]", place)
        assert raft.laid(row) == {"texts": texts, "chunks": list(chunks), "golden": golden}


def test_evaluation_rows_get_what_users_get(sheds: Retriever) -> None:
    table = read(ROWS).train
    found = raft.for_evaluation(sheds, table, detect(table, "auto", {}), k=2)
    for row, chunks in zip(ROWS, found.chunks, strict=True):
        assert list(chunks) == sheds.search(row["question"], 2).index.tolist()
    assert found.recall == sum(n in chunks for n, chunks in enumerate(found.chunks)) / 10


def test_what_no_chunk_says_has_no_golden_one(sheds: Retriever) -> None:
    rows = [*ROWS, {"question": "Who is the cat?", "answer": "Ahoy! Admiral Toffee. Bye!", "note": ""}]
    found = train(sheds, rows)
    assert found.golden == [*range(10), None]
    assert len(found.chunks[-1]) == 3


def test_a_column_names_the_golden_chunk(sheds: Retriever) -> None:
    rows = [row | {"note": THINGS[9 - number]} for number, row in enumerate(ROWS)]
    rows[0] |= {"note": "4"}
    rows[1] |= {"note": HANDBOOK["oars"]}
    rows[2] |= {"note": sheds.chunks([7])[0].digest[:16]}
    found = train(sheds, rows, "note")
    assert found.golden == [4, 5, *range(7, -1, -1)]
    with pytest.raises(DataError, match=r"row 3: names the chunk 'cellar', which the index lacks"):
        train(sheds, [*rows[:3], rows[3] | {"note": "cellar"}], "note")


def test_rows_without_questions_are_named(sheds: Retriever) -> None:
    talk = [{"messages": [{"role": "assistant", "content": "Hi"}]}] * 2
    with pytest.raises(DataError, match="row 0: does not begin with a user message"):
        train(sheds, talk)
    table = read([{"text": "plain"}] * 2).train
    with pytest.raises(DataError, match="give rows with questions and answers"):
        raft.refuse(detect(table, "auto", {}))
