"""What routing does to adapters: the loss of each on its own evaluation rows, alone and as its prompts are routed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from peft_nb.data.kept import kept
from peft_nb.errors import MethodError, RunError
from peft_nb.events import Progress, silent
from peft_nb.runs.run import Run
from peft_nb.serving.route import BASE, places_of, prompts_of
from peft_nb.serving.switchboard import Switchboard

if TYPE_CHECKING:
    import pandas


def routed(board: Switchboard, runs: Mapping[str, Run], most: int, progress: Progress = silent) -> pandas.DataFrame:
    """Route the evaluation rows of runs.

    Parameters
    ----------
    board : Switchboard
        What routes.
    runs : mapping of str to Run
        Its adapters by their names there.
    most : int
        Rows of each at most, drawn with a fixed seed.
    progress : callable
        Told how far it is.

    Returns
    -------
    pandas.DataFrame
        One row an evaluation row: ``run``, ``prompt``, ``routed``, ``confidence``, and ``place`` among its run's.

    Raises
    ------
    RunError
        If no run has an evaluation set whose rows are still in the store.
    """
    import pandas

    rows: list[tuple[Any, ...]] = []
    for name, run in runs.items():
        if not (sides := kept(run.folder)) or not len(sides.held_out):
            continue
        asked = prompts_of(sides.held_out, board.tokenizer, run.spec.system, run.facts.chat, most)
        progress(len(rows) / (most * len(runs)), f"routing the evaluation rows of {name}")
        found = zip(places_of(len(sides.held_out), most), board.route(asked), strict=True)
        rows += [(name, route.prompt, route.name, route.confidence, place) for place, route in found]
    if not rows:
        raise RunError(
            "no run has an evaluation set whose rows are in the store; train with eval_data or eval_fraction"
        )
    return pandas.DataFrame(rows, columns=["run", "prompt", "routed", "confidence", "place"])


def confusion(found: pandas.DataFrame, names: Sequence[str]) -> pandas.DataFrame:
    """Count to whom the evaluation rows of each run were routed.

    Parameters
    ----------
    found : pandas.DataFrame
        As of :func:`routed`.
    names : sequence of str
        The columns.

    Returns
    -------
    pandas.DataFrame
        One row a run, one column for each that prompts can be routed to.
    """
    import pandas

    counts = pandas.crosstab(found["run"], found["routed"])
    own = [name for name in names if name in counts.index]
    return counts.reindex(index=own, columns=list(names), fill_value=0)


def measure(
    board: Switchboard, runs: Mapping[str, Run], found: pandas.DataFrame, progress: Progress = silent
) -> pandas.DataFrame:
    """Measure the loss of each run's evaluation rows with every adapter and with the base, and sum up.

    Parameters
    ----------
    board : Switchboard
        What routed.
    runs : mapping of str to Run
        Its adapters by their names there.
    found : pandas.DataFrame
        As of :func:`routed`.
    progress : callable
        Told how far it is.

    Returns
    -------
    pandas.DataFrame
        One row a run, in nats per supervised token: ``base``, ``alone`` (its own adapter), ``routed`` (whoever each
        row was routed to) and ``oracle`` (whoever of all is best for each row, which is only known afterwards); with
        ``rows``, and ``right``, the share of them that went to the run.

    Raises
    ------
    MethodError
        If a run's loss is not one per token.
    """
    import numpy
    import pandas

    from peft_nb.evaluation.measure import predictions
    from peft_nb.training.objectives import Padded

    for name, run in runs.items():
        if run.adapter.task.unit != "token":
            raise MethodError(
                f"{name}: {run.spec.task} has no loss per token to compare; confusion() says who is right"
            )
    choices = [*runs, BASE]
    examples = []
    for name, run in runs.items():
        sides = kept(run.folder)
        own = found.loc[found["run"] == name, "place"]
        examples += [sides.held_out[int(place)] for place in own] if sides else []
    before, losses = board.active, numpy.zeros((len(examples), len(choices)))
    plain = Padded(board.tokenizer.pad_token_id or 0)  # right for adapters of any method
    try:
        for column, choice in enumerate(choices):
            board.active = None if choice == BASE else choice
            heed = partial(progress, column / len(choices), f"measuring {choice} on {len(examples):,} evaluation rows")
            losses[:, column] = predictions(board.model.eval(), plain, examples, heed).losses
    finally:
        board.active = before
    targets = numpy.array([example.supervised[1:].count(1) for example in examples])
    table = []
    for name in runs:
        at = (found["run"] == name).to_numpy()
        if not at.any():
            continue
        of, to = losses[at], [choices.index(one) for one in found["routed"][at]]
        took = of[numpy.arange(len(of)), to]
        sums = of[:, -1].sum(), of[:, choices.index(name)].sum(), took.sum(), of.min(1).sum()
        table.append(
            (name, *(one / targets[at].sum() for one in sums), len(of), float((found["routed"][at] == name).mean()))
        )
    columns = ["run", "base", "alone", "routed", "oracle", "rows", "right"]
    return pandas.DataFrame(table, columns=columns).set_index("run")
