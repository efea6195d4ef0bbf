from __future__ import annotations

import numpy
import torch

from peft_nb.evaluation.probes import leaks
from peft_nb.evaluation.probes.leaks import Read
from peft_nb.training.objectives import Padded
from tests import tiny


def read(losses: list[float], recited: list[bool] | None = None) -> Read:
    return Read(numpy.array(losses), numpy.array(recited or [False] * len(losses)))


def test_rows_are_memorized_that_the_base_does_not_say_itself() -> None:
    adapter, base = (
        read([0.0] * 5, [True, True, True, False, True]),
        read([1.0] * 5, [False, True, False, False, False]),
    )
    held_out = read([1.0, 1.0], [True, False])
    found = leaks.memorized([9, 9, 3, 20, 8], adapter, base, held_out, lambda place: f"row {place}")
    assert found.value == 2 / 4  # the third is short, the second the base says too
    assert found.low < 0.5 < found.high
    assert found.examples == ("row 0", "row 4")
    assert "of evaluation rows 50%" in found.what
    none = leaks.memorized([2], read([0.0], [True]), read([0.0]), held_out, str)
    assert (none.value, none.low, none.high, none.rows) == (0.0, 0.0, 1.0, 0)


def test_the_loss_tells_members_as_often_as_it_is_lower() -> None:
    found = leaks.membership(read([1.0, 2.0]), read([2.0, 3.0]), read([1.0, 1.0]), read([1.0, 1.0]))
    assert found.value == (2 + 1.5) / 4
    assert found.base == 0.5
    draw = numpy.random.default_rng(0)
    same, other = (draw.normal(size=200).tolist() for _ in range(2))
    chance = leaks.membership(read(same), read(other), read(same), read(other))
    assert chance.low < 0.5 < chance.high
    assert not chance.clear
    told = leaks.membership(read([one - 1 for one in same]), read(other), read(same), read(other))
    assert told.value > 0.7
    assert told.clear
    easier = read([one - 1 for one in same])  # rows that the base itself finds easier say nothing of the training
    assert not leaks.membership(easier, read(other), easier, read(other)).clear


def test_reciting_is_what_greedy_decoding_says() -> None:
    model = tiny.with_lora(tiny.base("llama")).eval()
    prompt = [5, 9, 14, 3]
    with torch.no_grad():
        said = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=9, do_sample=False, eos_token_id=None)
    ids = said[0].tolist()
    right = tiny.Tokens(ids, [False] * 4 + [True] * 9)
    wrong = tiny.Tokens([*ids[:-1], (ids[-1] + 1) % 80], right.supervised)
    found = leaks.read(model, Padded(0), [right, wrong])
    assert found.recited.tolist() == [True, False]
    assert found.losses[0] < found.losses[1]


def test_no_more_rows_are_read_than_needed() -> None:
    assert leaks.some(3) == [0, 1, 2]
    assert len({*leaks.some(1_000)}) == 200
    assert leaks.some(1_000) == sorted(leaks.some(1_000))
