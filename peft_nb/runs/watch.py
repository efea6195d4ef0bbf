"""Whether what a run is asked is still what it learned from: inputs, loss and classes of new rows against its own."""

from __future__ import annotations

import re
import time
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy
import pandas

from peft_nb.data import Rows, detection, sources, splits
from peft_nb.data.examples import Examples
from peft_nb.data.kept import kept
from peft_nb.data.layouts import Layout
from peft_nb.data.rendered import RenderedRows
from peft_nb.documents.embedding import Embedder
from peft_nb.errors import DataError, RunError
from peft_nb.evaluation import drift
from peft_nb.evaluation.drift import TwoSample
from peft_nb.events import Progress, silent
from peft_nb.runs.interference import loss
from peft_nb.runs.run import Run
from peft_nb.serving.route import ENCODER, places_of, prompts_of, text_of
from peft_nb.store import Evaluation

MOST, LEAST = 200, 8  # rows that are looked at of each side, and that there have to be
MEASURED, FEW = 40, 5  # rows whose loss is measured, and that there have to be
NEW = 5  # rows that are shown because nothing like them was learned from
LABELLED = 50  # rows that are enough to see where it goes
ANSWERED, TOKENS = 24, 64  # evaluation rows that the run answers itself, and tokens of an answer
LOG, ANSWER = "asked", "answer"  # the columns of the server's log that hold prompts and answers
HISTORY = "watch history"  # the suite in which each time is kept
VALUES = ("distance", "p", "alarm")
REFUSAL = re.compile(r"\b(can(?:no|')t|unable to|not able to|won't|sorry|as an ai)\b", re.IGNORECASE)


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
        What was compared.
    alarms : tuple of bool
        Which of these say that something changed; all together they do so in 5 % of cases where nothing has.
    words : tuple of (str, int, int)
        Words that grew, each with the number of training and of new prompts that have it.
    new : tuple of (str, str, float)
        New prompts that are least like any training prompt, each with the nearest one and their similarity.
    step : str
        ``nothing``, ``label``, ``tune`` or ``roll back``.
    why : str
        The next step, in words.
    notes : tuple of str
        What could not be compared.
    """

    run: str
    rows: int
    tests: tuple[TwoSample, ...]
    alarms: tuple[bool, ...]
    words: tuple[tuple[str, int, int], ...]
    new: tuple[tuple[str, str, float], ...]
    step: str
    why: str
    notes: tuple[str, ...] = ()

    @property
    def drifted(self) -> bool:
        """Whether anything has changed."""
        return any(self.alarms)

    @property
    def table(self) -> pandas.DataFrame:
        """One row a test: ``what``, ``before``, ``now``, ``distance``, ``p`` and ``alarm``."""
        rows = [(one.name, one.before, one.now, one.distance, one.p) for one in self.tests]
        found = pandas.DataFrame(rows, columns=["what", "before", "now", "distance", "p"])
        return found.assign(alarm=list(self.alarms))


@dataclass
class _Side:
    """Rows of one side: what was asked, and where there are answers the examples."""

    prompts: list[str]
    examples: Examples | None = None
    notes: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)


def watch(
    run: Run,
    rows: Any,
    *,
    encoder: str = ENCODER,
    namespace: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Found:
    """Compare new rows with those that a run learned from.

    Inputs are compared by their embeddings, their length and their script; where the rows have answers, their loss with
    that of the evaluation set; of a classifier the shares of the classes that it gives and how probable it finds them;
    answers in a server's log with those that the run gives to its evaluation rows, by length and refusals. All tests
    are permutation tests, corrected for their number. What is found is kept with the run and in the log.

    Parameters
    ----------
    run : Run
        Whose rows are still in the store.
    rows : object
        New rows: prompts as a list of str, or whatever a run takes as data, with or without answers; also the log of a
        server that keeps texts. At most 200 are looked at, drawn with a fixed seed.
    encoder : str, default "minilm-l6"
        What embeds prompts.
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
        If the run reads no texts, or its rows are gone.
    """
    task = run.adapter.task
    sides = kept(run.folder)
    if task.base in ("vision", "speech", "diffusion"):
        raise RunError(f"run {run.id} reads no texts, and prompts alone are watched so far")
    if sides is None:
        raise RunError(f"the rows that run {run.id} learned from have left the store; train it again to watch it")
    read = (run.tokenizer, run.spec.system, run.facts.chat and task.generates)
    learned = [one for one in prompts_of(sides.train, *read, MOST) if one]
    new = _new(run, rows, namespace or {}, progress)
    for prompts, whose in ((learned, "the run learned from"), (new.prompts, "there are to watch")):
        if len(prompts) < LEAST:
            raise DataError(f"{len(prompts)} rows are too few {whose}; {LEAST} or more can be compared")
    embedder = Embedder(encoder, namespace)
    progress(0, f"embedding {len(learned) + len(new.prompts):,} prompts")
    before, now = embedder.embed(learned, progress), embedder.embed(new.prompts, progress)
    tests = [_meaning(before, now), _length(learned, new.prompts), _script(learned, new.prompts)]
    losses = None
    if task.unit == "token" and new.examples is not None:
        if min(len(sides.held_out), len(new.examples)) >= FEW:
            losses = _losses(run, sides.held_out, new.examples, progress)
            tests.append(losses.test)
        else:
            new.notes.append(f"the loss was not compared: the evaluation set has fewer than {FEW} rows")
    if not task.generates:
        tests += _classes(run, learned, new.prompts, progress)
    if len(new.answers) >= LEAST and len(sides.held_out) >= FEW:
        tests += _answers(run, prompts_of(sides.held_out, *read, ANSWERED), new.answers, progress)
    found = drift.alarms(tests)
    rose = losses is not None and losses.rose and found[tests.index(losses.test)]
    step, why = _next(run, any(found), new.examples, losses if rose else None)
    made = Found(
        run.version or run.id,
        len(new.prompts),
        tuple(tests),
        tuple(found),
        tuple(drift.grown(learned, new.prompts)),
        tuple(_unlike(learned, new.prompts, before, now)),
        step,
        why,
        tuple(new.notes),
    )
    _keep(run, made)
    return made


def _new(run: Run, rows: Any, namespace: Mapping[str, Any], progress: Progress) -> _Side:
    """Read what is asked in new rows, and the rows as examples where they have answers that the run could learn."""
    if isinstance(rows, list | tuple) and rows and all(isinstance(one, str) for one in rows):
        return _Side(_some(list(rows)))
    read = sources.read(rows, namespace).train
    if len(read) and LOG in read[0]:
        told = [row for row in read if row.get(LOG) and text_of(row[LOG]).strip()]
        seen = [told[place] for place in places_of(len(told), MOST)]
        answers = [str(row[ANSWER]) for row in seen if row.get(ANSWER)]
        return _Side([text_of(row[LOG]).strip() for row in seen], answers=answers * run.adapter.task.generates)
    if len(read) and {"at", "version"} <= set(read[0]) and LOG not in read[0]:
        raise DataError("the log holds no texts; serve with --log-texts, or pass the rows themselves")
    layout = detection.detect(read, run.spec.format, run.spec.columns)
    if layout.kind == "prompt":
        return _Side(_some([text_of(layout.messages(row)) for row in read]))
    task, spec = run.adapter.task, run.spec
    if layout.kind not in task.accepts:
        raise DataError(f"{layout.why}: these rows are none that {spec.task} learns from; give such rows, or prompts")
    read, notes = _of_known_classes(run, read, layout)
    rendered = RenderedRows(read, layout, run.tokenizer, loss_on=spec.loss_on, system=spec.system)
    _, encoded = task.encode(rendered, spec, dict(run.facts.task), row_name="new row", progress=progress)
    some = encoded.examples.take(places_of(len(encoded.examples), MOST))
    prompts = prompts_of(some, run.tokenizer, spec.system, run.facts.chat and task.generates, MOST)
    return _Side([one for one in prompts if one], some, notes)


def _of_known_classes(run: Run, rows: Rows, layout: Layout) -> tuple[Rows, list[str]]:
    """The rows of classes that a classifier knows, and a note on the others; of any other task all rows."""
    known = run.facts.task.get("classes")
    if not known:
        return rows, []
    unknown = Counter(label for row in rows for label in {*map(str, layout.labels(row))} - {*known})
    kept = [number for number, row in enumerate(rows) if {*map(str, layout.labels(row))} <= {*known}]
    if not unknown:
        return rows, []
    told = ", ".join(f"{name} ({count:,})" for name, count in unknown.most_common(NEW))
    note = f"{len(rows) - len(kept):,} of {len(rows):,} rows are of classes that it does not know: {told}"
    return splits.chosen(rows, kept), [f"{note}; their texts were left out, train anew to learn them"]


def _some(prompts: list[str]) -> list[str]:
    filled = [one.strip() for one in prompts if one.strip()]
    return [filled[place] for place in places_of(len(filled), MOST)]


def _meaning(before: numpy.ndarray, now: numpy.ndarray) -> TwoSample:
    near = float(numpy.median((now @ before.T).max(1)))
    own = before @ before.T
    numpy.fill_diagonal(own, -1)
    usual = float(numpy.median(own.max(1)))
    return TwoSample("inputs", f"{usual:.2f} to the nearest", f"{near:.2f} to the nearest", *drift.energy(before, now))


def _length(before: Sequence[str], now: Sequence[str]) -> TwoSample:
    old, new = (numpy.log1p([len(text.split()) for text in texts]) for texts in (before, now))
    usual, found = (f"{numpy.expm1(numpy.median(one)):.0f} words" for one in (old, new))
    return TwoSample("length", usual, found, *drift.energy(old, new))


def _script(before: Sequence[str], now: Sequence[str]) -> TwoSample:
    old, new = ([_written(text) for text in texts] for texts in (before, now))
    return TwoSample("script", _common(old), _common(new), *drift.shares(old, new))


def _common(kinds: Sequence[str]) -> str:
    """The three most frequent kinds with their shares."""
    most = Counter(kinds).most_common(3)
    return ", ".join(f"{kind} {count / len(kinds):.0%}" for kind, count in most)


def _written(text: str) -> str:
    """The script in which most letters of a text are written, such as LATIN."""
    names = [unicodedata.name(letter, "?").partition(" ")[0] for letter in text if letter.isalpha()]
    return max(sorted({*names}), key=names.count) if names else "none"


@dataclass(frozen=True)
class _Losses:
    """Mean losses of evaluation rows and of new ones, and of the new ones with the base, in nats per token."""

    held_out: numpy.ndarray
    new: numpy.ndarray
    base: numpy.ndarray

    @cached_property
    def test(self) -> TwoSample:
        usual, found = (f"{one.mean():.3f} nats per token" for one in (self.held_out, self.new))
        return TwoSample("loss", usual, found, *drift.energy(self.held_out, self.new))

    @property
    def rose(self) -> bool:
        return bool(self.new.mean() > self.held_out.mean())


def _losses(run: Run, held_out: Examples, new: Examples, progress: Progress) -> _Losses:
    with run.adapter.using:
        model = run.adapter.open(progress).eval()
        usual, found = _measured(model, held_out, progress), _measured(model, new, progress)
        with model.disable_adapter():
            return _Losses(usual, found, _measured(model, new, progress))


def _measured(model: Any, side: Examples, progress: Progress) -> numpy.ndarray:
    """Mean losses of some rows."""
    some, values = side.take(places_of(len(side), MEASURED)), []
    for number, example in enumerate(some):
        progress(number / len(some), f"measuring the loss of {len(some):,} rows")
        values.append(loss(model, example) / max(1, example.supervised[1:].count(1)))
    return numpy.array(values)


def _classes(run: Run, before: Sequence[str], now: Sequence[str], progress: Progress) -> list[TwoSample]:
    """How often a classifier gives each class, and how probable it finds what it gives."""
    progress(0, "asking the classifier")
    told = [run.predict(list(texts)) for texts in (before, now)]
    old, new = ([str(label) for label in one.label] for one in told)
    tests = [TwoSample("classes given", _common(old), _common(new), *drift.shares(old, new))]
    if all("probability" in one for one in told):
        first, then = (one.probability.to_numpy(dtype=float) for one in told)
        usual, found = (f"{numpy.median(one):.0%}" for one in (first, then))
        tests.append(TwoSample("probability given", usual, found, *drift.energy(first, then)))
    return tests


def _answers(run: Run, asked: Sequence[str], given: Sequence[str], progress: Progress) -> list[TwoSample]:
    """How long answers are and how many refuse: of the run to its evaluation rows, and as they were given since."""
    progress(0, f"answering {len(asked)} evaluation rows")
    own = run.generate([one for one in asked if one], max_new_tokens=TOKENS)
    old, new = ([" ".join(text.split()[:TOKENS]) for text in texts] for texts in (own, given))
    usual, found = (["refusal" if REFUSAL.search(text) else "answer" for text in texts] for texts in (old, new))
    length = _length(old, new)
    return [
        replace(length, name="length of answers"),
        TwoSample("refusals", _common(usual), _common(found), *drift.shares(usual, found)),
    ]


def _unlike(
    learned: Sequence[str], new: Sequence[str], before: numpy.ndarray, now: numpy.ndarray
) -> list[tuple[str, str, float]]:
    similar = now @ before.T
    nearest = similar.max(1)
    rows = numpy.argsort(nearest, kind="stable")[:NEW]
    return [(new[row], learned[int(similar[row].argmax())], float(nearest[row])) for row in rows]


def _next(run: Run, drifted: bool, answered: Examples | None, risen: _Losses | None) -> tuple[str, str]:
    """What is to be done, and that in words."""
    name = run.spec.name or run.id
    if not drifted:
        return "nothing", "Nothing has to be done: the new rows are of the kind that it learned from."
    if risen is None and answered is None:
        return (
            "label",
            f"Label about {LABELLED} of the new rows, %peft label ROWS --run {name}, and watch these again.",
        )
    if risen is None:
        return "nothing", "What it is asked has changed, and its loss has not risen: watch it again with more rows."
    again = f"%%peft {run.spec.method} --data ROWS --init-adapter {name}"
    if risen.new.mean() < risen.base.mean():
        return "tune", f"Its loss has risen: tune again from this adapter, {again}"
    held = [f"%peft rollback {name}@{alias}" for alias in run.record.now.aliases]
    back = f"take it back, {held[0]}" if held else "do not use it for such rows"
    return "roll back", f"On the new rows it is no better than its base: {back}, and tune again, {again}"


def _keep(run: Run, made: Found) -> None:
    """Keep the numbers with the run, and a line in the log."""
    pairs = zip(made.tests, made.alarms, strict=True)
    told = [(one, {"p": one.p, "alarm": alarm, "rows": made.rows}) for one, alarm in pairs]
    run.store.evaluate(
        run.id, [Evaluation("watch", one.name, one.distance, detail=detail) for one, detail in told], anew="watch"
    )
    whole = {"rows": made.rows, "tests": {one.name: {"distance": one.distance, **detail} for one, detail in told}}
    run.store.evaluate(run.id, [Evaluation(HISTORY, f"{time.time():.3f}", float(made.drifted), detail=whole)])
    changed = ", ".join(one.name for one, alarm in zip(made.tests, made.alarms, strict=True) if alarm)
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
