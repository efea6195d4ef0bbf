"""Images become the numbers that a model takes; augmentation draws from torch and never while measuring."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy
import torch
from PIL import Image

from peft_nb.data.images.encoding import example
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.evaluation.texts import logits
from peft_nb.training.image_objective import ImageObjective
from tests import images

PREPARE, CPU = Preprocess(0, 24, 32), torch.device("cpu")


class Corner(torch.nn.Module):
    """A model whose logits are the three colours of an image's first pixel."""

    def forward(self, pixel_values: torch.Tensor) -> Any:
        assert pixel_values.shape[1:] == (3, 24, 32)
        return SimpleNamespace(logits=pixel_values[:, :, 0, 0])


def made(roomy: bool = False) -> list[Any]:
    return [example(row["image"], PREPARE, 13, (n % 3,), roomy) for n, row in enumerate(images.rows(5))]


def test_the_model_takes_normalised_colours_in_the_order_of_the_examples() -> None:
    objective = ImageObjective(PREPARE, lambda logits, some: logits.sum())
    for budget in (13, 30, 1000):
        found = logits(Corner().eval(), objective, made(), CPU, budget)
        first = numpy.stack([numpy.asarray(PREPARE.resized(row["image"]))[0, 0] for row in images.rows(5)])
        numpy.testing.assert_allclose(found.numpy(), (first / 255 - PREPARE.mean) / PREPARE.std, rtol=1e-5)
    assert objective.targets(made()) == 5
    scores = objective.scores(Corner().eval(), made(), CPU)
    assert scores.shape == (5, 3)
    assert scores[:, 2].tolist() == [1.0] * 5


def test_training_images_are_drawn_anew_and_alike_from_one_seed() -> None:
    objective = ImageObjective(PREPARE, lambda logits, some: logits.sum(), "strong")
    some = made(roomy=True)

    def seen(training: bool, seed: int) -> torch.Tensor:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return objective.logits(Corner().train(training), some, CPU)

    assert torch.equal(seen(True, 1), seen(True, 1))
    assert not torch.equal(seen(True, 1), seen(True, 2))
    assert torch.equal(seen(False, 1), seen(False, 2))
    plain = ImageObjective(PREPARE, lambda logits, some: logits.sum())
    assert torch.equal(seen(False, 1), plain.logits(Corner().train(), made(), CPU))


def test_a_thumbnail_shows_what_the_model_sees() -> None:
    objective = ImageObjective(PREPARE, lambda logits, some: logits.sum())
    red = example(Image.new("RGB", (50, 50), (255, 0, 0)), PREPARE, 13)
    assert objective.thumbnail(red).startswith("data:image/jpeg;base64,")
    assert str(objective) == "images of one size, plain layers"
