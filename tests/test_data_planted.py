"""Detectors on the corpora of planted problems: benchmarks/data.py at a size that is quick."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("presidio_analyzer")
sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import data_checks
import planted

EACH = 12
CORPUS = planted.chats(EACH)
SCORES = {score.kind: score for score in data_checks.measure(EACH, seed=0)}


@pytest.mark.parametrize("kind", [*planted.KINDS, "unknown_label"])
def test_recall_and_false_alarms(kind: str) -> None:
    score = SCORES[kind]
    assert score.planted == EACH
    assert score.recall >= 0.95
    assert score.false_alarms <= 0.01


def test_every_kind_has_rows_of_its_own() -> None:
    assert set(CORPUS.problems) == set(planted.KINDS)
    numbers = [number for kind, rows in CORPUS.problems.items() if kind != "leak" for number in rows]
    assert len(numbers) == len(set(numbers)) < len(CORPUS.rows) * 0.6


def test_same_seed_same_corpus() -> None:
    assert planted.chats(each=2) == planted.chats(each=2) != planted.chats(each=2, seed=1)


def test_labels() -> None:
    table = planted.labelled(each=20)
    known = {row["label"] for row in table.rows}
    assert {number for number, row in enumerate(table.evaluation) if row["label"] not in known} == table.unknown
    counts = [row["label"] for row in table.rows]
    assert counts.count(table.rare) * 10 < min(counts.count(label) for label in known - {table.rare})


def test_the_table_names_every_score() -> None:
    lines = data_checks.table(list(SCORES.values())).splitlines()
    assert len(lines) == 2 + len(SCORES)
    assert f"| empty | {EACH} | 100.0% |" in lines[2]
