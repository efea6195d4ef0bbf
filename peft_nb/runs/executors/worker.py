"""The other end: a process that executes a run and tells, message by message, what happens.

A message is a kind and what is told, as JSON holds it: ``event``; ``state``, the metrics and facts so far; ``end``, the
last one. Of several processes only the first tells events; any of them tells an error.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft_nb.errors import PeftNbError, RunError
from peft_nb.events import Evaluated, Event, Planned, Resumed, StepLogged, to_json
from peft_nb.methods import complete
from peft_nb.models.quiet import first_line
from peft_nb.runs import pipeline
from peft_nb.runs.context import Context, Inputs
from peft_nb.runs.executors.job import Job, unpack
from peft_nb.spec import RunSpec
from peft_nb.store import HISTORY, Facts
from peft_nb.store.facts import plain
from peft_nb.system import resources
from peft_nb.training.stop import Abandoned, StopFlag

Send = Callable[[str, dict[str, Any]], None]
"""Takes a kind and what is told."""


def message(event: Event) -> tuple[str, dict[str, Any]]:
    """What is told of an event."""
    kind, fields = to_json(event)
    return "event", {"kind": kind, "fields": fields}


class History:
    """The rows of a curve, as the store would keep them.

    Parameters
    ----------
    rows : list of dict
        Those logged before.
    """

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = {row["step"]: row for row in rows}

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        match event:
            case StepLogged() | Evaluated():
                row = self._rows.setdefault(event.step, dict.fromkeys(HISTORY.split(", ")))
                row |= to_json(event)[1]
            case Resumed(step):
                self._rows = {number: row for number, row in self._rows.items() if number <= step}

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All of them, in order."""
        return [self._rows[step] for step in sorted(self._rows)]


def execute(job: Job, rows: str, folder: Path, stop: StopFlag, send: Send, adapter: Path | None = None) -> None:
    """Train, evaluate and save a run, and tell it; raises nothing that the run can fail of.

    Parameters
    ----------
    job : Job
        The run.
    rows : str
        Its rows, as :func:`.job.pack` wrote them.
    folder : Path
        Where it lives: two folders down in a store, or in something like one.
    stop : StopFlag
        What the user asked for meanwhile.
    send : callable
        Takes each message.
    adapter : Path, optional
        The adapter that it starts from, where that is not where the spec says.
    """
    history = History(job.history)
    context = Context(RunSpec(data="-"), folder=folder, stop=stop, history=job.history)

    def publish(event: Event) -> None:
        history(event)
        if resources.rank() == 0:
            if isinstance(event, Planned):
                send("state", _state(context))
            send(*message(event))

    end: dict[str, Any] = {"how": "failed"}
    try:
        context.spec = complete(RunSpec.from_yaml(job.spec))
        context.facts, context.metrics, context.publish = Facts.from_json(job.facts), dict(job.metrics), publish
        context.inputs, found = unpack(rows, context.spec)
        if adapter:
            context.inputs = Inputs(**{**vars(context.inputs), "adapter": adapter})
        if not job.resumed and found is None:
            raise RunError("the rows of the run did not arrive; start it again")
        outcome = pipeline.train(context, None if job.resumed else found, curve=lambda: history.rows)
        end = {"how": "finished" if outcome.finished else "stopped", "evaluation": plain(outcome.evaluation)}
    except Abandoned as error:
        end = {"how": "abandoned", "reason": str(error)}
    except PeftNbError as error:
        end |= {"error": type(error).__name__, "reason": str(error)}
    except Exception as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        end |= {"error": "", "reason": reason, "story": traceback.format_exc()}
    if resources.rank() == 0 or end["how"] == "failed":
        send("end", _state(context) | end)


def _state(context: Context) -> dict[str, Any]:
    return {"metrics": plain(context.metrics), "facts": context.facts.to_json()}


def main() -> None:
    """Read a job from standard input and execute it; what is printed meanwhile goes to standard error.

    The first line is the job, its rows and its folder; later ones say ``soon`` or ``now``. Whoever closes the other end
    wants the run to end after its current step.
    """
    messages = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    given = json.loads(sys.stdin.readline())
    stop = StopFlag()

    def listen() -> None:
        for line in sys.stdin:
            (stop.now if line.strip() == "now" else stop.soon).set()
        stop.soon.set()

    def send(kind: str, told: dict[str, Any]) -> None:
        try:
            messages.write(json.dumps([kind, told]) + "\n")
            messages.flush()
        except OSError:  # the notebook is gone, and the run ends with a checkpoint
            stop.soon.set()

    threading.Thread(target=listen, daemon=True).start()
    job, rows, folder = Job(**given["job"]), given["rows"], Path(given["folder"])
    # As in a kernel: in a process's first thread steps were a tenth slower, perhaps as its memory is handed back.
    work = threading.Thread(target=execute, args=(job, rows, folder, stop, send))
    work.start()
    work.join()
    sys.stderr.flush()
    os._exit(0)  # whatever threads of libraries still wait for


if __name__ == "__main__":
    main()
