from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import peft_nb
from peft_nb import Run
from peft_nb.data.examples import Example
from peft_nb.data.kept import kept
from peft_nb.errors import RunError
from peft_nb.runs import interference


def loss(model: Any, example: Example) -> float:
    """What transformers says of an example's supervised tokens, summed."""
    ids = torch.tensor([list(example.ids)])
    labels = torch.tensor([[id if kept else -100 for id, kept in zip(example.ids, example.supervised, strict=True)]])
    with torch.inference_mode():
        return float(model(input_ids=ids, labels=labels).loss) * example.targets


@pytest.fixture(scope="module")
def board(kinds: dict[str, Run], encoder: Path) -> peft_nb.Switchboard:
    return peft_nb.Switchboard(*kinds.values(), encoder=str(encoder), with_base=False)


def test_losses_are_those_of_each_adapter_alone(board: peft_nb.Switchboard, kinds: dict[str, Run]) -> None:
    found = pd.DataFrame(
        [("fruit", "a", "fruit", 1.0, 0), ("fruit", "b", "tool", 1.0, 1), ("tool", "c", "base", 1.0, 0)],
        columns=["run", "prompt", "routed", "confidence", "place"],
    )
    table = interference.measure(board, kinds, found)
    sides = kept(kinds["fruit"].folder)
    assert sides
    first, second = sides.held_out[0], sides.held_out[1]
    targets = first.supervised.count(1) + second.supervised.count(1)

    def mean(run: str, example: Example) -> float:
        return loss(kinds[run].model.eval(), example)

    assert table.loc["fruit", "alone"] == pytest.approx(
        (mean("fruit", first) + mean("fruit", second)) / targets, rel=1e-4
    )
    assert table.loc["fruit", "routed"] == pytest.approx(
        (mean("fruit", first) + mean("tool", second)) / targets, rel=1e-4
    )
    assert table.loc["tool", "routed"] == pytest.approx(table.loc["tool", "base"])
    assert list(table["right"]) == [0.5, 0.0]
    assert board.active is None


def test_the_confusion_matrix_counts_runs_by_whom_rows_went_to() -> None:
    found = pd.DataFrame({"run": ["b", "a", "a"], "routed": ["a", "a", "base"]})
    matrix = interference.confusion(found, ["a", "b", "base"])
    assert matrix.to_numpy().tolist() == [[1, 0, 1], [1, 0, 0]]
    assert list(matrix.index) == ["a", "b"]


def test_rows_that_are_gone_are_said(board: peft_nb.Switchboard) -> None:
    with pytest.raises(RunError, match="no run has an evaluation set"):
        interference.routed(board, {}, 5)
