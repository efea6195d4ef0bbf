"""The rows of a run as work: how many optimizer steps, how long their rows are, how they fall into micro-batches."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from peft_nb.data import Rows, detection, encoding, labels, layouts, sources
from peft_nb.data.labels import Classes
from peft_nb.data.rendered import RenderedRows
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec

SAMPLE = 256  # rows that are tokenised
STEPS = 64  # optimizer steps that are laid out to see how large their micro-batches get


@dataclass(frozen=True)
class Table:
    """The rows of a run, recognised.

    Attributes
    ----------
    rows, held_out : sequence of mapping
        Training rows; rows of ``eval_data``, or None where a share of the training rows is set aside.
    layout, held_layout : Layout
        What their columns mean.
    classes : Classes
        What a text can be, in a run that classifies.
    """

    rows: Rows
    held_out: Rows | None
    layout: layouts.Layout
    held_layout: layouts.Layout
    classes: Classes

    @classmethod
    def read(cls, spec: RunSpec, data: Any = None, namespace: Mapping[str, Any] | None = None) -> Table:
        """Find and recognise the rows of a spec; parameters as for :func:`peft_nb.planning.estimate.estimate`."""
        source = sources.read(spec.data if data is None else data, namespace)
        held_out = source.eval if spec.eval_data is None else sources.read(spec.eval_data, namespace).train
        return cls.of(spec, source.train, held_out)

    @classmethod
    def of(cls, spec: RunSpec, rows: Rows, held_out: Rows | None) -> Table:
        """Recognise the rows of a spec."""
        layout = held_layout = detection.detect(rows, spec.format, spec.columns)
        if held_out is not None:
            held_layout = detection.detect(held_out, spec.format, spec.columns)
        labels.check_task(spec.task, layout, spec.too_long)
        classes = labels.find(rows, layout) if spec.task == "classification" else Classes((), False)
        return cls(rows, held_out, layout, held_layout, classes)


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
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's.
    places : int or None
        Positions that the model has.
    virtual : int
        Tokens that the method puts before every row.
    objective : Objective
        How a micro-batch becomes a loss.
    budget : int
        Most tokens in a micro-batch.
    """

    spec: RunSpec
    table: Table
    tokenizer: Any
    places: int | None
    virtual: int
    objective: Any
    budget: int

    @cached_property
    def encoded(self) -> Sequence[Any]:
        """The first rows as examples."""
        return self._encode(self.table.rows, self.table.layout, "row")

    def _encode(self, rows: Rows, layout: layouts.Layout, name: str) -> Sequence[Any]:
        try:
            return self._tokens([*rows[:SAMPLE]], layout, name)
        except DataError:  # which counts the bad rows among those it was given
            return self._tokens(rows, layout, name)

    def _tokens(self, rows: Sequence[Mapping[str, Any]], layout: layouts.Layout, name: str) -> Sequence[Any]:
        spec, tokenizer = self.spec, self.tokenizer
        options: dict[str, Any] = {"too_long": spec.too_long, "row_name": name}
        rendered = RenderedRows(rows, layout, tokenizer, loss_on=spec.loss_on, system=spec.system)
        if spec.task == "classification":
            longest = min(spec.max_length, tokenizer.model_max_length, self.places or spec.max_length)
            return labels.encode(rendered, self.table.classes, max_length=longest, **options).examples
        return list(encoding.encode(rendered, max_length=spec.max_length, **options).examples)

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest example."""
        return max(len(one.ids) for one in self.encoded)

    @property
    def examples(self) -> int:
        """Number of training examples."""
        per_row = len(self.encoded) / min(SAMPLE, len(self.table.rows))
        share = 1 - self.spec.eval_fraction if self.table.held_out is None else 1
        return max(1, round(len(self.table.rows) * per_row * share))

    @property
    def batch(self) -> int:
        """Examples of an optimizer step."""
        return self.spec.batch_size * self.spec.gradient_accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one pass over the rows."""
        return math.ceil(self.examples / self.batch)

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""
        return self.spec.max_steps or math.ceil(self.spec.epochs * self.steps_per_epoch)

    def micro(self, examples: Sequence[Any]) -> list[list[Any]]:
        """Cut rows into micro-batches as the engine does."""
        from peft_nb.training.packing import micro_batches

        return micro_batches(examples, self.budget, self.objective.padded, self.objective.share_prefix)

    def load(self, micro: Sequence[Any]) -> Load:
        """What a micro-batch makes the model compute."""
        from peft_nb.training.packing import common_prefix, supervised_targets

        lengths = [len(one.ids) for one in micro]
        predicted = 0 if self.spec.task == "classification" else sum(len(supervised_targets(one)) for one in micro)
        if self.objective.padded:
            width = max(lengths) + self.virtual
            return Load(len(micro) * width, len(micro) * width, predicted)
        shared = common_prefix(micro) if self.objective.share_prefix and len(micro) > 1 else 0
        return Load(sum(lengths) - shared * (len(micro) - 1), predicted, predicted)

    @cached_property
    def drawn(self) -> list[list[Any]]:
        """Optimizer steps over the examples at hand."""
        order = list(self.encoded)
        random.Random(self.spec.seed).shuffle(order)
        order *= math.ceil(self.batch / len(order)) if self.steps_per_epoch > 1 else 1
        starts = range(0, max(1, len(order) - self.batch + 1), self.batch)
        return [order[start : start + self.batch] for start in starts[: max(1, min(STEPS, 4096 // self.batch))]]

    @cached_property
    def cut(self) -> list[list[list[Any]]]:
        """Each of those steps in micro-batches."""
        return [self.micro(step) for step in self.drawn]

    @cached_property
    def laid_out(self) -> list[Load]:
        """What each of those steps computes."""
        return [sum(map(self.load, step), Load()) for step in self.cut]

    @property
    def mean(self) -> Load:
        """What an optimizer step computes on average."""
        return sum(self.laid_out, Load()).over(len(self.laid_out))

    @cached_property
    def largest(self) -> Load:
        """The micro-batch that computes most."""
        return max((self.load(micro) for step in self.cut for micro in step), key=lambda one: one.tokens)

    @cached_property
    def aside(self) -> tuple[list[Load], float]:
        """Micro-batches of held-out rows, and how many times as many an evaluation has."""
        rows, count = self.encoded, len(self.table.rows) * self.spec.eval_fraction
        if self.table.held_out is not None:
            rows = self._encode(self.table.held_out, self.table.held_layout, "held-out row")
            count = len(self.table.held_out)
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
        if found and tokens < len(row.ids):
            break
        found.append(row)
        tokens -= len(row.ids)
    return found
