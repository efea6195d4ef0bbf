"""The rows that a run learned from, read again, and a run that goes on from its adapter on these and more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peft_nb.data import decisions
from peft_nb.data.kept import kept
from peft_nb.data.table import Table
from peft_nb.errors import DataError, RunError
from peft_nb.events import Listener
from peft_nb.runs import rows
from peft_nb.runs.context import Context
from peft_nb.runs.run import Run, begin
from peft_nb.serving.route import places_of, prompts_of
from peft_nb.spec import RunSpec
from peft_nb.system.files import atomic_text

Rows = list[Mapping[str, Any]]


def table(run: Run) -> Table | None:
    """The rows of a run as its data hold them; None where these are gone or are others now."""
    try:
        found = rows.read_again(Context(run.spec, run.inputs, run.folder, run.facts))
    except DataError:
        return None
    return found.bare or found


def examples(run: Run, most: int) -> tuple[list[str], list[str]]:
    """Read prompts and answers, or texts and classes, off what a run keeps, in the form in which its model saw them.

    Parameters
    ----------
    run : Run
        One that gives texts one class, or writes texts.
    most : int
        How many, drawn at random where there are more.

    Returns
    -------
    list of str, list of str
        Prompts, and their answers or classes.

    Raises
    ------
    RunError
        If they have left the store.
    """
    if (sides := kept(run.folder)) is None:
        raise RunError(f"the rows that run {run.id} learned from have left the store; train it again first")
    some = [sides.train[place] for place in places_of(len(sides.train), most)]
    if classes := run.facts.task.get("classes"):
        return [_decoded(run, one.ids) for one in some], [classes[one.labels[0]] for one in some]
    answers = ([id for id, on in zip(one.ids, one.supervised, strict=True) if on] for one in some)
    prompts = prompts_of(sides.train, run.tokenizer, run.spec.system, run.facts.chat, most)
    return prompts, [_decoded(run, ids) for ids in answers]


def _decoded(run: Run, ids: Sequence[int]) -> str:
    return str(run.tokenizer.decode(ids, skip_special_tokens=True)).strip()


def go_on(
    run: Run,
    found: Table | None,
    more: Sequence[Mapping[str, Any]],
    folder: Path,
    listeners: Sequence[Listener],
    fields: Mapping[str, Any],
) -> Run:
    """Begin a run from another's adapter on its training rows and more, and return at once.

    Parameters
    ----------
    run : Run
        Whose adapter, evaluation set and settings the new one has.
    found : Table or None
        As of :func:`table`.
    more : sequence of mapping
        Rows of the same columns.
    folder : Path
        Where both tables are written, so that the new run can be opened again.
    listeners : sequence of callable
        Told every event.
    fields : mapping
        Fields of the spec that are to be otherwise.

    Returns
    -------
    Run
        Preparing or training.

    Raises
    ------
    DataError
        If the run's own rows are gone.
    """
    train, held_out = split(run, found)
    told = {"data": str(folder / "train.jsonl"), "init_adapter": run.id}
    atomic_text(folder / "train.jsonl", decisions.lines([*train, *more]))
    if held_out:
        told["eval_data"] = str(folder / "eval.jsonl")
        atomic_text(folder / "eval.jsonl", decisions.lines(held_out))
    left = ("data", "eval_data", "eval_fraction", "init_adapter")
    same = {name: value for name, value in run.spec.changed().items() if name not in left}
    given = {"model": run.inputs.model, "score": run.inputs.score, "reward": run.inputs.reward}
    spec = RunSpec(**{**same, **told, **fields})
    return begin(spec, **given, namespace=run.inputs.namespace, listeners=listeners, store=run.store)


def split(run: Run, found: Table | None) -> tuple[Rows, Rows]:
    """Split the rows of a run, as of :func:`table`, into those that it trained on and its evaluation set."""
    sides = kept(run.folder)
    if found is None or sides is None:
        raise DataError(f"the rows of run {run.id} are gone or changed; put {run.spec.data} back")
    if found.eval_rows is not None:
        return list(found.rows), list(found.eval_rows)
    held_out = {int(number) for number in sides.held_out.rows}
    parts: tuple[Rows, Rows] = ([], [])
    for number, row in enumerate(found.rows):
        parts[number in held_out].append(row)
    return parts
