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
from peft_nb.tasks.grpo import GRPO
from peft_nb.tasks.image_classification import ImageClassification
from peft_nb.tasks.kto import KTO
from peft_nb.tasks.preference import DPO, ORPO, SimPO
from peft_nb.tasks.speech_recognition import SpeechRecognition
from peft_nb.tasks.text_to_image import TextToImage
from peft_nb.tasks.texts import TextTask

if TYPE_CHECKING:
    from peft_nb.data.layouts import Layout
    from peft_nb.data.table import Table
    from peft_nb.spec import RunSpec

__all__ = [
    "TASKS",
    "Facts",
    "Task",
    "TextTask",
    "for_base",
    "for_kind",
    "inspect",
    "options",
    "problems",
    "proposed",
    "register",
]

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
        raise DataError(unused.untrained(media, table.layout.columns))
    if table.layout.kind == "captioned" and "captioned" not in task.accepts:
        fix = "give the images labels, in a column label or as the names of their folders, to classify them"
        draw = f"set task: {for_kind('captioned').name} to learn to draw them"
        text = table.layout.columns.get("text")
        alone = f", or drop column {table.layout.columns['image']!r} to learn from {text!r} alone" if text else ""
        raise DataError(f"{table.layout.why}: task {spec.task} reads no such images; {draw}, {fix}{alone}")
    wrong = "labelled" in task.accepts and table.layout.kind != "labelled"
    if wrong and (several := unused.flags(table.rows, used)):
        raise DataError(unused.as_lists(several, next(iter(used))))
    task.validate(table.layout, spec)
    facts = task.inspect(table.rows, table.layout)
    if table.eval_rows is not None:
        task.validate_eval(table.eval_rows, table.eval_layout, facts, "evaluation row")
    return facts


def options() -> list[str]:
    """Name the fields of a spec that only some tasks have a use for."""
    return list(dict.fromkeys(name for task in TASKS.values() for name in task.options))


def problems(spec: RunSpec) -> list[str]:
    """What a task cannot do with a spec, found before anything is loaded.

    Parameters
    ----------
    spec : RunSpec
        A valid spec.

    Returns
    -------
    list of str
        One line a problem.
    """
    task, found = TASKS[spec.task], list[str]()
    for name in options():
        if name not in task.options and getattr(spec, name) is not None:
            able = ", ".join(other.name for other in TASKS.values() if name in other.options)
            found.append(f"{name}: task {spec.task} has no use for it; {able} has")
    if not spec.documents:
        given = [name for name in ("distractors", "golden_fraction", "golden") if name in spec.changed()]
        found += [f"{name}: has no effect without documents; name an index, or leave it out" for name in given]
    return found or task.problems(spec)


def proposed(spec: RunSpec, layout: Layout) -> RunSpec:
    """Choose the task by the rows where a spec names none.

    Parameters
    ----------
    spec : RunSpec
        As it was written.
    layout : Layout
        Of its rows.

    Returns
    -------
    RunSpec
        With the task that such rows are for, or as it is where it names one, or its own accepts them.
    """
    task = for_kind(layout.kind)
    if "task" in spec.model_fields_set or layout.kind in TASKS[spec.task].accepts or not task.proposed:
        return spec
    fields = {**spec.changed(), "task": task.name}
    if task.base not in (None, TASKS[spec.task].base) and task.model and "model" not in spec.model_fields_set:
        fields["model"] = task.model  # the default writes texts
    return type(spec)(**fields)


def for_kind(kind: str) -> Task:
    """The task that rows of a kind of layout are for, such as ``labelled``; of several the first."""
    return next((task for task in TASKS.values() if kind in task.accepts), next(iter(TASKS.values())))


def for_base(kind: str) -> Task:
    """The task to count the methods with on a base that was made for ``causal`` or ``encoder``."""
    fitting = (task for task in TASKS.values() if (task.base or "encoder") == kind)
    return next(fitting, next(iter(TASKS.values())))


for _task in (
    *(Generation(), Classification(), DPO(), SimPO(), ORPO(), KTO(), GRPO()),
    *(ImageClassification(), SpeechRecognition(), TextToImage()),
):
    register(_task)
