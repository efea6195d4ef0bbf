"""The rows of a run as work: how many optimizer steps, how long their rows are, how they fall into micro-batches."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any

from peft_nb.data.rendered import RenderedRows
from peft_nb.data.table import Table
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS, Facts

SAMPLE = 256  # rows that are tokenised
STEPS = 64  # optimizer steps that are laid out to see how large their micro-batches get


@dataclass(frozen=True)
class Load:
    """Work: tokens computed, positions whose scores are computed, and those of them that are trained on."""

    tokens: float = 0
    positions: float = 0
    predicted: float = 0

    def __add__(self, other: Load) -> Load:
        return Load(self.tokens + other.tokens, self.positions + other.positions, self.predicted + other.predicted)

    def over(self, parts: float) -> Load:
        """A part of it."""
        return Load(self.tokens / parts, self.positions / parts, self.predicted / parts)


@dataclass
class Workload:
    """What the rows of a spec make a model compute.

    Attributes
    ----------
    spec : RunSpec
        What to do.
    table : Table
        Its rows.
    facts : dict
        What its task found out about them.
    rendered : RenderedRows
        Its training rows as the model will see them.
    virtual : int
        Tokens that the method puts before every row.
    objective : Objective
        How a micro-batch becomes a loss.
    budget : int
        Most tokens in a micro-batch.
    """

    spec: RunSpec
    table: Table
    facts: Facts
    rendered: RenderedRows
    virtual: int
    objective: Any
    budget: int

    @cached_property
    def encoded(self) -> Sequence[Any]:
        """The first rows as examples."""
        return self._encode(self.rendered, "row")

    def under(self, budget: int) -> Workload:
        """The same rows, tokenised once, in micro-batches of another size."""
        other = replace(self, budget=budget)
        other.encoded = self.encoded
        return other

    def _encode(self, rendered: RenderedRows, name: str) -> Sequence[Any]:
        task = TASKS[self.spec.task]
        try:
            return list(task.encode(rendered.first(SAMPLE), self.spec, self.facts, row_name=name)[1].examples)
        except DataError:  # which counts the bad rows among those it was given
            return list(task.encode(rendered, self.spec, self.facts, row_name=name)[1].examples)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        task = TASKS[self.spec.task]
        return max(sequence.cost for one in self.encoded for sequence in task.sequences(one))

    @property
    def examples(self) -> int:
        """Number of training examples."""
        per_row = len(self.encoded) / min(SAMPLE, len(self.table.rows))
        share = 1 - self.spec.eval_fraction if self.table.eval_rows is None else 1
        return max(1, round(len(self.table.rows) * per_row * share))

    @property
    def batch(self) -> int:
        """Examples of an optimizer step."""
        return self.spec.effective_batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the rows."""
        return math.ceil(self.examples / self.batch)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.spec.max_steps or math.ceil(self.spec.epochs * self.steps_per_epoch)

    def micro(self, examples: Sequence[Any]) -> list[list[Any]]:
        """Cut rows into micro-batches as the engine does, and give the sequences of each."""
        return [
            [sequence for one in micro for sequence in getattr(one, "sequences", (one,))]
            for micro in self.objective.cut(examples, self.budget)
        ]

    def load(self, micro: Sequence[Any]) -> Load:
        """What a micro-batch makes the model compute."""
        from peft_nb.training import prefix_tree
        from peft_nb.training.packing import supervised_targets

        lengths = [one.cost for one in micro]
        predicted = sum(len(supervised_targets(one)) for one in micro) if TASKS[self.spec.task].tokenwise else 0
        if self.objective.padded:
            width = max(lengths) + self.virtual
            return Load(len(micro) * width, len(micro) * width, predicted)
        laid_out = prefix_tree.tokens(micro) if self.objective.share_prefix else sum(lengths)
        return Load(laid_out, predicted, predicted)

    @cached_property
    def drawn(self) -> list[list[Any]]:
        """Optimizer steps over the examples at hand, each epoch shuffled anew."""
        steps, draw = max(1, min(STEPS, 4096 // self.batch, self.steps)), random.Random(self.spec.seed)
        if self.steps_per_epoch == 1:
            return [draw.sample(self.encoded, min(self.batch, len(self.encoded)))]
        order: list[Any] = []
        while len(order) < steps * self.batch:
            order += draw.sample(self.encoded, len(self.encoded))
        return [order[start : start + self.batch] for start in range(0, steps * self.batch, self.batch)]

    @cached_property
    def cut(self) -> list[list[list[Any]]]:
        """Each of those steps in micro-batches."""
        return [self.micro(step) for step in self.drawn]

    @cached_property
    def laid_out(self) -> list[Load]:
        """What each of those steps computes."""
        return [sum(map(self.load, step), Load()) for step in self.cut]

    def segments(self, micro: Sequence[Any]) -> set[Any]:
        """The different shapes in which attention meets a micro-batch."""
        from peft_nb.training import prefix_tree

        if self.objective.padded:
            return {(len(micro), max(one.cost for one in micro))}
        if not self.objective.share_prefix:
            return {one.cost for one in micro}
        return {(node.start, node.stop) for node in prefix_tree.tree(micro)[0]}

    @cached_property
    def variety(self) -> tuple[int, int]:
        """How many sizes of micro-batches, and of their segments, the run meets in the steps that are laid out."""
        shown = [micro for step in self.cut for micro in step]
        sizes, segments = {self.load(micro).tokens for micro in shown}, set[Any]().union(*map(self.segments, shown))
        if TASKS[self.spec.task].written(self.spec):  # answers are of any length, so that no size comes again
            return round(self.steps * len(shown) / len(self.cut)), len(segments)
        return len(sizes), len(segments)

    @property
    def mean(self) -> Load:
        """What an optimizer step computes on average."""
        return sum(self.laid_out, Load()).over(len(self.laid_out))

    @cached_property
    def largest(self) -> Load:
        """The micro-batch that computes most."""
        return max((self.load(micro) for step in self.cut for micro in step), key=lambda one: one.tokens)

    @property
    def eval_rows(self) -> float:
        """Rows of the evaluation set."""
        own = self.table.eval_rows
        return len(self.table.rows) * self.spec.eval_fraction if own is None else len(own)

    @property
    def width(self) -> float:
        """Tokens of the longest prompt of a step, on average."""
        task = TASKS[self.spec.task]
        return fmean(max(one.cost for example in step for one in task.sequences(example)) for step in self.drawn)

    @cached_property
    def aside(self) -> tuple[list[Load], float]:
        """Micro-batches of the evaluation set, and how many times as many an evaluation has."""
        rows, count = self.encoded, self.eval_rows
        if self.table.eval_rows is not None:
            held_out = self.table.rendered_eval(self.rendered.tokenizer, self.spec)
            rows = self._encode(held_out, "evaluation row")
        some = rows[: round(count)]
        return [self.load(micro) for micro in self.micro(some)], count / max(1, len(some))

    @property
    def held_out(self) -> Load:
        """What one evaluation computes."""
        loads, times = self.aside
        return sum(loads, Load()).over(1 / times) if loads else Load()

    @property
    def widest_held_out(self) -> Load:
        """The micro-batch of an evaluation that computes most."""
        return max(self.aside[0], key=lambda one: one.tokens, default=Load())


def shortened(rows: Sequence[Any], tokens: int) -> list[Any]:
    """The first rows of a micro-batch that together have about so many tokens, at least one."""
    found: list[Any] = []
    for row in rows:
        if found and tokens < row.cost:
            break
        found.append(row)
        tokens -= row.cost
    return found
