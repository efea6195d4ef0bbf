"""Where a run is executed: one entry a kind of place."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from peft_nb.data.table import Table
from peft_nb.errors import SpecError
from peft_nb.runs import pipeline
from peft_nb.runs.context import Context, Inputs
from peft_nb.runs.executors.processes import Processes
from peft_nb.runs.executors.ray import Cluster
from peft_nb.runs.pipeline import Outcome
from peft_nb.spec import RunSpec
from peft_nb.spec.place import HERE, Place

if TYPE_CHECKING:
    from peft import PeftModel


class Executor(Protocol):
    """Executes one run at a time, in the thread that calls it."""

    def train(
        self,
        context: Context,
        table: Table | None,
        *,
        hold: Callable[[PeftModel, Any], None],
        curve: Callable[[], list[dict[str, Any]]],
    ) -> Outcome:
        """Do what :func:`peft_nb.runs.pipeline.train` does; elsewhere nobody holds the model in the end."""


class Here:
    """Executes runs in this process."""

    def __init__(self, place: Place) -> None:
        self.train = pipeline.train


EXECUTORS: dict[str, Callable[[Place], Executor]] = {HERE: Here, "local": Processes, "ray": Cluster}
"""What makes an executor, by the kind of a place."""


def refuse(place: Place, spec: RunSpec, inputs: Inputs) -> None:
    """Refuse what another process cannot have.

    Parameters
    ----------
    place : Place
        Where the run shall be executed.
    spec : RunSpec
        What to do.
    inputs : Inputs
        What was passed in place of names.

    Raises
    ------
    SpecError
        One line for each field that is wrong.
    """
    if place.kind == HERE:
        return
    stays, names = f"stays in this process, and --on {place.on} trains in another", inputs.namespace
    wrong = []
    if inputs.model is not None or isinstance(names.get(spec.model), tuple):
        wrong.append(f"model: {spec.model} is a live model, which {stays}; give the name or folder of one")
    functions = [name for name in spec.reward or [] if callable(names.get(name))]
    if inputs.reward is not None or functions:
        told = ", ".join(functions) or "it"
        wrong.append(f"reward: {told} is a function that {stays}; put it in a module and write module:function")
    if inputs.score is not None or callable(names.get(spec.score or "")):
        wrong.append(f"score: {spec.score} is a function that {stays}; write exact_match or rouge_l")
    if spec.documents and place.kind == "ray":
        wrong.append("documents: the index is on this machine alone; train here or --on local:N")
    if wrong:
        raise SpecError(wrong)
