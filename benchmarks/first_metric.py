"""Seconds from running a ``%%peft`` cell in a fresh kernel to its first losses and to its end, and where they go.

The base is in the cache already, and from the second round on what the first one measured of machine and base; all else
starts from nothing. The clock is outside the kernel and reads the store, where events appear as they occur.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from itertools import pairwise
from queue import Empty
from tempfile import TemporaryDirectory

from jupyter_client.manager import start_new_kernel

from peft_nb.events import Evaluated, Event, StatusChanged, StepLogged
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.store import Store

CELL = """%%peft {method} --data support-desk --max-steps {steps}
model: {model}
"""


def moments(seen: list[tuple[float, Event]], kind: type[Event]) -> list[float]:
    """Pick the times of the events of one kind."""
    return [seconds for seconds, event in seen if isinstance(event, kind)]


def until_its_end(cell: str, limit: float) -> list[tuple[float, Event]]:
    """Run the cell in a fresh kernel until the run has finished, then end the kernel.

    Parameters
    ----------
    cell : str
        The cell.
    limit : float
        Seconds after which to give up.

    Returns
    -------
    list of tuple of float and Event
        What happened and when, in seconds since the cell was run.
    """
    with TemporaryDirectory() as folder:
        store = Store(folder)
        manager, client = start_new_kernel(
            cwd=folder, env={**os.environ, "PEFT_NB_STORE": folder}, extra_arguments=["--log-level=ERROR"]
        )
        try:
            client.execute_interactive("%load_ext peft_nb")
            seen: list[tuple[float, Event]] = []
            begin = time.perf_counter()
            client.execute(cell)
            while not any(event == StatusChanged("finished") for _, event in seen):
                try:
                    reply = client.get_shell_msg(timeout=0.05)["content"]
                except Empty:
                    reply = {"status": "busy"}
                now = time.perf_counter() - begin
                if reply["status"] == "error" or now > limit:
                    sys.exit(reply.get("evalue") or f"not finished after {limit:.0f} s")
                events = [event for record in store.all() for event in store.events(record.id)]
                seen += [(now, event) for event in events[len(seen) :]]
            return seen
        finally:
            client.stop_channels()
            manager.shutdown_kernel(now=True)
            store.close()


def main() -> None:
    """Measure some rounds; print each event of the last one, and what all of them took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="fresh kernels (default 3)")
    parser.add_argument("--steps", type=int, default=3, help="training steps (default 3)")
    parser.add_argument("--model", default="smollm2-135m", help="alias or folder of the base")
    parser.add_argument("--method", default="lora")
    parser.add_argument("--limit", type=float, default=300, help="seconds after which to give up (default 300)")
    options = parser.parse_args()

    if resolve(options.model).path is None:
        load(resolve(options.model))  # fetches it, which is not what is timed
    cell = CELL.format(method=options.method, model=options.model, steps=options.steps)
    rounds = [until_its_end(cell, options.limit) for _ in range(options.rounds)]
    for (seconds, event), (later, _) in pairwise([*rounds[-1], (rounds[-1][-1][0], None)]):
        print(f"{seconds:6.1f} s  +{later - seconds:4.1f}  {event}")
    for what, kind in (
        ("the base model's eval loss", Evaluated),
        ("the first train loss", StepLogged),
        ("the end", None),
    ):
        first = [moments(seen, kind)[0] if kind else seen[-1][0] for seen in rounds]
        each = ", ".join(f"{seconds:.1f}" for seconds in first)
        print(f"{what} after {statistics.median(first):.1f} s (median of {each})")


if __name__ == "__main__":
    main()
