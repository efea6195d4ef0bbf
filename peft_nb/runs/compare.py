"""Several runs and their base model side by side: what was measured, how they learned, what they answer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from peft_nb.data import prompts as kept_prompts
from peft_nb.data.prompts import Asked, Prompt
from peft_nb.errors import RunError
from peft_nb.events import Progress
from peft_nb.metrics import comparable
from peft_nb.runs.run import Run
from peft_nb.store import Store, Vote
from peft_nb.tasks import TASKS

BASE = "base"
Points = list[tuple[float, float]]


@dataclass
class Compared:
    """What :func:`gather` found; plain values, so that no model is held.

    Attributes
    ----------
    runs : dict of str to Run or None
        By the names they are shown with; None is the base model.
    facts : dict of str to dict
        For each of them what is known: ``method``, ``model``, ``data``, ``verdict`` and metrics.
    curves : dict of str to tuple
        Train and eval losses by step, of the runs.
    asked : list of Asked
        The prompts.
    answers : dict of str to list of str
        One answer a prompt; without those that cannot answer.
    unranked : dict of str to str
        Measures whose values say nothing about which is better here, and why.
    notes : list of str
        What a reader has to know.
    votes : list of Vote
        What people said of answers of two or more of them, here and in earlier comparisons.
    """

    runs: dict[str, Run | None]
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    curves: dict[str, tuple[Points, Points]] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    answers: dict[str, list[str]] = field(default_factory=dict)
    unranked: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    votes: list[Vote] = field(default_factory=list)

    @property
    def ids(self) -> dict[str, str]:
        """The ids of the runs by their names, ``base`` for the base model."""
        return {name: run.id if run else name for name, run in self.runs.items()}

    @property
    def loss_unit(self) -> str:
        """What the losses are measured in, of all kinds where the runs' tasks differ in it."""
        return ", ".join(dict.fromkeys(TASKS[run.spec.task].loss_unit for run in self.runs.values() if run))

    @property
    def stores(self) -> list[Store]:
        """Where the runs are, each store once."""
        return [Store(folder) for folder in dict.fromkeys(run.folder.parents[1] for run in self.runs.values() if run)]


def gather(
    runs: Mapping[str, Run | None], prompts: Sequence[Prompt] | None, progress: Progress, **options: Any
) -> Compared:
    """Compare runs.

    Parameters
    ----------
    runs : mapping of str to Run or None
        By the names to show them with; None is the base model, asked as the first run was taught.
    prompts : sequence of str or of list of dict, or None
        What to ask; None takes prompts of the evaluation set of the first run that has kept any.
    progress : callable
        Called with the share that is done (0 to 1) and what is being done.
    **options
        All of :meth:`Run.generate`: ``max_new_tokens``, ``temperature``, ``seed`` and ``documents``.

    Returns
    -------
    Compared
        Every model that was not in memory before has left it again.

    Raises
    ------
    RunError
        If there is no run, answers are wanted of runs on different bases, or one has no adapter to ask.
    """
    trained = {name: run for name, run in runs.items() if run}
    progress(0, "reading the runs")
    if not trained:
        raise RunError("a comparison needs a run; name one or more, beside base")
    found = Compared(dict(runs))
    found.asked = _kept(found, trained) if prompts is None else [Asked(one) for one in prompts]
    _check_bases(found, trained)
    for name, run in trained.items():
        metrics, history = run.metrics, run.history
        measured = {key: metrics[key] for key in comparable() if metrics.get(key) is not None}
        told = {"method": run.spec.method, "model": run.spec.model, "data": run.facts.data or run.spec.data}
        verdict = {"verdict": str(metrics["verdict"])} if metrics.get("verdict") is not None else {}
        found.facts[name] = told | measured | verdict
        steps = history.set_index("step")
        found.curves[name] = (_points(steps["loss"]), _points(steps["eval_loss"]))
    found.facts |= {name: _base(list(trained.values())) for name, run in runs.items() if run is None}
    found.facts = {name: found.facts[name] for name in runs}
    _check_rows(found, trained)
    if len({run.facts.base or run.spec.model for run in trained.values()}) == 1:  # or "base" would mean several
        ids = set(found.ids.values())
        votes = (vote for store in found.stores for vote in store.votes() if len(ids & vote.answers.keys()) > 1)
        found.votes = list({vote.key: vote for vote in votes}.values())
    if found.asked:
        _ask(found, trained, progress, options)
    return found


def _kept(found: Compared, trained: Mapping[str, Run]) -> list[Asked]:
    """Prompts of the evaluation set that a run has kept."""
    for name, run in trained.items():
        if kept := kept_prompts.load(run.folder):
            found.notes.append(f"prompts: evaluation set of {name}")
            return kept
    found.notes.append("no answers: no run has kept prompts of its evaluation set; pass prompts=[…]")
    return []


def _check_bases(found: Compared, trained: Mapping[str, Run]) -> None:
    """Refuse to ask runs on different bases; their metrics alone may be compared, but not those that count tokens."""
    bases = {name: run.facts.base or run.spec.model for name, run in trained.items()}
    (first, one), *others = bases.items()
    for name, other in others:
        if other == one:
            continue
        if found.asked:
            fix = "to compare their metrics alone, pass prompts=[]"
            raise RunError(f"{first} is on {one} and {name} is on {other}: answers are compared on one base; {fix}")
        why = "the bases differ, and with them what a token is"
        found.unranked |= {key: why for key, measure in comparable().items() if "tokens" in measure.on}
        found.notes.append(f"{first} is on {one}, {name} on {other}: losses do not compare")


def _check_rows(found: Compared, trained: Mapping[str, Run]) -> None:
    """Where runs were not evaluated on the same rows or in one way, say so, and rank nothing by that."""
    kept = {name: rows for name, run in trained.items() if (rows := kept_prompts.load(run.folder))}
    (first, one), *others = kept.items() or [("", [])]
    if differing := [name for name, rows in others if rows != one]:
        why = f"{first} and {differing[0]} were evaluated on different evaluation sets"
        found.unranked |= {key: why for key, measure in comparable().items() if "rows" in measure.on}
        found.notes.append(f"{why}: their eval metrics do not compare")
    ways = {name: run.spec.score or "rouge_l" for name, run in trained.items() if "score" in run.metrics}
    if len({*ways.values()}) > 1:
        told = ", ".join(f"{name} by {way}" for name, way in ways.items())
        found.unranked["score"] = f"answers were scored in different ways: {told}"


def _base(trained: Sequence[Run]) -> dict[str, Any]:
    """What is known of the base model: what the first run that measured it found."""
    from peft_nb.evaluation.scores import perplexity

    known: dict[str, Any] = {"model": trained[0].spec.model}
    for key, measure in comparable().items():
        values = (run.metrics.get(measure.base) for run in trained if measure.base)
        if (value := next((value for value in values if value is not None), None)) is not None:
            known[key] = value
    if "eval_loss" in known and any("perplexity" in run.metrics for run in trained):
        known["perplexity"] = perplexity(known["eval_loss"])
    if any(run.metrics.get("forgetting") is not None for run in trained):
        known["forgetting"] = 0.0  # which is measured against the base itself
    return known


def _points(column: Any) -> Points:
    return [(float(step), float(value)) for step, value in column.dropna().items()]


def _ask(found: Compared, trained: Mapping[str, Run], progress: Progress, options: Mapping[str, Any]) -> None:
    """Ask all of them, one model at a time."""
    asked = [one.prompt for one in found.asked]
    first = next(iter(trained.values()))
    bases = [other for other, held in found.runs.items() if held is None]
    if bases and not first.adapter.task.generates:
        found.notes.append(f"the base model has no head for {first.spec.task} and gives no answers")
        bases = []
    parts = len(trained) + len(bases)

    def listening(name: str) -> dict[str, Any]:
        done, tokens = len(found.answers), count(1)

        def heard(answers: Sequence[str]) -> None:
            share = min(1, next(tokens) / options["max_new_tokens"])
            progress((done + share) / parts, f"{name}: generating answers")

        return {**options, "listen": heard}

    def stage(share: float, what: str) -> None:
        progress(len(found.answers) / parts, f"{name}: {what}")

    for name, run in trained.items():
        with run.adapter.borrowed():
            run.adapter.open(stage)
            stage(0, "generating answers")
            found.answers[name] = run.adapter.said(asked, **listening(name))
            if run is first:
                for base in bases:
                    found.answers[base] = run.generate(asked, adapter=False, **listening("base model"))
    found.answers = {name: found.answers[name] for name in found.runs if name in found.answers}
    drawn = f"sampled at temperature {options['temperature']}, seed {options['seed']}"
    how = drawn if options["temperature"] else "greedy decoding"
    found.notes.append(f"answers: {how}, at most {options['max_new_tokens']:,} new tokens")
    documents = options.get("documents")
    learned = [name for name, run in trained.items() if run.spec.documents] if documents is None else []
    told = "of the index given, before each prompt, for all" if documents else ", ".join(learned)
    if told and documents is not False:
        found.notes.append(f"documents: {told}" + " alone, and the base if it is first" * bool(learned))
    systems = {run.spec.system for run in trained.values()}
    if len(systems) > 1:
        found.notes.append("each run is asked with its own system prompt, the base with the first run's")


def named(runs: Sequence[Run | None]) -> dict[str, Run | None]:
    """Name runs for people: by the name each was given, or by its id where there is none or several have it."""
    given = Counter(run.spec.name for run in runs if run)
    found: dict[str, Run | None] = {}
    for run in runs:
        name = run.spec.name if run else None
        usable = name and name != BASE and given[name] == 1
        found[BASE if run is None else str(name if usable else run.id)] = run
    return found
