"""``peft_nb.discover``: the adapters worth having for some rows, a recommendation in two sentences, and its cell."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from peft_nb.errors import RunError
from peft_nb.metrics import METRICS
from peft_nb.runs.context import Inputs
from peft_nb.runs.run import Run, load
from peft_nb.runs.sweeps import results, search
from peft_nb.runs.sweeps.discover import plan
from peft_nb.spec import RunSpec
from peft_nb.store import Store, Trial
from peft_nb.system import frontend
from peft_nb.ui import sweep_page, wording
from peft_nb.ui.arguments import live_objects
from peft_nb.ui.style import BOX
from peft_nb.ui.sweep import Sweep, watch

if TYPE_CHECKING:
    import pandas

COLUMNS = ("eval_loss", "score", "accuracy", "forgetting", "adapter_mb", "latency_ms")
NEAR = 0.01  # of the lowest eval loss: what is no farther above it counts as good as the best


def discover(
    data: Any,
    *,
    minutes: float = 30.0,
    eval_data: Any = None,
    model: Any = None,
    background: bool = False,
    store: Store | None = None,
    **fields: Any,
) -> Discovery:
    """Search methods, ranks, layers and learning rates for the best adapter for some rows.

    It begins with what :func:`%peft advise` recommends and with the settings of the best earlier runs on like rows, and
    looks for a low eval loss, little forgetting and a small adapter at once.

    Parameters
    ----------
    data : str, DataFrame, list of dict, Dataset or DatasetDict
        What to train on, or its name.
    minutes : float, default 30
        How long it may take.
    eval_data, model
        As of :func:`peft_nb.train`.
    background : bool
        Return at once.
    store : Store, optional
        Where the runs live; default ``peft_runs`` in the working folder.
    **fields
        Fields of :class:`peft_nb.RunSpec` that are fixed, such as ``method`` or ``max_steps``.

    Returns
    -------
    Discovery
        ``.table``, ``.recommendation``, ``.cell``, ``.best()`` and ``.sweep``.

    Raises
    ------
    PeftNbError
        What is wrong, in one line; also that no trial could finish.
    """
    said, live = live_objects(data=data, eval_data=eval_data, model=model)
    return discovered({**fields, **said}, live, minutes, frontend.variables(), background=background, store=store)


def discovered(
    fields: Mapping[str, Any],
    live: Mapping[str, Any],
    minutes: float,
    namespace: Mapping[str, Any],
    *,
    background: bool = False,
    store: Store | None = None,
    bind: Callable[[Discovery], None] = lambda found: None,
) -> Discovery:
    """Discover from unchecked fields and live objects, show it meanwhile, and bind what is found at once."""
    store = store or Store()
    wanted = plan(fields, Inputs(**live, namespace=namespace), minutes, store)
    begun = search.begin(wanted.spec, **live, namespace=namespace, first=wanted.first, notes=wanted.told, store=store)
    found = Discovery(Sweep(begun.id, store))
    bind(found)
    watch(begun, background=background)
    return found


class Discovery:
    """What a search for an adapter came to; a notebook shows it as a page, a terminal as text.

    Parameters
    ----------
    sweep : Sweep
        The search.

    Attributes
    ----------
    sweep : Sweep
        All trials.
    """

    def __init__(self, sweep: Sweep) -> None:
        self.sweep = sweep

    @property
    def table(self) -> pandas.DataFrame:
        """The Pareto front, one row an adapter: its settings, score, forgetting, size in MB and ms a token."""
        front = self.sweep.front()
        varied, shown = [*self.sweep.spec.space], [name for name in COLUMNS if name in front]
        measured = [name for name in shown if front[name].notna().any()]
        return front[[*varied, *measured, "run"]]

    @property
    def choice(self) -> Trial:
        """The trial recommended: of those within 1 % of the lowest eval loss the one with the smallest adapter.

        Raises
        ------
        RunError
            If no trial has finished.
        """
        front = results.front(self.sweep.record, self.sweep.spec.minimize)
        if not front:
            raise RunError(f"sweep {self.sweep.id} has no adapter to recommend: no trial has finished")
        lowest = front[0].metrics["eval_loss"]
        near = [one for one in front if one.metrics["eval_loss"] <= lowest + NEAR * abs(lowest)]
        return min(near, key=lambda one: float(one.metrics["adapter_mb"]))

    def best(self) -> Run:
        """Give the run that is recommended."""
        return load(str(self.choice.run), store=self.sweep.store)

    @property
    def spec(self) -> RunSpec:
        """The settings that are recommended."""
        return self.sweep.spec.trial(self.choice.values)

    @property
    def cell(self) -> str:
        """The notebook cell that trains it anew."""
        return self.spec.to_magic(out="run")

    @property
    def recommendation(self) -> str:
        """Which adapter to take and why, and what it costs, in two sentences."""
        chosen, front = self.choice, results.front(self.sweep.record, self.sweep.spec.minimize)
        finished = results.finished(self.sweep.record)
        loss, first = wording.loss(chosen.metrics["eval_loss"]), front[0]
        if chosen.number == first.number:
            why = f"has the lowest eval loss, {loss}, of {wording.count(len(finished), 'finished trial')}"
        else:
            size = wording.memory(first.metrics["adapter_mb"])
            lowest = wording.loss(first.metrics["eval_loss"])
            why = f"has an eval loss of {loss}, within 1 % of the lowest ({lowest}, with an adapter of {size})"
        method = self.spec.method
        settings = sweep_page.said({name: one for name, one in chosen.values.items() if name != "method"})
        measured = [
            f"{METRICS[name].title} {wording.measured(chosen.metrics[name], METRICS[name].unit)}"
            for name in COLUMNS[1:]
            if chosen.metrics.get(name) is not None
        ]
        return f"Take {method} ({settings}): it {why}. Measured: {', '.join(measured)}."

    def _shown(self) -> pandas.DataFrame:
        """The table in the words of the sweep's own."""
        found, trials = self.table, {one.number: one.values for one in self.sweep.trials}
        for name in self.sweep.spec.space:
            if found[name].dtype == object:
                given = [trials[number] for number in found.index]
                found[name] = [sweep_page.value(one[name]) if name in one else "" for one in given]
        return found.rename(columns={name: sweep_page.title(name) for name in COLUMNS})

    def __repr__(self) -> str:
        if not results.finished(self.sweep.record):
            return repr(self.sweep)
        from peft_nb.ui import listing

        return "\n\n".join([listing.text(self._shown()), self.recommendation, self.cell]).rstrip()

    def _repr_html_(self) -> str:
        if not results.finished(self.sweep.record):
            return self.sweep._repr_html_()
        from peft_nb.ui import listing

        table = listing.html(self._shown())
        return f'<div style="{BOX}">{table}<p>{escape(self.recommendation)}</p><pre>{escape(self.cell)}</pre></div>'
