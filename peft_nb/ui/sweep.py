"""``peft_nb.sweep``: trials of one run with other settings, as a table and charts while they run and afterwards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any

from peft_nb.errors import RunError, StoreError
from peft_nb.runs.context import Inputs
from peft_nb.runs.run import Run, load
from peft_nb.runs.sweeps import results, search
from peft_nb.runs.sweeps.search import Search
from peft_nb.runs.sweeps.study import importances
from peft_nb.spec.place import Place
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Store, SweepRecord, Trial
from peft_nb.system import frontend
from peft_nb.system.display import Displayed, panel_of
from peft_nb.ui import sweep_page
from peft_nb.ui.arguments import live_objects
from peft_nb.ui.surfaces import NotebookSurface

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

DRAW_S = 1.0  # between two drawings


def sweep(
    fields: Mapping[str, Any] | None = None,
    *,
    data: Any = None,
    eval_data: Any = None,
    model: Any = None,
    score: Any = None,
    reward: Any = None,
    background: bool = False,
    store: Store | None = None,
    **more: Any,
) -> Sweep:
    """Train a model several times with other settings, and show which do best.

    Parameters
    ----------
    fields : mapping, optional
        Which fields take several values: ``{"learning_rate": [1e-4, 3e-4], "r": {"low": 4, "high": 64, "log": True}}``.
    data, eval_data, model, score, reward
        As of :func:`peft_nb.train`.
    background : bool
        Return at once; the trials go on in threads.
    store : Store, optional
        Where the sweep and its runs live; default ``peft_runs`` in the working folder.
    **more
        ``trials``, ``minutes``, ``search``, ``minimize`` and ``parallel``, any field of :class:`peft_nb.RunSpec` for
        all trials alike, and where to train: ``on``, ``workers``, ``cpus``, ``gpus`` and ``keep``.

    Returns
    -------
    Sweep
        Over, unless ``background``: ``.table``, ``.best()``, ``.front()``, ``.plot()``.

    Raises
    ------
    PeftNbError
        What is wrong, in one line; also that no trial could finish.
    """
    given = {"data": data, "eval_data": eval_data, "model": model, "score": score, "reward": reward}
    said, live = live_objects(**given)
    varied = {} if fields is None else {"sweep": dict(fields)}
    place = Place.taken(more)
    spec = SweepSpec(**varied, **more, **said)
    begun = search.begin(spec, **live, namespace=frontend.variables(), store=store, place=place)
    return watch(begun, background=background)


class Sweep(Displayed):
    """A sweep, at work or from the store; a notebook shows it as a page, a terminal as text.

    Parameters
    ----------
    word : str
        Its id or name; of a name its newest sweep.
    store : Store, optional
        Where it is; default ``peft_runs`` in the working folder.

    Raises
    ------
    StoreError
        If there is none.
    """

    panel = cached_property(panel_of)  # always the same one

    def __init__(self, word: str, store: Store | None = None) -> None:
        self.store = store or Store()
        record = self.store.sweeps.get(word)
        self.id, self.spec = record.id, SweepSpec.from_yaml(record.spec_yaml)
        self._search = next((one for one in search.active() if one.id == record.id), None)

    # ---- what is known

    @property
    def record(self) -> SweepRecord:
        """What the store knows about it now."""
        return self.store.sweeps.get(self.id)

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``stopped`` or ``failed``."""
        return self.record.status

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Its trials, in the order in which they began."""
        return self.record.trials

    @property
    def table(self) -> pandas.DataFrame:
        """One row a trial: what was varied, how it ended, what was measured, and the id of its run."""
        return results.table(self.spec, self.record)

    @property
    def importances(self) -> dict[str, float]:
        """How much of the differences between finished trials each varied field explains: shares, by PED-ANOVA."""
        return self._search.importances() if self._search else importances(self.spec, self.trials)

    def best(self, by: str | None = None) -> Run:
        """Give the run that is best by a metric.

        Parameters
        ----------
        by : str, optional
            A metric; by default what the sweep minimizes, of several the first.

        Returns
        -------
        Run
            An ordinary run, which finished.

        Raises
        ------
        RunError
            If there is no such metric, or no trial that finished has it.
        """
        return load(str(results.best(self.record, by or self.spec.minimize[0]).run), store=self.store)

    def front(self, by: Sequence[str] | None = None) -> pandas.DataFrame:
        """Give the Pareto front: the finished trials than which none other is as good in all metrics and better in one.

        Parameters
        ----------
        by : sequence of str, optional
            Metrics; by default those that the sweep minimizes.

        Returns
        -------
        pandas.DataFrame
            Those rows of :attr:`table`, the best by the first metric first.

        Raises
        ------
        RunError
            If there is no such metric.
        """
        chosen = results.front(self.record, by or self.spec.minimize)
        return self.table.loc[[one.number for one in chosen]]

    def plot(self, x: str | None = None, y: str | None = None) -> Figure:
        """Draw the best so far over time, or two numbers of the trials against each other.

        Parameters
        ----------
        x, y : str, optional
            Varied fields, metrics or ``seconds``; by default the time, and what the sweep minimizes.

        Returns
        -------
        matplotlib.figure.Figure
            Shown by a notebook as it is.

        Raises
        ------
        RunError
            If no trial has both numbers.
        """
        from peft_nb.plots import scatter

        record, shown = self.record, y or self.spec.minimize[0]
        points, log = sweep_page.points(record, x or "", shown), bool(x) and sweep_page.logarithmic(self.spec, str(x))
        if not points:
            raise RunError(f"no trial of sweep {self.id} has both {x or 'an end'} and {shown}")
        kinds: dict[str, list[tuple[float, float]]] = {}
        for one in points:
            kinds.setdefault(one.kind, []).append((one.x, one.y))
        steps = [] if x else results.so_far(record, shown)
        return scatter(kinds, sweep_page.title(x or "seconds"), sweep_page.title(shown), steps, log)

    # ---- its life

    @property
    def at_work(self) -> bool:
        """Whether this process is searching."""
        return self._search is not None and not self._search.over

    @property
    def version(self) -> int:
        """Grows, while this process is searching, with whatever can be seen."""
        return self._search.version if self._search else 0

    @property
    def progress(self) -> dict[int, tuple[int, int]]:
        """Of each trial at work in this process, the step it is at and how many there are."""
        return dict(self._search.progress) if self._search else {}

    def stop(self) -> None:
        """End the search; trials at work end after their current step, and what is done is kept.

        Raises
        ------
        RunError
            If this process is not at work on it.
        """
        if not self._search or self._search.over:
            raise RunError(f"sweep {self.id} is {self.status}, and this kernel is not at work on it")
        self._search.stop()

    def wait(self, timeout: float | None = None, tick: Callable[[], None] | None = None) -> Sweep:
        """Block until the search is over; parameters and errors as of :meth:`peft_nb.Run.wait`."""
        if self._search:
            self._search.wait(timeout, tick)
        return self

    def resume(
        self,
        *,
        trials: int | None = None,
        minutes: float | None = None,
        data: Any = None,
        eval_data: Any = None,
        model: Any = None,
        score: Any = None,
        reward: Any = None,
        background: bool = False,
        **where: Any,
    ) -> Sweep:
        """Go on where the sweep was; trials that were at work go on from their checkpoints, or begin again.

        Parameters
        ----------
        trials, minutes : optional
            How many trials there are to be in all, and how much more time there is; by default as before.
        data, eval_data, model, score, reward : optional
            What was passed as live objects, once more.
        background : bool
            Return at once.
        **where
            Where trials are executed: ``on``, ``workers``, ``cpus``, ``gpus`` and ``keep`` as of :func:`peft_nb.train`.

        Returns
        -------
        Sweep
            This one.

        Raises
        ------
        PeftNbError
            If it is at work, its rows are not at hand, or no trial could finish.
        """
        inputs = Inputs(data, eval_data, model, score, reward, frontend.variables())
        self.go_on(inputs, trials, minutes, Place.of(**where))
        return follow(self, background=background)

    def go_on(
        self, inputs: Inputs, trials: int | None = None, minutes: float | None = None, place: Place | None = None
    ) -> None:
        """Resume without showing it; returns at once."""
        self._search = search.resume(self.id, inputs, trials=trials, minutes=minutes, store=self.store, place=place)
        self.spec = self._search.spec

    # ---- how it is shown

    def __repr__(self) -> str:
        return sweep_page.text(self.spec, self.record, self.progress)

    def _repr_html_(self) -> str:
        return sweep_page.html(self.spec, self.record, self.progress, self.importances)


def watch(begun: Search, *, background: bool = False, then: Callable[[Sweep], None] = lambda sweep: None) -> Sweep:
    """Show a search until it is over; `then` is called at its end with a sweep of which some trial finished."""
    found = Sweep(begun.id, begun.store)
    found._search = begun  # also where it is over by now
    return follow(found, background=background, then=then)


def follow(sweep: Sweep, *, background: bool = False, then: Callable[[Sweep], None] = lambda sweep: None) -> Sweep:
    """Show a sweep at work until it is over; parameters as of :func:`watch`."""
    draw = _surface(sweep)
    draw(False)

    def to_the_end() -> None:
        try:
            sweep.wait(tick=lambda: draw(False))
        finally:
            draw(True)
            if results.finished(sweep.record):
                then(sweep)

    if background:

        def quietly() -> None:
            with suppress(RunError):  # which stands in what was drawn
                to_the_end()

        threading.Thread(target=quietly, name=f"peft_nb-panel-{sweep.id}", daemon=True).start()
    else:
        to_the_end()
    return sweep


def _surface(sweep: Sweep) -> Callable[[bool], None]:
    """What draws a sweep where the caller's output goes; told whether it is the last time."""
    seen: list[tuple[float, int]] = []
    if frontend.widgets():
        from IPython.display import display

        panel = sweep.panel
        panel.result = sweep
        display(panel)

        def show(last: bool) -> None:
            panel.draw(now=True)
            if last:
                panel.keep()

    elif frontend.frontend() == "terminal":
        told: set[str] = set()

        def show(last: bool) -> None:
            for line in sweep_page.news(sweep.spec, sweep.record):
                if line not in told:
                    told.add(line)
                    print(line, flush=True)
            if last:
                print(sweep, flush=True)

    else:
        surface = NotebookSurface()

        def show(last: bool) -> None:
            surface.put(sweep._repr_html_(), repr(sweep))

    def draw(last: bool) -> None:
        now = time.monotonic()
        if last or not seen or (now - seen[-1][0] >= DRAW_S and sweep.version != seen[-1][1]):
            seen[:] = [(now, sweep.version)]
            with suppress(StoreError):  # a disk that is busy now is read the next time
                show(last)

    return draw
