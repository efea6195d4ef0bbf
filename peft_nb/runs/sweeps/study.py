"""The search itself, which is Optuna's: it chooses values, says which trials to stop early, and ranks what was varied.

It lives in memory. The store alone keeps what came of the trials; of these a study is made anew to go on.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from peft_nb.errors import RunError
from peft_nb.methods.registry import FIELDS, REGISTRY
from peft_nb.spec.sweep import Range, SweepSpec, Values, key
from peft_nb.store import Trial

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.trial import Trial as Asked

REDUCTION = 4  # one of so many trials goes on at each rung: after the first and the fourth evaluation
STARTUP = 4  # trials whose values are drawn at random, at least, before TPE learns from them
DIGITS = 3  # of a number that is drawn: a cell is to be read
REPEATS = 200  # draws in a row that were all tried before: there is nothing left


class Study:
    """Chooses the trials of a sweep; not safe to use from several threads at once.

    Parameters
    ----------
    spec : SweepSpec
        What is searched.
    seed : int, optional
        Fixes what is drawn; by default that of the runs.
    pruner : optuna.pruners.BasePruner, optional
        What stops trials early; by default successive halving where the sweep halves, else nothing.
    search : str, optional
        How values are chosen in place of what the spec says.

    Raises
    ------
    RunError
        If Optuna is not installed.
    """

    def __init__(
        self, spec: SweepSpec, seed: int | None = None, pruner: BasePruner | None = None, search: str = ""
    ) -> None:
        optuna, seed = _optuna(), spec.run.seed if seed is None else seed
        startup = max(STARTUP, min(10, int(min(spec.most, 40)) // 4))
        samplers: dict[str, Callable[[], Any]] = {
            "tpe": lambda: optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup),
            "random": lambda: optuna.samplers.RandomSampler(seed=seed),
            "grid": lambda: optuna.samplers.BruteForceSampler(seed=seed),
        }
        halving = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=REDUCTION)
        self._spec, self._states = spec, optuna.trial.TrialState
        self._importances = optuna.importance.get_param_importances
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Optuna, on what it calls experimental
            self._study = optuna.create_study(
                directions=["minimize"] * len(spec.minimize),
                sampler=samplers[search or spec.search](),
                pruner=pruner or (halving if spec.halves else optuna.pruners.NopPruner()),
            )
        self._results: dict[str, tuple[Sequence[float] | None, str]] = {}  # of combinations that were tried
        self._tried: set[str] = set()

    def enqueue(self, values: Mapping[str, Any]) -> bool:
        """Have some values tried before all that are drawn, if the sweep holds them; whether it does."""
        fitting = {name: value for name, value in values.items() if name in self._spec.space}
        if not all(self._spec.space[name].holds(value) for name, value in fitting.items()):
            return False
        self._study.enqueue_trial({name: _code(self._spec.space[name], value) for name, value in fitting.items()})
        return True

    def ask(self) -> tuple[Asked, dict[str, Any]] | None:
        """Choose the values of a new trial.

        Returns
        -------
        tuple of optuna.trial.Trial and dict, or None
            Fields that the chosen method has no use for are left out. None when every combination was tried.
        """
        for _ in range(REPEATS):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of Optuna, on values that were enqueued
                asked = self._study.ask()
                values = self._suggested(asked)
            known = key(values)
            if known not in self._tried:
                self._tried.add(known)
                return asked, values
            self._tell(asked, *self._results.get(known, (None, "FAIL")))  # what was tried before is not run again
        return None

    def replay(self, trial: Trial) -> Asked:
        """Ask for a trial that began before, and report what it measured; it may go on, or be told."""
        self.enqueue(trial.values)
        asked = self._study.ask()
        self._tried.add(key(self._suggested(asked)))
        for place, (_, loss) in enumerate(trial.losses, 1):
            self.report(asked, loss, place)
        return asked

    def report(self, asked: Asked, loss: float, place: int) -> bool:
        """Report the eval loss of the evaluation at a place, from 1; whether the trial is to stop.

        With several metrics to minimize none is stopped: one with a high loss may be the smallest.
        """
        if len(self._spec.minimize) > 1:
            return False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of one that is reported again after it was resumed
            asked.report(loss, place)
        return bool(asked.should_prune())

    def tell(self, asked: Asked, values: Mapping[str, Any], found: Sequence[float] | None, state: str) -> None:
        """Tell how a trial ended.

        Parameters
        ----------
        asked : optuna.trial.Trial
            As :meth:`ask` gave it.
        values : mapping
            Likewise.
        found : sequence of float or None
            What is minimized, if the trial finished.
        state : {"finished", "pruned", "failed"}
            How it ended.
        """
        name = {"finished": "COMPLETE", "pruned": "PRUNED"}.get(state, "FAIL")
        self._results[key(values)] = (found, name)
        self._tell(asked, found, name)

    def standing(self, place: int, loss: float) -> tuple[int, int]:
        """Say which rank a loss has among all trials at the evaluation at a place, and among how many."""
        others = [one.intermediate_values.get(place) for one in self._study.get_trials(deepcopy=False)]
        known = sorted(one for one in others if one is not None)
        return 1 + sum(one < loss for one in known), len(known)

    def importances(self) -> dict[str, float]:
        """How much of the differences between finished trials each varied field explains; shares that add up to 1.

        For the first of several metrics; empty while fewer than four trials have finished. By PED-ANOVA, Watanabe et
        al., 2023, arXiv:2304.10255.
        """
        complete = self._study.get_trials(deepcopy=False, states=(self._states.COMPLETE,))
        if len(complete) < 4 or len({one.values[0] for one in complete}) < 2:
            return {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = self._importances(self._study, target=lambda one: one.values[0])
        return {name: float(share) for name, share in found.items()}

    def _suggested(self, asked: Asked) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, dimension in self._spec.space.items():
            method = REGISTRY[values.get("method", self._spec.run.method)]
            if name in FIELDS and name not in method.fields:
                continue
            values[name] = _suggest(asked, name, dimension)
        return values

    def _tell(self, asked: Asked, found: Sequence[float] | None, state: str) -> None:
        with suppress(RuntimeError):  # a grid of which nothing is left would end a loop of Optuna's own
            self._study.tell(asked, list(found) if found else None, state=self._states[state])


def importances(spec: SweepSpec, trials: Sequence[Trial]) -> dict[str, float]:
    """Give :meth:`Study.importances` of trials that the store holds; empty without Optuna."""
    with suppress(RunError):
        study = Study(spec, search="random")  # which chooses nothing here
        for trial in trials:
            if trial.state == "finished" and (found := results(spec, trial.metrics)):
                study.tell(study.replay(trial), trial.values, found, "finished")
        return study.importances()
    return {}


def results(spec: SweepSpec, metrics: Mapping[str, Any]) -> list[float] | None:
    """Give what a sweep minimizes out of a run's metrics; None where any of it was not measured."""
    found = [metrics.get(name) for name in spec.minimize]
    return None if any(one is None for one in found) else [float(one) for one in found if one is not None]


def _numbers(dimension: Values) -> list[Any] | None:
    """The values in order, if they are numbers: what lies between two is likely like both."""
    numeric = all(isinstance(one, int | float) and not isinstance(one, bool) for one in dimension.values)
    return sorted(dimension.values) if numeric else None


def _code(dimension: Values | Range, value: Any) -> Any:
    """What stands for a value in the study, which takes no lists and mappings."""
    if isinstance(dimension, Range):
        return value
    return (_numbers(dimension) or list(dimension.values)).index(value)


def _suggest(asked: Asked, name: str, dimension: Values | Range) -> Any:
    if isinstance(dimension, Range):
        if dimension.whole:
            return asked.suggest_int(name, int(dimension.low), int(dimension.high), log=dimension.log)
        drawn = float(f"{asked.suggest_float(name, dimension.low, dimension.high, log=dimension.log):.{DIGITS}g}")
        return min(max(drawn, dimension.low), dimension.high)
    if numbers := _numbers(dimension):
        return numbers[asked.suggest_int(name, 0, len(numbers) - 1)]
    return dimension.values[asked.suggest_categorical(name, list(range(len(dimension.values))))]


def _optuna() -> Any:
    """Import Optuna, which then prints nothing; RunError if it is not installed."""
    try:
        import optuna
    except ImportError:
        raise RunError("a sweep needs the package optuna; %pip install 'peft_nb[sweep]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna
