"""Which rows to label first: strategies against random choice on 24 intents, at equal numbers of labels.

    python benchmarks/label.py embeddings # the strategies by themselves, some two minutes
    python benchmarks/label.py runs       # `%peft label` as it is, some four minutes a seed on one core
    python benchmarks/label.py runs 0 1   # the same with some of the seeds

First the strategies by themselves: logistic regression on embeddings stands in for the model, and begins with 2 labels
of each class. Then `%peft label` as it is: a LoRA that has learned from 5 rows of each class guesses, rows of a pool of
1,000 are labelled with the truth, and a run that starts from its adapter learns from all. The same held-out texts judge
throughout; a quarter of their wordings are in no row of the pool.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
from intents import split

from peft_nb.documents.embedding import Embedder
from peft_nb.evaluation.acquisition import STRATEGIES, choose, classifier, entropy, margin
from peft_nb.runs.labelling import Labelling
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store

SEEDS, MODEL = range(5), "minilm-l6"
FEW, BUDGETS, MORE = 2, (24, 48, 96, 192), (288, 384, 576)
BEGUN, POOL = 5, 1_000
CHOSEN, BUDGET = ("both", "uncertainty", "random"), 96
NEVER = 100_000  # steps between two evaluations: the last is the one that counts, and each takes as long as 40 steps

Rows = list[dict[str, str]]


def begun(rows: Rows, each: int, seed: int) -> list[int]:
    """Places of so many rows of each class."""
    order = numpy.random.default_rng(seed).permutation(len(rows))
    classes = dict.fromkeys(row["label"] for row in rows)
    return [int(place) for name in classes for place in [at for at in order if rows[at]["label"] == name][:each]]


def by_embeddings(train: Rows, held_out: Rows) -> None:
    """Measure each strategy at each budget, and how many random labels would do as well."""
    embedder = Embedder(MODEL)
    vectors, asked = (embedder.embed([row["text"] for row in rows]) for rows in (train, held_out))
    labels, truth = (numpy.array([row["label"] for row in rows]) for rows in (train, held_out))

    def accuracy(strategy: str, budget: int, seed: int, few: int = FEW, pool: int | None = None) -> float:
        known = begun(train, few, seed)
        rest = numpy.setdiff1d(numpy.arange(len(train)), known)
        rest = numpy.sort(numpy.random.default_rng(seed).permutation(rest)[:pool])
        told = classifier(vectors[known], list(labels[known])).predict_proba(vectors[rest])
        doubt = (entropy if strategy == "entropy" else margin)(told)
        own = [*known, *rest[choose(strategy, budget, vectors[rest], doubt, seed)]]
        return float((classifier(vectors[own], list(labels[own])).predict(asked) == truth).mean())

    found = {name: [[accuracy(name, one, seed) for seed in SEEDS] for one in BUDGETS] for name in STRATEGIES}
    further = [[accuracy("random", budget, seed) for seed in SEEDS] for budget in MORE]
    random = numpy.mean([*found["random"], *further], 1)
    print(f"accuracy in %, mean of {len(SEEDS)} seeds ± standard deviation; in brackets random labels for the same\n")
    print(
        "| strategy | "
        + " | ".join(f"{budget} labels" for budget in BUDGETS)
        + " |\n| --- |"
        + " ---: |" * len(BUDGETS)
    )
    for name, own in found.items():
        cells = []
        for values in own:
            as_many = numpy.interp(numpy.mean(values), random, [*BUDGETS, *MORE])
            more = "" if name == "random" else f" ({as_many:.0f})" if numpy.mean(values) >= random[0] else " (fewer)"
            cells.append(f"{100 * numpy.mean(values):.1f} ± {100 * numpy.std(values, ddof=1):.1f}{more}")
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n{BUDGET} labels, both over random in points\n\n| labels to begin with | pool | |\n| ---: | ---: | ---: |")
    for few in (FEW, BEGUN):
        for pool in (len(train) - 24 * few, POOL):
            sides = [[accuracy(name, BUDGET, seed, few, pool) for seed in SEEDS] for name in ("both", "random")]
            print(f"| {24 * few} | {pool:,} | {100 * numpy.subtract(*numpy.mean(sides, 1)):+.1f} |")


def train_on(rows: Rows, held_out: Rows, store: Store, seed: int) -> Run:
    """Teach a LoRA these rows."""
    spec = RunSpec(
        **{"model": MODEL, "task": "classification", "data": "train", "eval_data": "held_out", "name": f"seed-{seed}"},
        **{"epochs": 8, "batch_size": 16, "learning_rate": 1e-3, "r": 16, "warmup_steps": 10, "seed": seed},
        **{"device": "cpu", "dtype": "float32", "judge": "off", "eval_steps": NEVER},
    )
    return begin(spec, namespace={"train": rows, "held_out": held_out}, store=store).wait()


def one_seed(train: Rows, held_out: Rows, folder: Path, seed: int) -> tuple[dict[str, float], str]:
    """Label with `%peft label`, and train again: the accuracy of each choice, and what the panel's curve says."""
    known = begun(train, BEGUN, seed)
    rest = [row for place, row in enumerate(train) if place not in {*known}]
    places = numpy.random.default_rng(seed).permutation(len(rest))[:POOL]
    pool = {rest[place]["text"]: rest[place]["label"] for place in places}
    run = train_on([train[place] for place in known], held_out, Store(folder / "runs"), seed)
    found, verdict = {"before": run.metrics["accuracy"]}, ""
    for strategy in CHOSEN:
        how: dict[str, Any] = {"budget": BUDGET, "strategy": strategy, "by": "truth", "encoder": MODEL}
        work = Labelling(list(pool), run, folder / strategy, **how)
        for row in work.queue:
            work.label(pool[row["prompt"]])
        found[strategy] = work.retrain().wait().metrics["accuracy"]
        if strategy == "both":
            verdict = work.curve().verdict
    return found, verdict


def by_runs(train: Rows, held_out: Rows, seeds: Sequence[int]) -> None:
    """Print a table of all seeds."""
    told = []
    for seed in seeds:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as scratch:
            found, verdict = one_seed(train, held_out, Path(scratch), seed)
        told.append(found)
        print(f"seed {seed}: " + ", ".join(f"{name} {_percent([own])}" for name, own in found.items()))
        print(f"  the panel's curve: {verdict}; {time.perf_counter() - start:.0f} s", flush=True)
    print(f"\n| rows | accuracy on {len(held_out):,} texts | lowest and highest |\n| --- | ---: | --- |")
    for name in told[0]:
        own = [found[name] for found in told]
        rows = f"{24 * BEGUN}" + f" and {BUDGET} chosen by {name}" * (name in CHOSEN)
        print(f"| {rows} | {_percent(own)} | {_percent([min(own)])} to {_percent([max(own)])} |")
    for name in ("both", "uncertainty"):
        gains = ", ".join(f"{100 * (found[name] - found['random']):+.1f}" for found in told)
        print(f"\n{name} over random, seed by seed: {gains} points")


def _percent(values: Sequence[float]) -> str:
    return f"{100 * numpy.mean(values):.1f} %"


if __name__ == "__main__":
    what, *numbers = [*sys.argv[1:], ""]
    if what in ("", "embeddings"):
        by_embeddings(*split())
    if what in ("", "runs"):
        by_runs(*split(), [int(one) for one in numbers if one] or [*SEEDS])
