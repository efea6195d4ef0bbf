"""How near a sweep comes to the best of a full grid, in a share of its time: on the support desk and on 24 intents.

    python benchmarks/sweeps.py [support-desk] [intents] [--steps N] [--seeds N] [--replay] [--real]

The grid of 27 (learning rate × rank × layers) is trained once, every trial to its end, and its eval losses are kept by
evaluation, in ``benchmarks/results``. The ways to search are then replayed on these curves with many seeds, each until
it has used 35 % of the grid's time: a trial that is stopped early costs what it took until there. ``--replay`` trains
nothing and takes the curves that are there. ``--real`` also trains the sweep that ``%%peft`` makes, within that time.
What counts is the eval loss of the best trial that finished, over that of the grid. Time is the processor's, for
other work on the machine does not change that.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any

from intents import split
from optuna.pruners import BasePruner, MedianPruner, NopPruner

from peft_nb.data import support_desk
from peft_nb.runs.sweeps import search
from peft_nb.runs.sweeps.study import Study
from peft_nb.spec.sweep import EVALUATIONS, SweepSpec, key
from peft_nb.store import Store, Trial

SHARE, NEAR = 0.35, 1.01
STEPS = {"support-desk": 18, "intents": 27}  # of a trial
RATES, RANKS = [1e-4, 5e-4, 2e-3], [4, 16, 64]
RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class Desk:
    """What is trained on: fields of the run, the layers that are varied, and rows by name."""

    fields: dict[str, Any]
    layers: list[Any]
    rows: dict[str, Any]


def desks() -> dict[str, Desk]:
    """The two sets; evaluations are small, for there are nine in every trial."""
    usual = {"device": "cpu", "judge": "off", "data": "train", "eval_data": "held"}
    attention, rest = ["q_proj", "v_proj"], ["gate_proj", "up_proj", "down_proj"]
    answers = {
        "train": [dict(row) for row in support_desk.load()["train"]],
        "held": [dict(row) for row in support_desk.load()["eval"]][::5],
    }
    classes = {"model": "minilm-l6", "task": "classification", "dtype": "float32", "batch_size": 16}
    texts = dict(zip(("train", "held"), split(held_out=2), strict=True))
    return {
        "support-desk": Desk({**usual, "batch_size": 2}, [None, attention, rest], answers),
        "intents": Desk({**usual, **classes}, [None, ["query", "value"], ["dense"]], texts),
    }


def spec(desk: Desk, steps: int, **options: Any) -> SweepSpec:
    """The sweep over 27 combinations."""
    space = {"learning_rate": RATES, "r": RANKS, "target_modules": desk.layers}
    every = max(1, steps // EVALUATIONS[0])
    return SweepSpec(**desk.fields, max_steps=steps, eval_steps=every, sweep=space, **options)


@dataclass(frozen=True)
class Curve:
    """A trial that was trained to its end.

    Attributes
    ----------
    values : dict
        What was varied.
    losses : list of float
        Eval losses while it trained.
    eval_loss : float
        In the end; of the best checkpoint.
    seconds, train_seconds : float
        Of the processor: all of it, and from the first evaluation to the last.
    """

    values: dict[str, Any]
    losses: list[float]
    eval_loss: float
    seconds: float
    train_seconds: float


def grid(desk: Desk, steps: int) -> list[Curve]:
    """Train all 27 to their end."""
    with tempfile.TemporaryDirectory() as folder:
        begun = search.begin(spec(desk, steps, search="grid"), namespace=desk.rows, store=Store(folder))
        begun.wait()
        trials = [one for one in begun.record.trials if one.state == "finished"]
    share = median(one.metrics["train_seconds"] / one.metrics["wall_seconds"] for one in trials)
    return [curve(one, share) for one in trials]


def curve(trial: Trial, share: float) -> Curve:
    """What came of a trial that finished; of its time so much is training."""
    found, losses = trial.metrics, [loss for _, loss in trial.losses]
    return Curve(trial.values, losses, found["eval_loss"], found["cpu_seconds"], share * found["cpu_seconds"])


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


def replay(study: Study, curves: list[Curve]) -> Found:
    """Search on the curves of the grid until 35 % of its time are used."""
    known, whole = {key(one.values): one for one in curves}, sum(one.seconds for one in curves)
    lowest = min(one.eval_loss for one in curves)
    spent, best, share, begun = 0.0, float("inf"), None, 0
    while spent < SHARE * whole and (given := study.ask()):
        asked, values = given
        curve, begun = known[key(values)], begun + 1
        stopped = 0
        for place, loss in enumerate(curve.losses, 1):
            if study.report(asked, loss, place) and place < len(curve.losses):
                stopped = place
                break
        study.tell(asked, values, None if stopped else [curve.eval_loss], "pruned" if stopped else "finished")
        left = 1 - stopped / len(curve.losses) if stopped else 0.0
        spent += curve.seconds - left * curve.train_seconds
        if not stopped and curve.eval_loss < best and spent <= SHARE * whole:
            best = curve.eval_loss
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


def table(desk: Desk, steps: int, curves: list[Curve], seeds: int) -> str:
    """What each way came to, over the seeds."""
    lines = ["| way | within 1 % of the grid's best | its loss / the grid's, mean | time until then | trials |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, way in ways(desk, steps).items():
        found = [replay(way(seed), curves) for seed in range(seeds)]
        near = [one.share for one in found if one.share is not None]
        finite = [one.ratio for one in found if one.ratio < float("inf")]
        time = f"{100 * fmean(near):.0f} %" if near else "–"
        share, began = f"{100 * len(near) / seeds:.0f} % of {seeds} seeds", fmean(one.trials for one in found)
        lines.append(f"| {name} | {share} | {fmean(finite):.4f} | {time} | {began:.1f} |")
    return "\n".join(lines)


def trained(desk: Desk, steps: int, curves: list[Curve]) -> str:
    """Train the sweep itself in the same share of the time, and say what came of it."""
    whole, lowest = sum(one.seconds for one in curves), min(one.eval_loss for one in curves)
    began, ended = time.process_time(), False

    def in_time() -> None:
        nonlocal ended
        if not ended and time.process_time() - began > SHARE * whole:
            ended = True
            begun.stop()

    with tempfile.TemporaryDirectory() as folder:
        begun = search.begin(spec(desk, steps, trials=len(curves)), namespace=desk.rows, store=Store(folder))
        begun.wait(tick=in_time)
        trials = begun.record.trials
    spent = (time.process_time() - began) / whole
    done = [one.metrics["eval_loss"] for one in trials if one.state == "finished"]
    said = f"{len(trials)} trials, {len(done)} of them to the end, in {100 * spent:.0f} % of the grid's time"
    return f"trained: {said}, loss / the grid's {min(done) / lowest:.4f}"


def main() -> None:
    """Measure what was asked for and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", help="support-desk, intents (default both)")
    parser.add_argument("--steps", type=int, help=f"of a trial (default {STEPS})")
    parser.add_argument("--seeds", type=int, default=50, help="of each way to search (default 50)")
    parser.add_argument("--replay", action="store_true", help="train no grid; take the curves in benchmarks/results")
    parser.add_argument("--real", action="store_true", help="also train the sweep itself")
    given = parser.parse_args()
    known = desks()
    for name in given.sets or known:
        steps = given.steps or STEPS[name]
        desk, kept = known[name], RESULTS / f"sweeps-{name}-{steps}.json"
        if given.replay:
            curves = [Curve(**one) for one in json.loads(kept.read_text(encoding="utf-8"))]
        else:
            curves = grid(desk, steps)
            RESULTS.mkdir(exist_ok=True)
            kept.write_text(json.dumps([asdict(one) for one in curves], indent=1), encoding="utf-8")
        whole, losses = sum(one.seconds for one in curves), [one.eval_loss for one in curves]
        told = f"{len(curves)} trials of {steps} steps in {whole:.0f} s"
        print(f"\n{name}: {told}, eval loss {min(losses):.4f} to {max(losses):.4f}\n", flush=True)
        print(table(desk, steps, curves, given.seeds), end="\n\n", flush=True)
        if given.real:
            print(trained(desk, steps, curves), flush=True)


if __name__ == "__main__":
    main()
