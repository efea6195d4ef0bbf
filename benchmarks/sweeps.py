"""How near a sweep comes to the best of a full grid, in a share of its time: on the support desk and on 24 intents.

    python benchmarks/sweeps.py [support-desk] [intents] [--steps N] [--seeds N] [--real]

The grid of 27 (learning rate × rank × layers) is trained once, every trial to its end, and its eval losses are kept by
evaluation. The ways to search are then replayed on these curves with many seeds, each until it has used 35 % of the
grid's time: a trial that is stopped early costs what it took until there. ``--real`` also trains the sweep that
``%%peft`` makes, within that time. What counts is the eval loss of the best trial that finished, over that of the grid.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from intents import split
from optuna.pruners import BasePruner, MedianPruner, NopPruner

from peft_nb.runs.sweeps import search
from peft_nb.runs.sweeps.study import Study
from peft_nb.spec.sweep import EVALUATIONS, SweepSpec, key
from peft_nb.store import Store, Trial

SHARE, NEAR = 0.35, 1.01
RATES, RANKS = [1e-4, 5e-4, 2e-3], [4, 16, 64]


@dataclass(frozen=True)
class Desk:
    """What is trained on: fields of the run, the layers that are varied, and rows by name."""

    fields: dict[str, Any]
    layers: list[Any]
    rows: dict[str, Any]


def desks() -> dict[str, Desk]:
    """The two sets."""
    train, held_out = split(held_out=5)
    usual = {"device": "cpu", "judge": "off"}
    layers = [None, ["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj"]]
    classes = {"model": "minilm-l6", "task": "classification", "data": "train", "eval_data": "held", "batch_size": 32}
    return {
        "support-desk": Desk({**usual, "data": "support-desk"}, layers, {}),
        "intents": Desk(
            {**usual, **classes, "dtype": "float32"},
            [None, ["query", "value"], ["dense"]],
            {"train": train, "held": held_out},
        ),
    }


def spec(desk: Desk, steps: int, **options: Any) -> SweepSpec:
    """The sweep over 27 combinations."""
    space = {"learning_rate": RATES, "r": RANKS, "target_modules": desk.layers}
    every = max(1, steps // EVALUATIONS[0])
    return SweepSpec(**desk.fields, max_steps=steps, eval_steps=every, sweep=space, **options)


def grid(desk: Desk, steps: int, store: Store) -> list[Trial]:
    """Train all 27 to their end."""
    begun = search.begin(spec(desk, steps, search="grid"), namespace=desk.rows, store=store)
    begun.wait()
    return [one for one in begun.record.trials if one.state == "finished"]


@dataclass(frozen=True)
class Found:
    """What a way to search came to in its time.

    Attributes
    ----------
    ratio : float
        The eval loss of its best trial over the grid's.
    share : float or None
        Of the grid's time, after which it had one within 1 % of the grid's best.
    trials : int
        That it began.
    """

    ratio: float
    share: float | None
    trials: int


def replay(study: Study, trials: list[Trial]) -> Found:
    """Search on the curves of the grid until 35 % of its time are used."""
    known, whole = {key(one.values): one for one in trials}, sum(one.seconds for one in trials)
    lowest = min(one.metrics["eval_loss"] for one in trials)
    spent, best, share, begun = 0.0, float("inf"), None, 0
    while spent < SHARE * whole and (given := study.ask()):
        asked, values = given
        trial, begun = known[key(values)], begun + 1
        stopped = 0
        for place, (_, loss) in enumerate(trial.losses, 1):
            if study.report(asked, loss, place) and place < len(trial.losses):
                stopped = place
                break
        loss = trial.metrics["eval_loss"]
        study.tell(asked, values, None if stopped else [loss], "pruned" if stopped else "finished")
        left = 1 - stopped / len(trial.losses) if stopped else 0.0
        spent += trial.seconds - left * trial.metrics["train_seconds"]
        if not stopped and loss < best and spent <= SHARE * whole:
            best = loss
            if best <= NEAR * lowest and share is None:
                share = spent / whole
    return Found(best / lowest, share, begun)


def ways(desk: Desk, steps: int) -> dict[str, Callable[[int], Study]]:
    """The ways to search, each given a seed."""

    def made(pruner: BasePruner | None, **options: Any) -> Callable[[int], Study]:
        return lambda seed: Study(spec(desk, steps, **options), seed, pruner)

    return {
        "sweep (TPE, successive halving)": made(None),
        "random, successive halving": made(None, search="random"),
        "TPE, median pruner": made(MedianPruner()),
        "random search": made(NopPruner(), search="random"),
    }


def table(desk: Desk, steps: int, trials: list[Trial], seeds: int) -> str:
    """What each way came to, over the seeds."""
    lines = ["| way | within 1 % of the grid's best | its loss / the grid's, mean | time until then | trials |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, way in ways(desk, steps).items():
        found = [replay(way(seed), trials) for seed in range(seeds)]
        near = [one.share for one in found if one.share is not None]
        finite = [one.ratio for one in found if one.ratio < float("inf")]
        time = f"{100 * fmean(near):.0f} %" if near else "–"
        share, began = f"{100 * len(near) / seeds:.0f} % of {seeds} seeds", fmean(one.trials for one in found)
        lines.append(f"| {name} | {share} | {fmean(finite):.4f} | {time} | {began:.1f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help="support-desk, intents (default both)")
    parser.add_argument("--steps", type=int, default=90, help="steps of a trial (default 90)")
    parser.add_argument("--seeds", type=int, default=50, help="of each way to search (default 50)")
    parser.add_argument("--real", action="store_true", help="also train the sweep itself")
    given = parser.parse_args()
    known = desks()
    for name in given.sets or known:
        desk = known[name]
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder) / "grid")
            trials = grid(desk, given.steps, store)
            whole, lowest = sum(one.seconds for one in trials), min(one.metrics["eval_loss"] for one in trials)
            highest = max(one.metrics["eval_loss"] for one in trials)
            told = (
                f"{len(trials)} trials of {given.steps} steps in {whole:.0f} s, eval loss {lowest:.4f} to {highest:.4f}"
            )
            print(f"\n{name}: {told}\n\n{table(desk, given.steps, trials, given.seeds)}\n", flush=True)
            if given.real:
                begun = search.begin(
                    spec(desk, given.steps, minutes=SHARE * whole / 60),
                    namespace=desk.rows,
                    store=Store(Path(folder) / "sweep"),
                )
                begun.wait()
                record = begun.record
                done = [one.metrics["eval_loss"] for one in record.trials if one.state == "finished"]
                said = f"{len(record.trials)} trials in {record.seconds:.0f} s ({100 * record.seconds / whole:.0f} %)"
                print(f"trained: {said}, loss / the grid's {min(done) / lowest:.4f}", flush=True)


if __name__ == "__main__":
    main()
