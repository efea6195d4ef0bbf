from __future__ import annotations

import pytest

from peft_nb.data.splits import split

# ---- split -------------------------------------------------------------------------------------


def test_a_split_is_the_same_on_every_machine() -> None:
    assert split(10, 0.3, seed=42) == ([0, 2, 3, 4, 5, 6, 8], [1, 7, 9])


@pytest.mark.parametrize(
    ("rows", "fraction", "held"),
    [
        (10, 0.1, 1),
        (10, 0, 0),
        (1, 0.5, 0),
        (2, 0.01, 1),
        (2, 0.5, 1),
        (3, 1.0, 2),
        (0, 0.5, 0),
        (1000, 0.25, 250),
    ],
)
def test_a_split_sets_aside_the_share_asked_for(rows: int, fraction: float, held: int) -> None:
    train, evaluation = split(rows, fraction, seed=1)
    assert len(evaluation) == held
    assert sorted(train + evaluation) == list(range(rows))
    assert (train, evaluation) == (sorted(train), sorted(evaluation))


def test_another_seed_splits_otherwise() -> None:
    assert split(1000, 0.1, seed=1) != split(1000, 0.1, seed=2)
