"""What a run can learn: one file a task, one registry. Nothing else in the package knows which tasks there are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_nb import metrics
from peft_nb.data import unused
from peft_nb.errors import DataError
from peft_nb.spec.names import register_name
from peft_nb.tasks.base import Facts, Task
from peft_nb.tasks.classification import Classification
from peft_nb.tasks.generation import Generation
from peft_nb.tasks.texts import TextTask

if TYPE_CHECKING:
    from peft_nb.data.table import Table
    from peft_nb.spec import RunSpec

__all__ = ["TASKS", "Facts", "Task", "TextTask", "for_base", "for_kind", "inspect", "register"]

TASKS: dict[str, Task] = {}


def register(task: Task) -> None:
    """Make a task known to specs, magics and help; the first that fits a layout or a base is taken for it.

    Parameters
    ----------
    task : Task
        The entry; its name must be new.
    """
    TASKS[task.name] = task
    register_name("task", task.name, task.help)
    metrics.register(*task.metrics)


def inspect(spec: RunSpec, table: Table) -> Facts:
    """Check that rows fit the task of a spec, and find out what they say about it.

    Parameters
    ----------
    spec : RunSpec
        The run's settings.
    table : Table
        Its rows, read and recognised.

    Returns
    -------
    dict
        The task's facts.

    Raises
    ------
    DataError
        In one line.
    """
    task = TASKS[spec.task]
    used = table.layout.columns.values()
    if media := [one for one in unused.find(table.rows, used) if one.what == "media"]:
        raise DataError(unused.untrained(media))
    wrong = "labelled" in task.accepts and table.layout.kind != "labelled"
    if wrong and (several := unused.flags(table.rows, used)):
        raise DataError(unused.as_lists(several, next(iter(used))))
    task.validate(table.layout, spec)
    facts = task.inspect(table.rows, table.layout)
    if table.eval_rows is not None:
        task.validate_eval(table.eval_rows, table.eval_layout, facts, "evaluation row")
    return facts


def for_kind(kind: str) -> Task:
    """The task that rows of a kind of layout are for, such as ``labelled``; of several the first."""
    return next((task for task in TASKS.values() if kind in task.accepts), next(iter(TASKS.values())))


def for_base(kind: str) -> Task:
    """The task to count the methods with on a base that was made for ``causal`` or ``encoder``."""
    fitting = (task for task in TASKS.values() if (task.base or "encoder") == kind)
    return next(fitting, next(iter(TASKS.values())))


for _task in (Generation(), Classification()):
    register(_task)
