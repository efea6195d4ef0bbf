"""Whether what a run is asked is still what it learned from: inputs, loss and answers of new rows against its own."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy
import pandas

from peft_nb.data import language
from peft_nb.data.kept import kept
from peft_nb.documents.embedding import Embedder
from peft_nb.errors import DataError, RunError
from peft_nb.evaluation import drift
from peft_nb.evaluation.drift import Measure, TwoSample
from peft_nb.events import Progress, silent
from peft_nb.runs import new_rows
from peft_nb.runs.new_rows import LEAST, Side
from peft_nb.runs.pool import again
from peft_nb.runs.run import Run
from peft_nb.serving.route import ENCODER, places_of
from peft_nb.store import Evaluation

MEASURED, FEW = 100, 5  # rows whose loss is measured, and that there have to be
NEW = 5  # rows that are shown because nothing like them was learned from
LABELLED = 50  # rows that are enough to see where it goes
ANSWERED, TOKENS = 24, 64  # evaluation rows that the run answers itself, and tokens of an answer
SHOWN = 3  # kinds whose shares are told
LACKING = f"the evaluation set or the new rows have fewer than {FEW}"
HISTORY = "watch history"  # the suite in which each time is kept
VALUES = ("distance", "p", "alarm")
REFUSAL = re.compile(r"\b(can(?:no|')t|unable to|not able to|won't|sorry|as an ai)\b", re.IGNORECASE)
Group = tuple[int, int, list[Measure]]


@dataclass(frozen=True)
class Topic:
    """Rows of one kind that have become more frequent.

    Attributes
    ----------
    words : tuple of str
        What tells them from the others.
    before, now : int
        How many training rows and new rows are of it.
    example : str
        The new row that is most of its kind.
    """

    words: tuple[str, ...]
    before: int
    now: int
    example: str


@dataclass(frozen=True)
class Found:
    """What has changed since a run was trained.

    Attributes
    ----------
    run : str
        What was watched.
    rows : int
        How many new rows were looked at.
    tests : tuple of TwoSample
        What was compared; all together raise an alarm in 4 % of cases at most where nothing has changed.
    words : tuple of (str, int, int)
        Words that grew, each with the number of training and of new rows that have it.
    topics : tuple of Topic
        Topics that grew, the surest first.
    new : tuple of (str, str, float)
        New rows that are least like any training row, each with the nearest one and their similarity.
    step : str
        ``nothing``, ``label``, ``retrain`` or ``roll back``.
    why : str
        The next step, in words.
    notes : tuple of str
        What could not be compared.
    """

    run: str
    rows: int
    tests: tuple[TwoSample, ...]
    words: tuple[tuple[str, int, int], ...]
    topics: tuple[Topic, ...]
    new: tuple[tuple[str, str, float], ...]
    step: str
    why: str
    notes: tuple[str, ...] = ()

    @property
    def drifted(self) -> bool:
        """Whether anything has changed."""
        return any(one.alarm for one in self.tests)

    @property
    def table(self) -> pandas.DataFrame:
        """One row a test: ``what``, ``before``, ``now``, ``distance``, ``p`` (corrected) and ``alarm``."""
        rows = [(one.name, one.before, one.now, one.distance, one.p, one.alarm) for one in self.tests]
        return pandas.DataFrame(rows, columns=["what", "before", "now", *VALUES])


def watch(
    run: Run,
    rows: Any,
    *,
    encoder: str = ENCODER,
    namespace: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Found:
    """Compare new rows with those that a run learned from.

    Inputs are compared by what they are about (texts by their embeddings, images and clips by the features of the run's
    base), by their topics, and texts by length and language, images by brightness, clips by length; where the rows have
    answers, whether the loss rises; of a classifier the shares of the classes that it gives and how probable it finds
    them, of a speech model how much it writes down; answers in a server's log by length, refusals and how probable the
    run finds them. What depends on what was learned is compared with the evaluation set, all else with the training
    rows. All are permutation tests, corrected together. What is found is kept with the run and in the log.

    Parameters
    ----------
    run : Run
        Whose rows are still in the store.
    rows : object
        New rows: prompts as a list of str, images or clips as a list of what ``predict`` takes, or whatever a run takes
        as data, with or without answers; also the log of a server that keeps texts. At most 400 texts, 80 images or
        clips of each side are looked at, drawn with a fixed seed.
    encoder : str, default "minilm-l6"
        What embeds texts.
    namespace : mapping, optional
        The notebook's variables.
    progress : callable
        Told how far it is.

    Returns
    -------
    Found
        ``.drifted``, ``.table``, and the next step.

    Raises
    ------
    DataError
        If there are too few rows, or they are none that can be asked of this run.
    RunError
        If the run draws images, or its rows are gone.
    """
    task = run.adapter.task
    if task.draws:
        raise RunError(f"run {run.id} draws images; runs that read texts, images or speech are watched so far")
    if (sides := kept(run.folder)) is None:
        raise RunError(f"the rows that run {run.id} learned from have left the store; train it again to watch it")
    before = new_rows.kept_side(run, sides.train)
    now = new_rows.new(run, rows, namespace or {}, progress)
    for side, whose in ((before, "the run learned from"), (now, "there are to watch")):
        if len(side) < LEAST:
            raise DataError(f"{len(side)} rows are too few {whose}; {LEAST} or more can be compared")
    embedder = Embedder(encoder, namespace)
    for side in (before, now):
        side.see(run, embedder, progress)
    kinds = drift.topics(numpy.concatenate([before.vectors, now.vectors]))
    usual, enough = new_rows.kept_side(run, sides.held_out), len(sides.held_out) >= FEW
    groups: list[Group] = []
    notes = [*now.notes, *([] if now.look or language.known() else [language.MISSING])]
    losses = None
    if not task.generates:
        if enough:
            groups.append((len(usual), len(now), _said(usual.ask(run, progress), now.ask(run, progress))))
        else:
            notes.append(f"what it says was not compared: {LACKING}")
    if now.answered and task.unit in ("token", "text", "image"):
        if enough and len(now.examples) >= FEW:
            losses = _Losses.measured(run, sides.held_out, now.examples, progress)
            groups.append((len(losses.held_out), len(losses.new), [loss(losses.held_out, losses.new, _unit(run))]))
        else:
            notes.append(f"the loss was not compared: {LACKING}")
    if len(now.answers) >= LEAST and enough:
        groups.append(_answers(run, usual.texts[:ANSWERED], now, progress))
    grown = grown_topics(before, now, kinds)
    groups.insert(0, (len(before), len(now), inputs(before, now, kinds)))
    tests = drift.compare(*groups)
    rose = any(one.alarm for one in tests if one.name == "loss")
    drifted = any(one.alarm for one in tests)
    step, why = _next(run, drifted, now.answered, losses if rose else None)
    words = drift.grown(before.texts or usual.texts, now.texts)
    told = (tuple(words), grown, tuple(_unlike(before, now)), step, why, tuple(notes))
    made = Found(run.version or run.id, len(now), tuple(tests), *told)
    _keep(run, made)
    return made


def inputs(before: Side, now: Side, kinds: numpy.ndarray) -> list[Measure]:
    """Say by what inputs are compared.

    Parameters
    ----------
    before, now : Side
        Both with their vectors.
    kinds : numpy.ndarray
        The topic of each row, as :func:`.drift.topics` finds them.
    """
    both = numpy.concatenate([before.vectors, now.vectors])
    near = float(numpy.median((now.vectors @ before.vectors.T).max(1)))
    own = before.vectors @ before.vectors.T
    numpy.fill_diagonal(own, -1)
    usual = float(numpy.median(own.max(1)))
    statistics = drift.gaussian(both), drift.nearest(both)
    found = [Measure("inputs", f"{usual:.2f} to the nearest", f"{near:.2f} to the nearest", statistics)]
    if len({*kinds.tolist()}) > 1:
        grew = drift.surely_grown(kinds, len(before))[0][0]
        words = ", ".join(_words(before, now, kinds == grew)) or f"topic {grew + 1}"
        old, new = (f"{words} {(side == grew).mean():.0%}" for side in (kinds[: len(before)], kinds[len(before) :]))
        found.append(Measure("topics", old, new, (drift.growth(kinds.tolist()),)))
    if before.look and now.look:
        how = f" {now.look.unit}".rstrip()
        return [*found, _numbers(now.look.name, before.look.values, now.look.values, lambda one: f"{one:.3g}{how}")]
    return [*found, _lengths("length", before.texts, now.texts), _languages(before.texts, now.texts)]


def grown_topics(before: Side, now: Side, kinds: numpy.ndarray) -> tuple[Topic, ...]:
    """Name the topics that grew, the surest first; parameters as of :func:`inputs`."""
    found = []
    for kind, p in drift.surely_grown(kinds, len(before)):
        own, new = kinds == kind, numpy.flatnonzero(kinds[len(before) :] == kind)
        if p > drift.LEVEL or not len(new):
            continue
        middle = numpy.concatenate([before.vectors, now.vectors])[own].mean(0)
        example = now.shown(int(new[(now.vectors[new] @ middle).argmax()]))
        found.append(Topic(_words(before, now, own), int(own[: len(before)].sum()), len(new), example))
    return tuple(found)


def _words(before: Side, now: Side, own: numpy.ndarray) -> tuple[str, ...]:
    """The words that tell some rows from all others; of images and clips what the run says of the new ones."""
    marked = [*zip(before.texts, own[: len(before)], strict=False), *zip(now.texts, own[len(before) :], strict=False)]
    inside, outside = ([text for text, mark in marked if mark == side] for side in (True, False))
    return tuple(word for word, *_ in drift.grown(outside, inside, SHOWN))


def _numbers(name: str, before: Any, now: Any, told: Callable[[float], str], logs: bool = True) -> Measure:
    """Numbers of two sides, told by their medians."""
    old, new = (numpy.array(one, dtype=float) for one in (before, now))
    both = numpy.concatenate([old, new])
    statistic = drift.energy(numpy.log1p(both) if logs else both)
    return Measure(name, told(float(numpy.median(old))), told(float(numpy.median(new))), (statistic,))


def _lengths(name: str, before: Sequence[str], now: Sequence[str]) -> Measure:
    old, new = ([len(text.split()) for text in texts] for texts in (before, now))
    return _numbers(name, old, new, lambda one: f"{one:.0f} words")


def _languages(before: Sequence[str], now: Sequence[str]) -> Measure:
    """The languages of texts, or where nothing tells these apart their scripts."""
    name, of = ("language", language.language) if language.known() else ("script", language.script)
    return _kinds(name, list(map(of, before)), list(map(of, now)))


def _kinds(name: str, before: Sequence[str], now: Sequence[str]) -> Measure:
    """How often each of some kinds is in both sides; those are told whose shares are furthest apart."""
    counts = Counter(before), Counter(now)
    shares = {kind: tuple(own[kind] / own.total() for own in counts) for kind in {**counts[0], **counts[1]}}
    order = sorted(shares, key=lambda kind: (-abs(shares[kind][1] - shares[kind][0]), -max(shares[kind]), kind))
    usual, found = (", ".join(f"{kind} {shares[kind][side]:.0%}" for kind in order[:SHOWN]) for side in (0, 1))
    return Measure(name, usual, found, (drift.shares([*before, *now]),))


def _said(before: pandas.DataFrame, now: pandas.DataFrame) -> list[Measure]:
    """What a run says that writes no answers: its classes and how probable it finds them, or how much it writes."""
    if "label" not in now:
        return [_lengths("words written", list(before["text"]), list(now["text"]))]
    old, new = ([str(label) for label in one["label"]] for one in (before, now))
    found = [_kinds("classes given", old, new)]
    if "probability" in now:
        sure, unsure = ([_least(one) for one in side["probability"]] for side in (before, now))
        found.append(_numbers("probability given", sure, unsure, lambda one: f"{one:.0%}", logs=False))
    return found


def _least(probability: Any) -> float:
    """How probable a run finds what it gives: of several classes the least probable one."""
    return float(numpy.min(probability, initial=1.0))


@dataclass(frozen=True)
class _Losses:
    """Mean losses of evaluation rows and of new ones, and of the new ones with the base."""

    held_out: numpy.ndarray
    new: numpy.ndarray
    base: numpy.ndarray

    @classmethod
    def measured(cls, run: Run, held_out: Any, new: Any, progress: Progress) -> _Losses:
        usual, found = (side.take(places_of(len(side), MEASURED)) for side in (held_out, new))
        told = [(usual, True), (found, True), (found, False)]
        return cls(*(_measured(run, rows, adapter, progress) for rows, adapter in told))


def _measured(run: Run, rows: Any, adapter: bool, progress: Progress) -> numpy.ndarray:
    heed = partial(progress, 0, f"measuring the loss of {len(rows):,} rows" + " with the base" * (not adapter))
    return run.adapter.losses(rows, adapter, heed)


def _unit(run: Run) -> str:
    return f"{run.adapter.task.loss_unit} per {run.adapter.task.unit}"


def loss(before: numpy.ndarray, now: numpy.ndarray, unit: str) -> Measure:
    """Say how losses are compared: by their means, and only whether these rise."""
    usual, found = (f"{one.mean():.3f} {unit}" for one in (before, now))
    return Measure("loss", usual, found, (drift.rise(numpy.concatenate([before, now])),))


def _answers(run: Run, asked: Sequence[str], now: Side, progress: Progress) -> Group:
    """Answers as the run gives them to evaluation rows, and as they were given since: length, refusals, confidence."""
    progress(0, f"answering {len(asked)} evaluation rows")
    own = run.generate(asked, max_new_tokens=TOKENS)
    since, answers = zip(*now.answers, strict=True)
    old, new = ([" ".join(text.split()[:TOKENS]) for text in texts] for texts in (own, answers))
    usual, found = (["refusal" if REFUSAL.search(text) else "answer" for text in texts] for texts in (old, new))
    progress(0, f"reading {len(new)} answers")
    before, after = run.adapter.confidence(asked, old), run.adapter.confidence(since, new)
    measures = [
        _lengths("length of answers", old, new),
        _kinds("refusals", usual, found),
        _numbers("probability of answers", before, after, lambda one: f"{one:.0%}", logs=False),
    ]
    return len(old), len(new), measures


def _unlike(before: Side, now: Side) -> list[tuple[str, str, float]]:
    similar = now.vectors @ before.vectors.T
    nearest = similar.max(1)
    rows = numpy.argsort(nearest, kind="stable")[:NEW].tolist()
    return [(now.shown(row), before.shown(int(similar[row].argmax())), float(nearest[row])) for row in rows]


def _next(run: Run, drifted: bool, answered: bool, risen: _Losses | None) -> tuple[str, str]:
    """What is to be done, and that in words."""
    name = run.spec.name or run.id
    if not drifted:
        return "nothing", "Nothing has to be done: the new rows are of the kind that it learned from."
    if not answered:
        few = f"about {LABELLED} of the new rows"
        if new_rows.signals(run):
            return "label", f"Label {few}, and watch these again."
        return "label", f"Label {few}, %peft label ROWS --run {name}, and watch these again."
    if risen is None:
        return "nothing", "What it is asked has changed, and its loss has not risen: watch it again with more rows."
    retrain = f"retrain {name} with these rows, {again(run, 'ROWS')}"
    if risen.new.mean() < risen.base.mean():
        return "retrain", f"Its loss has risen: {retrain}"
    held = [f"%peft rollback {name}@{alias}" for alias in run.record.now.aliases]
    back = f"take it back, {held[0]}" if held else "do not use it for such rows"
    return "roll back", f"On the new rows it is no better than its base: {back}, and {retrain}"


def _keep(run: Run, made: Found) -> None:
    """Keep the numbers with the run, and a line in the log."""
    told = [(one, {"p": one.p, "alarm": one.alarm, "rows": made.rows}) for one in made.tests]
    run.store.evaluate(
        run.id, [Evaluation("watch", one.name, one.distance, detail=detail) for one, detail in told], anew="watch"
    )
    whole = {"rows": made.rows, "tests": {one.name: {"distance": one.distance, **detail} for one, detail in told}}
    run.store.evaluate(run.id, [Evaluation(HISTORY, f"{time.time():.3f}", float(made.drifted), detail=whole)])
    changed = ", ".join(one.name for one in made.tests if one.alarm)
    said = f"changed: {changed}" if changed else "no change"
    run.store.set_metrics(run.id, {"watched": said})
    run.store.watched(run.id, f"{made.rows:,} rows: {said}")


def history(run: Run) -> pandas.DataFrame:
    """Give what was found each time that a run was watched.

    Parameters
    ----------
    run : Run
        The run.

    Returns
    -------
    pandas.DataFrame
        One row a test, the earliest first: ``at`` (UTC), ``rows``, ``what``, ``distance``, ``p`` and ``alarm``.
    """
    kept = [one for one in run.store.evaluations(run.id) if one.suite == HISTORY]
    rows = [
        (pandas.Timestamp(float(one.measure), unit="s", tz="UTC"), one.detail["rows"], what, *map(test.get, VALUES))
        for one in sorted(kept, key=lambda one: float(one.measure))
        for what, test in one.detail["tests"].items()
    ]
    return pandas.DataFrame(rows, columns=["at", "rows", "what", *VALUES])
