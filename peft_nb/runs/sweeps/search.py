"""One sweep at work: trial after trial is begun, watched, stopped early or told to its end; the store keeps all of it.

A trial is an ordinary run, executed wherever the sweep says.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from peft_nb.errors import PeftNbError, RunError, SpecError, StoreError
from peft_nb.events import Evaluated, Event, Planned, Resumed, StatusChanged, StepLogged
from peft_nb.models.quiet import first_line
from peft_nb.runs import executors, rows, run
from peft_nb.runs.context import Inputs
from peft_nb.runs.run import TICK_S, Run
from peft_nb.runs.sweeps import forecast
from peft_nb.runs.sweeps.forecast import sizes
from peft_nb.runs.sweeps.study import REDUCTION, Study, results
from peft_nb.spec import RunSpec
from peft_nb.spec.place import Place
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Store, SweepRecord, Trial
from peft_nb.store.sweeps import UNFINISHED, TrialState
from peft_nb.tasks import TASKS

GIVEN = ("data", "eval_data", "model", "score", "reward", "namespace")  # of the inputs, to each trial

_searching: dict[str, Search] = {}


class Search:
    """A sweep that this process is at work on.

    Parameters
    ----------
    store : Store
        Where the sweep and its runs live.
    spec : SweepSpec
        What is searched.
    inputs : Inputs
        What was passed in place of names.
    place : Place, optional
        Where trials are executed; by default in this process.
    study : Study, optional
        What chooses the trials; by default what the spec says.

    Attributes
    ----------
    id : str
        The sweep, once it has begun.
    version : int
        Grows with whatever can be seen of the sweep.
    progress : dict
        Of each trial at work, by its number, the step it is at and how many there are.

    Raises
    ------
    PeftNbError
        What is wrong with the rows, which all trials share.
    """

    def __init__(
        self,
        store: Store,
        spec: SweepSpec,
        inputs: Inputs,
        place: Place | None = None,
        study: Study | None = None,
    ) -> None:
        self.store, self.spec, self.inputs = store, spec, inputs
        self.place = replace(place or Place(), at_once=spec.parallel)
        self.id = ""
        self.study = study or Study(spec)
        self.version, self.progress = 0, dict[int, tuple[int, int]]()
        self._lock = threading.RLock()  # of the study, and of all that is counted
        self._stopping, self._time_over, self._over = False, False, threading.Event()
        self._active: dict[int, Run] = {}
        self._waiting: list[tuple[Trial, Any]] = []  # trials to go on with
        self._begun, self._finished = 0, 0
        self._exhausted, self._error = False, ""
        _, self._table, self._facts = rows.read(spec.run, inputs)

    @property
    def record(self) -> SweepRecord:
        """The sweep as the store knows it now."""
        return self.store.sweeps.get(self.id)

    def importances(self) -> dict[str, float]:
        """Give :meth:`Study.importances` of the trials so far."""
        with self._lock:
            return self.study.importances()

    # ---- its life

    def begin(self, id: str) -> None:
        """Take up the trials that a sweep has, and search in a thread; returns at once."""
        self.id = id
        told = self.record
        for trial in told.trials:
            asked = self.study.replay(trial)
            if trial.state in UNFINISHED:
                self._waiting.append((trial, asked))
                continue
            found = results(self.spec, trial.metrics) if trial.state == "finished" else None
            self.study.tell(asked, trial.values, found, trial.state if found or trial.state != "finished" else "failed")
            self._finished += found is not None
        self._begun = len(told.trials)
        _searching[id] = self
        threading.Thread(target=self._search, args=(told.seconds,), name=f"peft_nb-{id}", daemon=True).start()

    def stop(self, *, now: bool = False) -> None:
        """End the search; trials at work end after their current step, or at once, and what is done is kept."""
        self._stopping = True
        for active in list(self._active.values()):
            with suppress(PeftNbError):  # it has ended meanwhile
                active.stop(now=now)

    def wait(self, timeout: float | None = None, tick: Callable[[], None] | None = None) -> None:
        """Block until the search is over; the first interrupt of the kernel stops it, the second at once.

        Parameters
        ----------
        timeout : float, optional
            Seconds after which to return anyway.
        tick : callable, optional
            Called about ten times a second in the calling thread.

        Raises
        ------
        RunError
            If no trial could finish, with the first reason.
        """
        until = math.inf if timeout is None else time.monotonic() + timeout
        while time.monotonic() < until:
            try:
                over = self._over.wait(TICK_S)
                if tick:
                    tick()
                if over:
                    break
            except KeyboardInterrupt:
                self.stop(now=self._stopping)
        if self._over.is_set() and self._error:
            raise RunError(f"sweep {self.id}: {self._error}")

    @property
    def over(self) -> bool:
        """Whether nothing is at work any more."""
        return self._over.is_set()

    # ---- the search

    def _search(self, before_s: float) -> None:
        """Run all trials, and say how the sweep ended, whatever happens."""
        began, timer = time.monotonic(), None
        status, reason = "failed", ""
        try:
            if not self.record.forecast:
                for note in forecast.notes(self.spec, self.place):
                    self.store.sweeps.note(self.id, note)
                ahead = forecast.foresee(self.spec, self._table, self._facts, self.inputs)
                self.store.sweeps.foretell(self.id, ahead.to_dict())
                self.version += 1
            if self.spec.minutes:
                left = max(0.0, 60 * self.spec.minutes - before_s - (time.monotonic() - began))
                timer = threading.Timer(left, self._end_of_time)
                timer.daemon = True
                timer.start()
            workers = [
                threading.Thread(target=self._trials, name=f"peft_nb-{self.id}-{place}", daemon=True)
                for place in range(self.spec.parallel)
            ]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            status, reason = self._outcome()
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
        finally:
            if timer:
                timer.cancel()
            self._error = reason if status == "failed" else ""
            with suppress(PeftNbError):
                self.store.sweeps.worked(self.id, before_s + time.monotonic() - began)
                self.store.sweeps.end(self.id, status, reason)  # type: ignore[arg-type]
            _searching.pop(self.id, None)
            self.version += 1
            self._over.set()

    def _outcome(self) -> tuple[str, str]:
        if self._stopping:
            return "stopped", f"after {self._begun} trials"
        if not self._finished:
            trials = self.record.trials
            failed = next((one.reason for one in trials if one.state == "failed"), "")
            return "failed", f"no trial finished{': ' if failed else ''}{failed}"
        return "finished", "the time is over" if self._time_over else "every combination was tried" * self._exhausted

    def _end_of_time(self) -> None:
        """Begin no more trials, and stop those at work; where none has finished yet, these go on to their end."""
        self._time_over = True
        if self._finished:
            for active in list(self._active.values()):
                with suppress(PeftNbError):
                    active.stop()

    def _trials(self) -> None:
        """Run one trial after the other until there are no more; several threads may do so."""
        while given := self._next():
            self._trial(*given)

    def _next(self) -> tuple[int, Any, dict[str, Any], Trial | None] | None:
        with self._lock:
            if self._stopping or (self._time_over and self._begun):  # however little time there is, one begins
                return None
            if self._waiting:
                trial, asked = self._waiting.pop(0)
                return trial.number, asked, trial.values, trial
            if self._begun >= self.spec.most:
                return None
            if not (found := self.study.ask()):
                self._exhausted = True
                return None
            self._begun += 1
            return self._begun, *found, None

    def _trial(self, number: int, asked: Any, values: dict[str, Any], before: Trial | None) -> None:
        """Run one trial to its end, whatever that is."""
        began = time.monotonic()
        watch = _Watch(self, asked, number, [step for step, _ in before.losses] if before else [])
        state: TrialState = "failed"
        found: list[float] | None = None
        try:
            self.store.sweeps.begin_trial(self.id, number, values)
            state, reason = self._run(number, values, before, watch)
            if state == "finished":
                metrics = next(one.metrics for one in self.record.trials if one.number == number)
                if (found := results(self.spec, metrics)) is None:
                    state, reason = self._unmeasured(metrics)
        except PeftNbError as error:
            reason = first_line(error)
        except Exception as error:
            reason = f"{type(error).__name__}: {first_line(error)}"
        watch.run = None  # which would hold the model until garbage is collected
        with self._lock:
            self._active.pop(number, None)
            self.progress.pop(number, None)
            if state != "stopped":
                self.study.tell(asked, values, found, state)
            self._finished += state == "finished"
        with suppress(PeftNbError):
            self.store.sweeps.end_trial(self.id, number, state, reason, time.monotonic() - began)
        self.version += 1

    def _unmeasured(self, metrics: Mapping[str, Any]) -> tuple[TrialState, str]:
        """How a trial ended whose run finished without all that is minimized."""
        missing = ", ".join(name for name in self.spec.minimize if metrics.get(name) is None)
        if self._time_over or self._stopping:
            return "stopped", f"{'the time is over, ' * self._time_over}before {missing} was measured"
        return "failed", f"{missing} was not measured; see judge, and what the task measures"

    def _run(
        self, number: int, values: Mapping[str, Any], before: Trial | None, watch: _Watch
    ) -> tuple[TrialState, str]:
        """Begin the run of a trial, or go on with it, and wait for its end."""
        if before and before.run:
            with suppress(PeftNbError):  # then it begins again
                return self._await(self._again(before.run, watch), number, watch)
            watch.steps.clear()
        given = {name: getattr(self.inputs, name) for name in GIVEN}
        trial = self.spec.trial(values, *sizes(self._table))
        table = replace(self._table)  # with nothing rendered yet: trials at once would get in each other's way
        begun = run.begin(trial, **given, listeners=[watch], store=self.store, place=self.place, table=table)
        self.store.sweeps.set_run(self.id, number, begun.id)
        self.store.tag(begun.id, self.id)
        return self._await(begun, number, watch)

    def _again(self, id: str, watch: _Watch) -> Run:
        """Let the run of a trial go on from its last checkpoint, unless it came to its end before it was told."""
        record = self.store.get(id)
        found = Run(record, self.store, RunSpec.from_yaml(record.spec_yaml), self.inputs)
        if found.status != "finished":
            return found.resume(background=True, listeners=[watch], **self.place.said)
        if results(self.spec, record.metrics) is None:
            raise RunError(f"run {id} was stopped before it was evaluated")
        return found

    def _await(self, begun: Run, number: int, watch: _Watch) -> tuple[TrialState, str]:
        self._active[number] = watch.run = begun
        late = self._time_over and self._finished > 0
        if self._stopping or late or watch.pruned:  # which was told before there was a run to stop
            begun.stop()
        begun.wait()
        if begun.status == "finished":
            return "finished", ""
        if watch.pruned:
            return "pruned", watch.pruned
        return "stopped", f"{'the time is over, ' * self._time_over}{begun.reason}"


class _Watch:
    """Hears the events of one trial: counts its steps, reports its eval losses, and stops it where it is to stop."""

    def __init__(self, search: Search, asked: Any, number: int, steps: list[int]) -> None:
        self.search, self.asked, self.number, self.steps = search, asked, number, steps
        self.run: Run | None = None
        self.pruned, self.total = "", 0

    def __call__(self, event: Event) -> None:
        match event:
            case Planned():
                self.total = event.total_steps
            case Resumed(step):
                self.steps = [one for one in self.steps if one <= step]
            case StepLogged():
                self.search.progress[self.number] = (event.step, self.total)
            case Evaluated(step, loss) if step > 0:
                self._evaluated(step, loss)
            case StatusChanged():
                pass
            case _:
                return
        self.search.version += 1

    def _evaluated(self, step: int, loss: float) -> None:
        if step not in self.steps:
            self.steps.append(step)
        place = self.steps.index(step) + 1
        with self.search._lock:
            poor = self.search.study.report(self.asked, loss, place)
            rank, among = self.search.study.standing(place, loss)
        if not poor or step >= self.total or self.pruned:
            return
        known = f"eval loss {loss:.3f} at step {step:,} is number {rank} of {among} trials there"
        self.pruned = f"{known}; one in {REDUCTION} goes on" if math.isfinite(loss) else "the eval loss is no number"
        if self.run:
            self.run.stop()


def begin(
    spec: SweepSpec,
    *,
    data: object = None,
    eval_data: object = None,
    model: object = None,
    score: object = None,
    reward: object = None,
    namespace: Mapping[str, Any] | None = None,
    first: Sequence[Mapping[str, Any]] = (),
    notes: Sequence[str] = (),
    store: Store | None = None,
    place: Place | None = None,
    study: Study | None = None,
) -> Search:
    """Begin a sweep and return at once.

    Parameters
    ----------
    spec : SweepSpec
        What is searched.
    data, eval_data, model, score, reward, namespace
        As of :func:`peft_nb.runs.run.begin`.
    first : sequence of mapping
        Values to try before any that are drawn; those that the sweep does not hold are left out.
    notes : sequence of str
        What the user should know, to be kept with the sweep.
    store : Store, optional
        Where the sweep and its runs live; default ``peft_runs`` in the working folder.
    place, study : optional
        As of :class:`Search`.

    Returns
    -------
    Search
        At work.

    Raises
    ------
    PeftNbError
        What can be found wrong before the first trial.
    """
    if wrong := unmeasured(spec):
        raise SpecError(wrong)
    inputs = Inputs(data, eval_data, model, score, reward, namespace or {})
    executors.refuse(place or Place(), spec.run, inputs)
    store, study = store or Store(), study or Study(spec)
    for values in first:
        study.enqueue(values)
    search = Search(store, spec, inputs, place, study)
    earlier = None
    with suppress(StoreError):
        earlier = store.sweeps.get(spec.run.name or "")
    id = store.sweeps.create(spec.to_yaml(), spec.run.name)
    for note in notes:
        store.sweeps.note(id, note)
    if earlier and earlier.status == "stopped":
        told = f"an earlier sweep of this name was stopped after {len(earlier.trials)} trials"
        store.sweeps.note(id, f"{told}; %peft sweep {earlier.id} --resume goes on with that one")
    search.begin(id)
    return search


def unmeasured(spec: SweepSpec) -> list[str]:
    """Say which metrics to minimize the trials will not have, a line each."""
    from peft_nb.evaluation.evaluators import PARTS

    task, judge = TASKS[spec.run.task], spec.run.judge
    parts = task.evaluator().parts(spec.run)
    missing = [name for part, names in PARTS.items() if part not in parts for name in names if name in spec.minimize]
    fix = "leave it out, or measure more with judge: full"
    return [f"minimize: {name} is not measured for {task.name} under judge: {judge}; {fix}" for name in missing]


def resume(
    word: str,
    inputs: Inputs | None = None,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    store: Store | None = None,
    place: Place | None = None,
) -> Search:
    """Go on with a sweep where it was: trials at work go on from their checkpoints, or begin again.

    Parameters
    ----------
    word : str
        The sweep, by its id or name.
    inputs : Inputs, optional
        What was passed in place of names, once more.
    trials, minutes : optional
        How many trials there are to be in all, and how much more time there is; by default as before.
    store, place : optional
        As of :func:`begin`.

    Returns
    -------
    Search
        At work.

    Raises
    ------
    PeftNbError
        If there is no such sweep, it is at work, or its rows are not at hand.
    """
    store = store or Store()
    record = store.sweeps.get(word)
    if record.id in _searching:
        raise RunError(f"sweep {record.id} is at work already")
    spec = SweepSpec.from_yaml(record.spec_yaml)
    more = {"trials": trials, "minutes": minutes and minutes + record.seconds / 60}
    if given := {name: value for name, value in more.items() if value is not None}:
        spec = SweepSpec(**{**spec.changed(), **given})
    search = Search(store, spec, inputs or Inputs(), place)
    store.sweeps.claim(record.id, spec.to_yaml())
    search.begin(record.id)
    return search


def active() -> list[Search]:
    """The sweeps that are at work in this process."""
    return list(_searching.values())
