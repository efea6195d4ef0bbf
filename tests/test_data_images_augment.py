"""Images are changed at random, within bounds, and alike from the same draws."""

from __future__ import annotations

import random

import numpy
import pytest

from peft_nb.data.images.augment import STRENGTHS, augmented
from peft_nb.data.images.preprocess import Preprocess
from tests.images import drawing

PREPARE = Preprocess(0, 32, 24)


@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_size_is_the_models_and_the_draws_alone_decide(strength: str) -> None:
    image = PREPARE.resized(drawing("cross", 1), roomy=True)
    one, again, other = (augmented(image, PREPARE, strength, random.Random(seed).random) for seed in (1, 1, 2))
    assert one.size == (24, 32)
    assert one.tobytes() == again.tobytes() != other.tobytes()


def test_light_changes_little_and_never_mirrors() -> None:
    image = PREPARE.resized(drawing("square", 1, 80).convert("L").convert("RGB"), roomy=True)
    plain = numpy.asarray(image.resize((24, 32)), "float64")
    spread = {}
    for strength in STRENGTHS:
        draw = random.Random(0).random
        some = [numpy.asarray(augmented(image, PREPARE, strength, draw), "float64") for _ in range(20)]
        spread[strength] = numpy.mean([abs(one - plain).mean() for one in some])
    assert 0 < spread["light"] < spread["strong"]
