"""Benchmarks of EleutherAI's lm-evaluation-harness on a live adapter and its base, scored by the project's own paths.

The harness writes the requests and reads the answers, as its own command does; likelihoods are computed without padding
and with shared prefixes where the run's path does so. Imports neither the harness nor PyTorch until it is used.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy

from peft_nb.data.examples import Example
from peft_nb.errors import DataError, nearest
from peft_nb.evaluation import scores

OWN = (".yaml", ".yml")
BATCH = 8  # prompts that are answered together


@dataclass(frozen=True)
class Benchmark:
    """What one benchmark says of an adapter and of its base.

    Attributes
    ----------
    name, metric : str
        The task, and its first metric as the harness calls it, such as ``acc``.
    value, base : float
        With the adapter and without.
    change, low, high : float
        Mean of the differences by question, and its interval at 95 % by paired bootstrap.
    rows : int
        How many questions.
    """

    name: str
    metric: str
    value: float
    base: float
    change: float
    low: float
    high: float
    rows: int

    @property
    def drop(self) -> float:
        """By how much the adapter is worse; 0 where its interval holds 0, for that may be noise."""
        return -self.change if self.high < 0 else 0.0

    def __str__(self) -> str:
        sure = f"{self.change:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"
        noise = "" if self.low > 0 or self.high < 0 else ", which may be noise"
        return f"{self.name}: {self.metric} {self.base:.3f} → {self.value:.3f}, {sure}{noise}, {self.rows:,} questions"


def read(entry: str) -> tuple[str, int | None]:
    """Part ``gsm8k:50`` into the name of a task, or the path of its YAML file, and how many questions are asked.

    Raises
    ------
    ValueError
        What is wrong, in one line.
    """
    name, colon, count = entry.rpartition(":")
    if not colon or not count.strip().isdecimal():
        return entry, None
    if not int(count):
        raise ValueError(f"{entry}: no questions are asked; write 1 or more behind the colon")
    return name, int(count)


def problems(entries: Sequence[str]) -> list[str]:
    """Say what keeps benchmarks from being run, one line each, before anything is loaded."""
    wrong = []
    for entry in entries:
        try:
            name, _ = read(entry)
            if name.endswith(OWN) and not Path(name).is_file():
                wrong.append(f"benchmarks: there is no file {name}")
        except ValueError as error:
            wrong.append(f"benchmarks: {error}")
    if entries and not find_spec("lm_eval"):
        wrong.append('benchmarks: lm-evaluation-harness is not installed; pip install "peft_nb[harness]"')
    return wrong


def run(
    model: Any,
    tokenizer: Any,
    objective: Any,
    entries: Sequence[str],
    heed: Callable[[], None] = lambda: None,
) -> list[Benchmark]:
    """Ask benchmarks of a model with its adapter and without.

    Parameters
    ----------
    model : peft.PeftModel
        A causal language model in evaluation mode.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's.
    objective : Objective
        How likelihoods are computed; not yet installed.
    entries : sequence of str
        As of :func:`read`.
    heed : callable
        Called before every micro-batch; what it raises ends the work.

    Returns
    -------
    list of Benchmark
        In the order of the entries.

    Raises
    ------
    DataError
        If the harness knows no such task, or its data cannot be had.
    """
    from lm_eval.tasks import TaskManager

    live, found = _live(model, tokenizer, objective, heed), []
    named, folders = list[tuple[str, int | None]](), list[str]()
    for name, count in map(read, entries):
        file = Path(name)
        if file.suffix in OWN:
            folders.append(str(file.parent.resolve()))
        named.append((_named(file) if file.suffix in OWN else name, count))
    known = len(folders) < len(named)  # reading the harness's own thousands takes some seconds
    manager = TaskManager(include_path=folders or None, include_defaults=known)
    for name, count in named:
        if name not in manager.all_tasks:
            raise DataError(f"the harness knows no task {name!r}{nearest(name, manager.all_tasks)}")
        after = _asked(live, name, count, manager)
        with model.disable_adapter():
            before = _asked(live, name, count, manager)
        found.append(_compared(name, after, before))
    return found


def _named(file: Path) -> str:
    """What a task's file calls it."""
    import yaml

    told = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(told, dict) or not isinstance(told.get("task"), str):
        raise DataError(f"{file} names no task; write task: NAME in it")
    return str(told["task"])


def _asked(live: Any, name: str, count: int | None, manager: Any) -> dict[str, Any]:
    """What the harness makes of one task; the generators of the process are left alone."""
    from lm_eval import simple_evaluate

    seeds: dict[str, Any] = dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed"))
    try:
        found = simple_evaluate(live, tasks=[name], limit=count, task_manager=manager, bootstrap_iters=0, **seeds)
    except (ConnectionError, FileNotFoundError) as error:
        line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"the data of {name} cannot be had: {line}") from error
    return dict(found or {})


def _compared(name: str, after: dict[str, Any], before: dict[str, Any]) -> Benchmark:
    """Compare question by question, by the first metric of a task that has a value for each."""
    for key, value in after["results"][name].items():
        metric, _, kind = key.partition(",")
        pair = [_values(one, metric, kind) for one in (after, before)]
        if metric.endswith("_stderr") or not pair[0]:
            continue
        apart = numpy.array(pair[0]) - numpy.array(pair[1])
        base = before["results"][name][key]
        return Benchmark(name, metric, float(value), float(base), *scores.bootstrap(apart), len(apart))
    raise DataError(f"{name} has no metric with a value for each question")


def _values(found: dict[str, Any], metric: str, kind: str) -> list[float]:
    rows = [row for samples in found["samples"].values() for row in samples if row.get("filter", kind) == kind]
    values = [row.get(metric) for row in sorted(rows, key=lambda row: (str(row.get("doc_hash")), row["doc_id"]))]
    return [float(one) for one in values] if all(isinstance(one, int | float) for one in values) else []


def _live(model: Any, tokenizer: Any, objective: Any, heed: Callable[[], None]) -> Any:
    """The harness's own model class, with likelihoods by the objective."""
    from lm_eval.models.huggingface import HFLM

    from peft_nb.evaluation.measure import predictions

    class Live(HFLM):
        def _loglikelihood_tokens(self, requests: Any, **ignored: Any) -> list[tuple[float, bool]]:
            """Log-probability of each continuation, and whether greedy decoding gives it."""
            examples = []
            for _, context, continuation in requests:
                ids = [*context, *continuation][-(self.max_length + 1) :]  # as the harness cuts them
                marks = bytes(len(ids) - len(continuation)) + b"\x01" * len(continuation)
                examples.append(Example(array("i", ids), marks))
            found = predictions(model, objective, examples, heed)
            return [
                (-float(loss), bool(right == targets))
                for loss, right, targets in zip(found.losses, found.right, found.targets, strict=True)
            ]

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
            heed()
            answers: list[str] = super().generate_until(requests, disable_tqdm=True)
            return answers

    model.tie_weights = lambda *ignored, **more: None  # an adapter may have untied what the base ties
    try:
        return Live(pretrained=model, tokenizer=tokenizer, batch_size=BATCH)
    finally:
        del model.tie_weights
