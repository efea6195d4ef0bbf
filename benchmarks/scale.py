"""What it costs to train elsewhere, and what store and panel take when very many runs tell of themselves.

``elsewhere``: the same run here, in a process of its own and on a Ray cluster of this machine that is warm, in turn:
seconds to the first loss, and milliseconds a step. ``many``: no training; threads tell, as 1,000 trials on 100 nodes
would, each step of theirs. What is timed is the store that keeps it, and, for a panel that follows one of them and a
table of them all, what drawing takes.

    python benchmarks/scale.py many --trials 1000 --nodes 100
    python benchmarks/scale.py elsewhere --steps 20 --rounds 3
"""

from __future__ import annotations

import argparse
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean
from tempfile import TemporaryDirectory

from peft_nb.events import Event, Planned, Preparing, StatusChanged, StepLogged
from peft_nb.store import Store

STEPS = 60  # of each trial
SKIPPED = 5  # steps at the start, in which caches fill
DRAWN_S = 0.2  # between two drawings of a panel


@dataclass(frozen=True)
class Told:
    """What 1,000 trials told.

    Attributes
    ----------
    events : int
        How many were kept.
    per_second, per_cpu_second : float
        Events kept by a second of the clock, and by one of the processor's.
    panel_share : float
        Of a core, what a panel takes that follows one run and is drawn five times a second.
    table_s : float
        Seconds of the processor that it takes to list all runs once, as ``%peft runs`` does.
    """

    events: int
    per_second: float
    per_cpu_second: float
    panel_share: float
    table_s: float


def trial(steps: int) -> list[Event]:
    """Everything that a run tells."""
    told: list[Event] = [StatusChanged("preparing"), Preparing("loading"), StatusChanged("training")]
    told.append(Planned(steps, 100, 10, 1000, 1000, 10_000, "float32", "cpu", "padding-free"))
    told += [
        StepLogged(step, step / 10, 3 - step / steps, 1e-4, 1.0, 1e3, 900.0, step / 5) for step in range(1, steps + 1)
    ]
    return told


def many(trials: int, nodes: int, steps: int = STEPS) -> Told:
    """Let trials tell as they would from so many nodes, and time what keeps and draws it.

    Each node has a thread, as each follower of a run has one; a node has one trial after the other.
    """
    from peft_nb.ui.view import RunView, advance

    with TemporaryDirectory() as folder:
        store = Store(folder)
        ids = [store.create("data: x", method="lora", model="m") for _ in range(trials)]
        told = trial(steps)

        def node(number: int) -> None:
            mine = ids[number::nodes]
            for event in told:
                for id in mine:
                    store.record(id, event)

        threads = [threading.Thread(target=node, args=(number,)) for number in range(nodes)]
        began, spent = time.perf_counter(), time.process_time()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = trials * len(told)
        wall, cpu = time.perf_counter() - began, time.process_time() - spent
        view, began = RunView(), time.process_time()
        for event in told:
            view = advance(view, event)
        folded = (time.process_time() - began) / len(told)
        rate = events / wall / trials  # of one run
        return Told(
            events,
            events / wall,
            events / cpu,
            folded * rate + _cost(lambda: _drawn(view)) / DRAWN_S,
            _cost(lambda: _listed(store)),
        )


def _drawn(view: object) -> None:
    from peft_nb.ui.status import html

    html(view, 10.0)  # type: ignore[arg-type]


def _listed(store: Store) -> None:
    from peft_nb.ui.runs import listed

    listed(store)._repr_html_()


def _cost(act: Callable[[], object]) -> float:
    """Seconds of the processor that an action takes."""
    act()
    began = time.process_time()
    for _ in range(3):
        act()
    return (time.process_time() - began) / 3


@dataclass(frozen=True)
class Pace:
    """How a run went in one place: seconds to its first loss, and milliseconds of each later step."""

    first_s: float
    steps_ms: tuple[float, ...]


def pace(on: str, steps: int, model: str, folder: Path) -> Pace:
    """Train somewhere, and time it by what arrives here."""
    from peft_nb.runs.run import begin
    from peft_nb.spec import RunSpec
    from peft_nb.spec.place import Place

    heard: SimpleQueue[tuple[float, Event]] = SimpleQueue()
    spec = RunSpec(data="support-desk", model=model, max_steps=steps, judge="off", eval_fraction=0, device="cpu")
    began = time.perf_counter()
    place = Place.of(on=on)
    run = begin(
        spec,
        listeners=[lambda event: heard.put((time.perf_counter(), event))],
        store=Store(folder),
        place=place,
    )
    run.wait()
    told = [heard.get() for _ in range(heard.qsize())]
    logged = [(at, event) for at, event in told if isinstance(event, StepLogged)]
    elapsed = [event.elapsed_s for _, event in logged]
    paces = [1e3 * (after - before) for before, after in zip(elapsed[SKIPPED:], elapsed[SKIPPED + 1 :], strict=False)]
    return Pace(logged[0][0] - began, tuple(paces))


def _alone(on: str, steps: int, model: str) -> Pace:
    """Train in a process that has computed nothing yet, as it is elsewhere: what has seen all shapes is faster."""
    with TemporaryDirectory() as folder:
        if on != "here":
            return pace(on, steps, model, Path(folder))
        with ProcessPoolExecutor(1, get_context("spawn")) as fresh:
            return fresh.submit(pace, on, steps, model, Path(folder)).result()


def elsewhere(places: Sequence[str], steps: int, model: str, rounds: int) -> dict[str, Pace]:
    """Time the same run in several places, in turn; a cluster is warmed up first.

    Of each step, which has the same rows everywhere, the fastest round counts: other work on the machine only ever
    makes one slower.
    """
    if "ray" in places:
        from peft_nb.runs.executors import ray

        ray.connect("ray")
    found: dict[str, list[Pace]] = {on: [] for on in places}
    for round in range(rounds + 1):
        for on in places:
            one = _alone(on, steps if round else SKIPPED + 2, model)
            if round:
                found[on].append(one)
    return {
        on: Pace(min(one.first_s for one in ran), tuple(map(min, zip(*(one.steps_ms for one in ran), strict=True))))
        for on, ran in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["many", "elsewhere"])
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--nodes", type=int, default=100)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--rounds", type=int, default=3, help="of elsewhere (default 3)")
    parser.add_argument("--places", nargs="+", default=["here", "local:1", "ray"])
    given = parser.parse_args()
    if given.what == "many":
        told = many(given.trials, given.nodes, given.steps)
        print(f"{told.events:,} events of {given.trials:,} trials on {given.nodes} nodes")
        print(f"store: {told.per_second:,.0f} events/s, {told.per_cpu_second:,.0f} by a second of the processor")
        print(f"panel of one run: {100 * told.panel_share:.2f} % of a core; table of all: {told.table_s:.2f} s")
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for on, one in elsewhere(given.places, given.steps, given.model, given.rounds).items():
        print(f"{on:8} first loss after {one.first_s:5.1f} s, {fmean(one.steps_ms):7.1f} ms a step")


if __name__ == "__main__":
    main()
