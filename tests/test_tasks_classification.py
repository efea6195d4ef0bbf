"""Probabilities in the order of the texts, and scores as scikit-learn counts them."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from peft_nb.data.detection import detect
from peft_nb.data.examples import Example
from peft_nb.data.labels import Classes
from peft_nb.errors import DataError
from peft_nb.evaluation.texts import logits
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS, classification
from peft_nb.training.text_objective import TextObjective

CPU = torch.device("cpu")


def text(*ids: int, labels: tuple[int, ...] = ()) -> Example:
    return Example.whole(ids, labels)


class Echo(torch.nn.Module):
    """A model whose logits are a text's first three tokens."""

    device = CPU

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        return SimpleNamespace(logits=input_ids[:, :3])


def test_probabilities_come_in_the_order_of_the_texts_whatever_the_cut() -> None:
    texts = [text(1, 2, 3), text(3, 2, 1, 9, 9), text(0, 5, 0, 9), text(4, 4, 4)]
    wanted = torch.tensor([[1.0, 2, 3], [3, 2, 1], [0, 5, 0], [4, 4, 4]])
    for budget in (3, 8, 1000):
        found = logits(Echo(), TextObjective(0, lambda logits, texts: logits.sum()), texts, CPU, budget)
        one = classification.probabilities(found, Classes(("a", "b", "c"), False))
        numpy.testing.assert_allclose(one, wanted.softmax(-1).numpy(), rtol=1e-6)
        several = classification.probabilities(found, Classes(("a", "b", "c"), True))
        numpy.testing.assert_allclose(several, wanted.sigmoid().numpy(), rtol=1e-6)


def test_scores_of_one_class_a_text() -> None:
    truth = [text(0, labels=(label,)) for label in (0, 0, 1, 1)]
    found = numpy.eye(4, dtype="float32")[[0, 1, 1, 1]]
    scores = classification.scores(truth, found, Classes(("a", "b", "c", "d"), False))
    assert scores["accuracy"] == 0.75
    assert scores["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)  # c and d occur nowhere and do not count
    assert scores["confusion"] == [[0, 0, 1], [0, 1, 1], [1, 1, 2]]


def test_scores_of_several_classes_a_text() -> None:
    truth = [text(0, labels=labels) for labels in ((0, 1), (), (1,))]
    found = numpy.array([[0.9, 0.8, 0.1], [0.1, 0.2, 0.1], [0.5, 0.1, 0.2]], dtype="float32")
    scores = classification.scores(truth, found, Classes(("a", "b", "c"), True))
    assert scores == {
        "accuracy": pytest.approx(2 / 3),
        "macro_f1": pytest.approx((2 / 3 + 2 / 3) / 2),
        "micro_f1": pytest.approx(4 / 6),
        "class_counts": [[1, 2, 1], [2, 1, 1], [0, 0, 0]],
    }


class Letters:
    pad_token_id = 0

    def __call__(self, texts: Sequence[str], **ignored: Any) -> dict[str, Any]:
        return {"input_ids": [[ord(letter) - ord("a") for letter in one] for one in texts]}


def predict(texts: list[str], names: list[str], *, multi: bool) -> Any:
    facts = {"classes": names, "multi_label": multi, "max_tokens": 8}
    return TASKS["classification"].predict(Echo(), Letters(), texts, facts)


@pytest.mark.parametrize("multi", [False, True])
@pytest.mark.parametrize("budget", [3, 8, 1000])
def test_an_evaluation_tells_loss_and_scores_in_one_pass(multi: bool, budget: int) -> None:
    labels: list[tuple[int, ...]] = [(0, 2), (1,), (), (2,)] if multi else [(2,), (1,), (1,), (0,)]
    texts = [
        text(*ids, labels=own) for ids, own in zip([(1, 2, 3), (3, 9, 1, 9), (0, 5, 0), (4, 1, 4)], labels, strict=True)
    ]
    facts = {"classes": ["a", "b", "c"], "multi_label": multi}
    task = TASKS["classification"]
    objective = TextObjective(0, task.head_loss(facts), metrics=task.head_metrics(facts))
    found = torch.cat([objective.scores(Echo(), micro, CPU) for micro in objective.cut(texts, budget)])
    told = objective.summary(found[:, 3:])
    whole = task.measure(Echo(), objective, texts, CPU, 1000, facts)
    assert told == {name: value for name, value in whole.items() if isinstance(value, float)}
    assert {"accuracy", "macro_f1"} <= told.keys()
    assert found[:, 0].sum().item() == pytest.approx(objective.loss(Echo(), texts, CPU).item())


def test_predictions_name_every_class_and_hide_no_column() -> None:
    table = predict(["abc", "cba"], ["bug", "label", "text"], multi=False)
    assert list(table.columns) == ["text", "label", "probability", "bug", "p(label)", "p(text)"]
    assert table.text.tolist() == ["abc", "cba"]
    assert table.label.tolist() == ["text", "bug"]
    assert table.probability.tolist() == pytest.approx([0.665241] * 2, rel=1e-4)
    assert table[["bug", "p(label)", "p(text)"]].sum(axis=1).tolist() == pytest.approx([1, 1])


def test_predictions_of_several_classes_are_lists() -> None:
    table = predict(["aab", "bab"], ["x", "y", "z"], multi=True)
    assert table.label.tolist() == [["x", "y", "z"], ["x", "y", "z"]]
    assert [len(one) for one in table.probability] == [3, 3]
    none = predict([], ["x", "y", "z"], multi=True)
    assert list(none.columns) == ["text", "label", "probability", "x", "y", "z"]
    assert len(none) == 0


def test_a_labelled_text_is_never_split() -> None:
    spec = RunSpec(data="x", task="classification", too_long="split")
    with pytest.raises(DataError, match=r"^too_long: split .* take truncate or drop$"):
        TASKS["classification"].validate(detect([{"text": "x", "label": "a"}, {"text": "y", "label": "b"}]), spec)
