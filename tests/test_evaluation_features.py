from __future__ import annotations

import numpy
import torch

from peft_nb.evaluation.features import AT_ONCE, pooled


def test_places_are_averaged_in_the_order_of_the_inputs_and_rows_have_length_1() -> None:
    made = torch.randn(AT_ONCE + 3, 5, 4)
    found = pooled(lambda some: made[list(some)], range(len(made)))
    wanted = made.mean(1)
    numpy.testing.assert_allclose(found, wanted / wanted.norm(dim=1, keepdim=True), rtol=1e-5)


def test_places_that_are_padding_do_not_count_and_maps_are_read_as_places() -> None:
    made = torch.randn(2, 6, 4)
    found = pooled(lambda some: made[list(some)], [0, 1], [2, 6])
    numpy.testing.assert_allclose(found[0], torch.nn.functional.normalize(made[0, :2].mean(0), dim=0), rtol=1e-5)
    maps = made.mT.reshape(2, 4, 2, 3)
    numpy.testing.assert_allclose(pooled(lambda some: maps[list(some)], [0, 1])[1], found[1], rtol=1e-5)
