from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from peft_nb.data import table as tables
from peft_nb.planning.workload import SAMPLE, Load, Workload, shortened
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS
from peft_nb.training.objectives import Padded, PaddingFree
from peft_nb.training.packing import micro_batches, pack, pad, plan
from tests.tiny import Tokens, examples

Make = Callable[..., Workload]


@pytest.fixture(scope="module")
def make(base: Path, spec: Callable[..., RunSpec], rows: list[dict[str, str]]) -> Make:
    """Lay out the usual rows, or others."""
    tokenizer = AutoTokenizer.from_pretrained(base)

    def make(
        data: Any = rows,
        *,
        eval_data: Any = None,
        objective: Any = None,
        virtual: int = 0,
        budget: int = 64,
        **fields: Any,
    ) -> Workload:
        described = spec(**({} if eval_data is None else {"eval_data": "(apart)"}), **fields)
        table = tables.read(described, data, eval_data)
        rendered = table.rendered(tokenizer, described)
        return Workload(described, table, {}, rendered, virtual, objective or Padded(0), budget)

    return make


def test_loads_add_up_and_are_shared_out() -> None:
    assert sum([Load(1, 2, 3), Load(10, 20, 30)], Load()) == Load(11, 22, 33)
    assert Load(10, 20, 30).over(4) == Load(2.5, 5, 7.5)


def test_rows_are_cut_where_the_tokens_end_but_never_to_nothing() -> None:
    some = [Tokens([1] * length, [True] * length) for length in (5, 3, 4)]
    assert [len(shortened(some, tokens)) for tokens in (1, 5, 7, 8, 11, 12, 99)] == [1, 1, 1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 1.0},
        {"epochs": 2.5, "batch_size": 4},
        {"epochs": 0.1},
        {"batch_size": 3, "gradient_accumulation_steps": 2, "epochs": 3},
        {"batch_size": 100, "epochs": 2},
    ],
    ids=str,
)
def test_there_are_as_many_steps_as_the_run_takes(make: Make, fields: dict[str, Any]) -> None:
    work = make(**{"max_steps": None, "eval_fraction": 2 / 23, **fields})
    assert work.examples == 21
    assert work.steps == len(plan(21, work.batch, 0, work.spec.epochs))
    assert make(max_steps=7).steps == 7


def test_of_a_large_table_only_the_first_rows_are_tokenised(make: Make, rows: list[dict[str, str]]) -> None:
    many = [*rows] * 20
    work = make(many, eval_fraction=0)
    assert len(work.encoded) == SAMPLE < len(many) == work.examples
    assert work.longest == max(one.cost for one in make(rows).encoded)
    assert make(many, eval_data=rows).examples == len(many)


def test_rows_that_are_split_are_counted_by_their_parts(make: Make) -> None:
    data = [{"text": "one two three four five six seven eight " * 20}] * 300
    whole, parts = (make(data, too_long=how, max_length=20, eval_fraction=0) for how in ("truncate", "split"))
    assert whole.examples == 300
    assert parts.examples == 300 * len(parts.encoded) / SAMPLE
    assert parts.examples > 600
    assert parts.longest <= 20


def test_a_padded_load_is_the_tensor_that_is_computed() -> None:
    some = examples(5)
    work = Workload(RunSpec(data="rows"), None, {}, None, 7, Padded(0), 64)  # type: ignore[arg-type]
    batch = pad(some, 0)
    width = batch["input_ids"].shape[1] + 7  # virtual tokens stand before the text
    assert work.load(some) == Load(5 * width, 5 * width, int((batch["labels"] >= 0).sum()))


@pytest.mark.parametrize("prefix", [0, 12])
@pytest.mark.parametrize("shared", [True, False])
def test_a_padding_free_load_is_the_row_that_is_computed(prefix: int, shared: bool) -> None:
    some = examples(5, prefix=prefix)
    work = Workload(RunSpec(data="rows"), None, {}, None, 0, PaddingFree(shared), 64)  # type: ignore[arg-type]
    row = pack(some, shared)
    assert (max(row.parents) >= 0) == (shared and prefix > 0)
    assert work.load(some) == Load(row.input_ids.numel(), row.targets.numel(), row.targets.numel())
    targets = len(pack(some[:1], shared).targets)
    assert work.load(some[:1]) == Load(some[0].cost, targets, targets)


def test_the_mean_step_and_the_largest_micro_batch_are_those_laid_out(make: Make) -> None:
    work = make(batch_size=5, budget=150, max_steps=4)
    drawn = [one.ids.tobytes() for step in work.drawn for one in step]
    assert len({*drawn}) == 20
    assert {*drawn} < {one.ids.tobytes() for one in work.encoded}
    assert {len(step) for step in work.drawn} == {5}
    cut = [micro_batches(step, 150, True) for step in work.drawn]
    sizes = [[len(micro) * max(one.cost for one in micro) for micro in step] for step in cut]
    assert max(map(len, cut)) > 1
    assert work.largest.tokens == max(max(step) for step in sizes)
    assert work.mean.tokens == pytest.approx(sum(map(sum, sizes)) / len(sizes))


def test_each_epoch_is_shuffled_anew(make: Make) -> None:
    steps = [[one.ids.tobytes() for one in step] for step in make(batch_size=11, max_steps=4).drawn]
    assert len(steps) == 4
    assert len({*map(tuple, steps)}) == 4
    assert len({*steps[0], *steps[1]}) == 22


def test_no_size_of_answers_comes_again(make: Make) -> None:
    fields = {"task": "grpo", "reward": "length", "num_generations": 4, "max_completion_length": 5}
    objective = TASKS["grpo"].preference(PaddingFree(True), RunSpec(data="x", **fields))
    work = make(objective=objective, batch_size=1, budget=10_000, max_steps=6, **fields)
    assert work.variety[0] == 6


def test_sizes_that_come_again_are_met_once(make: Make) -> None:
    work = make(batch_size=1, budget=150, objective=PaddingFree(False), max_steps=6)
    lengths = {one.cost for (one,) in work.drawn[:6]}
    assert work.variety == (len(lengths), len(lengths))
    padded = make(batch_size=5, budget=10_000, max_steps=2)
    widths = {max(one.cost for one in step) for step in padded.drawn[:2]}
    assert padded.variety == (len(widths), len(widths))


def test_segments_of_a_shared_prefix_differ_by_where_they_begin_and_end() -> None:
    some = [
        Tokens([*range(10), *([20 + row] * length)], [True] * (10 + length)) for row, length in enumerate((3, 3, 4))
    ]
    work = Workload(RunSpec(data="rows"), None, {}, None, 0, PaddingFree(True), 64)  # type: ignore[arg-type]
    assert work.segments(some) == {(0, 10), (10, 13), (10, 14)}


def test_what_is_held_out_is_counted_once_an_evaluation(make: Make, rows: list[dict[str, str]]) -> None:
    assert make(eval_fraction=0).held_out == make(eval_fraction=0).widest_held_out == Load()
    work = make(eval_fraction=4 / 23, budget=10_000)
    assert work.held_out == work.load(work.encoded[:4]) == work.widest_held_out
    apart = make(eval_data=rows[:3], budget=10_000)
    assert apart.held_out == apart.load(apart.encoded[:3])
    many = make(eval_data=rows * 20, budget=1)  # more than are tokenised: the rest is like them
    assert many.held_out.tokens == pytest.approx(sum(one.cost for one in make(rows * 20).encoded) * 460 / SAMPLE)
    assert many.widest_held_out.tokens == many.longest
