"""Which rows to label first: strategies against random choice on 24 intents, at equal numbers of labels.

    python benchmarks/label.py            # both tables; the second takes some ten minutes a seed on a busy core
    python benchmarks/label.py embeddings # the first alone, some two minutes

First the strategies by themselves: logistic regression on embeddings stands in for the model, and begins with 2 labels
of each class. Then `%peft label` as it is, with 3 seeds: a LoRA that has learned from 5 rows of each class guesses, 96
rows of a pool of 1,000 are labelled with the truth, and a run that starts from its adapter learns from all. The same
held-out texts judge throughout; a quarter of their wordings are in no row of the pool.
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
RUNS, BEGUN, POOL, BUDGET = range(3), 5, 1_000, 96

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

    def accuracy(strategy: str, budget: int, seed: int) -> float:
        known = begun(train, FEW, seed)
        rest = numpy.setdiff1d(numpy.arange(len(train)), known)
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


def train_on(rows: Rows, held_out: Rows, store: Store, seed: int) -> Run:
    """Teach a LoRA these rows."""
    spec = RunSpec(
        **{"model": MODEL, "task": "classification", "data": "train", "eval_data": "held_out", "name": f"seed-{seed}"},
        **{"epochs": 8, "batch_size": 16, "learning_rate": 1e-3, "r": 16, "warmup_steps": 10, "seed": seed},
        **{"device": "cpu", "dtype": "float32", "judge": "off", "eval_steps": None},
    )
    return begin(spec, namespace={"train": rows, "held_out": held_out}, store=store).wait()


def by_runs(train: Rows, held_out: Rows) -> None:
    """Label with `%peft label`, and train again."""
    table: dict[str, list[float]] = {"before": [], "both": [], "random": []}
    with tempfile.TemporaryDirectory() as scratch:
        store = Store(Path(scratch) / "runs")
        for seed in RUNS:
            known = begun(train, BEGUN, seed)
            rest = [row for place, row in enumerate(train) if place not in {*known}]
            places = numpy.random.default_rng(seed).permutation(len(rest))[:POOL]
            pool = {rest[place]["text"]: rest[place]["label"] for place in places}
            run = train_on([train[place] for place in known], held_out, store, seed)
            table["before"].append(run.metrics["accuracy"])
            for strategy in ("both", "random"):
                how: dict[str, Any] = {"budget": BUDGET, "strategy": strategy, "by": "truth", "encoder": MODEL}
                work = Labelling(list(pool), run, Path(scratch) / f"{strategy}-{seed}", **how)
                for row in work.queue:
                    work.label(pool[row["prompt"]])
                table[strategy].append(work.retrain().wait().metrics["accuracy"])
                if strategy == "both":
                    verdict = work.curve().verdict
            print(
                f"seed {seed}: " + ", ".join(f"{name} {_percent(own[-1:])}" for name, own in table.items()), flush=True
            )
            print(f"  the panel's curve: {verdict}", flush=True)
    print(f"\n| rows | accuracy on {len(held_out):,} texts | lowest and highest |\n| --- | ---: | --- |")
    for name, own in table.items():
        rows = f"{24 * BEGUN} and {BUDGET} chosen by {name}" if name != "before" else f"{24 * BEGUN}"
        print(f"| {rows} | {_percent(own)} | {_percent([min(own)])} to {_percent([max(own)])} |")
    gains = 100 * numpy.subtract(table["both"], table["random"])
    print(f"\nboth over random, seed by seed: {', '.join(f'{gain:+.1f}' for gain in gains)} points")


def _percent(values: Sequence[float]) -> str:
    return f"{100 * numpy.mean(values):.1f} %"


if __name__ == "__main__":
    start = time.perf_counter()
    texts = split()
    by_embeddings(*texts)
    print(f"\n{time.perf_counter() - start:.0f} s\n")
    if sys.argv[1:] != ["embeddings"]:
        by_runs(*texts)
        print(f"\n{time.perf_counter() - start:.0f} s")
