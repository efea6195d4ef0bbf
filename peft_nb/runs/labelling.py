"""Rows of a pool that a person labels: which come first, what the run makes of each, and what is trained of them.

What is decided is kept in a folder (:mod:`peft_nb.data.decisions`), so that nothing is lost with the kernel.
"""

from __future__ import annotations

import getpass
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy

from peft_nb.data import decisions, sources
from peft_nb.data.decisions import LABEL, SKIP, Decision, Decisions
from peft_nb.data.prompts import Prompt
from peft_nb.data.table import Table
from peft_nb.documents.embedding import Embedder
from peft_nb.errors import DataError, RunError, nearest
from peft_nb.evaluation import acquisition
from peft_nb.evaluation.acquisition import STRATEGIES, Curve
from peft_nb.evaluation.kappa import Kappa, kappa
from peft_nb.events import Listener, Progress, silent
from peft_nb.runs import training_rows
from peft_nb.runs.pool import plain, prompt_of, prompts, refuse, written
from peft_nb.runs.run import Run
from peft_nb.serving.route import ENCODER, places_of, text_of
from peft_nb.system.files import atomic_text

POOL, LEARNED = 2_000, 500  # rows of the pool and of the run that are looked at, at most
AT_ONCE = 128  # texts between two words on how far it is
WRITTEN, ASKED = 24, 4  # tokens that an answer is judged by, and rows answered for each that is chosen
SIMILAR = 3  # rows shown beside one
LONGEST, WARM = 128, 0.8  # tokens of an answer, and the temperature of the second one
AHEAD = 8  # rows that are answered together
ROOM = 12  # rows of the pool for each label; of 10 no gain over random choice was measured (benchmarks/README.md)


@dataclass(frozen=True)
class Similar:
    """A row that is labelled, and how near it is; ``similarity`` is the cosine."""

    prompt: str
    answer: str
    similarity: float


@dataclass(frozen=True)
class Item:
    """A row to be labelled.

    Attributes
    ----------
    key, prompt : str, and str or list of dict
        The row.
    why : str
        The strategy that chose it.
    guess : str
        The class that the run gives it, or its answer.
    confidence : float
        How sure it is, from 0 to 1: of a class its probability, of an answer the geometric mean of its tokens'.
    probabilities : dict of str to float
        By class, in the run's order; empty where texts are written.
    answers : tuple of str
        One or two different answers to choose from, the guess first; empty where classes are given.
    similar : tuple of Similar
        Rows that are labelled already, the nearest first.
    """

    key: str
    prompt: Prompt
    why: str
    guess: str
    confidence: float
    probabilities: dict[str, float]
    answers: tuple[str, ...]
    similar: tuple[Similar, ...]


class Labelling:
    """A pool on its way to labelled rows.

    Parameters
    ----------
    pool : object
        Rows without labels: texts as a list of str, or whatever a run takes as data; labels in it are not looked at.
    run : Run
        What guesses: a run that gives texts one class, or one that writes texts.
    folder : Path
        Where decisions are kept; one that holds some goes on.
    budget : int, default 50
        How many rows are to be labelled in all.
    strategy : str, default "both"
        Which come first, a key of :data:`peft_nb.evaluation.acquisition.STRATEGIES`.
    by : str, optional
        Who labels; by default the name of the account.
    encoder : str, default "minilm-l6"
        What embeds rows.
    namespace : mapping, optional
        The notebook's variables.
    progress : callable
        Told how far it is.

    Attributes
    ----------
    queue : list of dict
        The rows to label, each with ``key``, ``prompt`` and ``why``: the strategy that chose it.
    notes : list of str
        What was left out, and why.
    curve_found : Curve or None
        What :meth:`curve` found last.

    Raises
    ------
    DataError
        If the pool holds nothing to label, or the folder something else.
    RunError
        If the run gives neither one class nor texts, or its rows are gone.
    """

    def __init__(
        self,
        pool: Any,
        run: Run,
        folder: Path,
        *,
        budget: int = 50,
        strategy: str = "both",
        by: str | None = None,
        encoder: str = ENCODER,
        namespace: Mapping[str, Any] | None = None,
        progress: Progress = silent,
    ) -> None:
        refuse(run)
        if strategy not in STRATEGIES:
            hint = nearest(strategy, STRATEGIES)
            raise DataError(f"strategy {strategy}: not one of {', '.join(STRATEGIES)}{hint}")
        if budget < 1:
            raise DataError(f"budget {budget}: label 1 row at least")
        self.run, self.folder, self.strategy = run, folder, strategy
        self.by = by or _account()
        self.classes: list[str] = list(run.facts.task.get("classes", ()))
        self.decisions = Decisions(folder, self._row, classes=bool(self.classes))
        self.version = run.version or run.id
        self.notes: list[str] = []
        self.curve_found: Curve | None = None
        self._embedder, self._progress = Embedder(encoder, namespace), progress
        self._guesses: dict[str, tuple[str, float, dict[str, float]]] = {}
        self._answers: dict[str, tuple[str, ...]] = {}
        self._vectors: dict[str, numpy.ndarray] = {}
        file = folder / decisions.QUEUE
        self.queue: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
        if len(self.queue) < budget:
            self._extend(pool, budget - len(self.queue), namespace or {})
            atomic_text(file, json.dumps(self.queue, ensure_ascii=False))
        self._look()

    # ---- what is to be labelled

    def _extend(self, pool: Any, count: int, namespace: Mapping[str, Any]) -> None:
        """Choose more rows of the pool."""
        known = {one["key"] for one in self.queue}
        found = {decisions.key_of(one): one for one in prompts(pool, self.run, namespace)}
        seen = {plain(one) for one in self._seen()}
        new = {key: one for key, one in found.items() if key not in known and plain(text_of(one)) not in seen}
        if same := len(found) - len(new) - len(found.keys() & known):
            self.notes.append(f"{same:,} rows that the run learned from or is evaluated on were left out")
        if not new and not self.queue:
            raise DataError("the pool holds no row that is new to the run; give other rows")
        if not new:
            self.notes.append("the pool holds no more rows that are new to the run")
            return
        if self.strategy != "random" and len(new) < ROOM * count:
            few = f"the pool has {len(new):,} rows for {count:,} labels"
            self.notes.append(f"{few}: so few leave little to choose; take more rows, or strategy random")
        places = places_of(len(new), POOL)
        if len(places) < len(new):
            self.notes.append(f"of {len(new):,} rows {POOL:,} were looked at, drawn at random")
        keys = [list(new)[place] for place in places]
        if self.strategy not in ("random", "diversity") and not self.classes and len(keys) > ASKED * count:
            keys = [keys[place] for place in places_of(len(keys), ASKED * count)]
            self.notes.append(f"of these {len(keys):,} were answered to see how sure the run is, drawn at random")
        texts = [new[key] for key in keys]
        vectors, doubt = numpy.zeros((len(keys), 1), numpy.float32), None
        if self.strategy in ("both", "diversity"):
            vectors = self._embed([text_of(one) for one in texts])
            self._vectors |= zip(keys, vectors, strict=True)
        if self.strategy not in ("random", "diversity"):
            doubt = self._doubt(keys, texts)
        for place in acquisition.choose(self.strategy, count, vectors, doubt, self.run.spec.seed):
            self.queue.append({"key": keys[place], "prompt": texts[place], "why": self.strategy})

    def _doubt(self, keys: Sequence[str], texts: Sequence[Prompt]) -> numpy.ndarray:
        """How unsure the run is of each row, from 0 to 1."""
        if not self.classes:
            self._progress(0, f"answering {len(texts):,} rows to see how sure the run is")
            answers = self.run.generate(list(texts), max_new_tokens=WRITTEN)
            return 1 - self.run.adapter.confidence(texts, answers)
        found = self._predict(keys, texts)
        return acquisition.entropy(found) if self.strategy == "entropy" else acquisition.margin(found)

    def _predict(self, keys: Sequence[str], texts: Sequence[Prompt]) -> numpy.ndarray:
        """The probability of each class, also kept as guesses."""
        parts = [numpy.zeros((0, len(self.classes)))]
        for start in range(0, len(texts), AT_ONCE):
            self._progress(start / len(texts), f"classifying {len(texts):,} rows")
            told = self.run.predict([text_of(one) for one in texts[start : start + AT_ONCE]])
            parts.append(told.iloc[:, 3:].to_numpy())
        found = numpy.concatenate(parts)
        for key, row in zip(keys, found.tolist(), strict=True):
            best = int(numpy.argmax(row))
            self._guesses[key] = self.classes[best], row[best], dict(zip(self.classes, row, strict=True))
        return found

    def _look(self) -> None:
        """Embed what is shown, and guess the classes of what is still to be labelled."""
        lacking = [one for one in self.queue if one["key"] not in self._vectors]
        vectors = self._embed([text_of(one["prompt"]) for one in lacking])
        self._vectors |= zip((one["key"] for one in lacking), vectors, strict=True)
        _ = self.learned  # now, and not when the first row is shown
        if self.classes:
            lacking = [one for one in self.queue if one["key"] not in self._guesses]
            self._predict([one["key"] for one in lacking], [one["prompt"] for one in lacking])
        elif first := self.left[:AHEAD]:
            self._progress(0, f"answering the first {len(first)} rows")
            self._answer(first)

    def _embed(self, texts: Sequence[str]) -> numpy.ndarray:
        return self._embedder.embed(texts, self._progress) if texts else numpy.zeros((0, 1), numpy.float32)

    # ---- what the run knows

    @cached_property
    def table(self) -> Table | None:
        """The rows that the run learned from, as its data hold them; None where these are gone or are others now."""
        return training_rows.table(self.run)

    @cached_property
    def learned(self) -> tuple[list[str], list[str], numpy.ndarray]:
        """Prompts of the run's training rows, answers, and their vectors; of long tables some, drawn at random."""
        texts, answers = training_rows.examples(self.run, LEARNED)
        return texts, answers, self._embed(texts)

    def _seen(self) -> list[str]:
        """Everything that the run learned from or is evaluated on, as far as it is known."""
        table = self.table
        if table is None:
            return self.learned[0]
        every = [(table.rows, table.layout), *([(table.eval_rows, table.eval_layout)] if table.eval_rows else [])]
        return [text_of(prompt_of(row, layout)) for found, layout in every for row in found]

    # ---- one row after the other

    @property
    def left(self) -> list[dict[str, Any]]:
        """The rows of the queue that this person has neither labelled nor skipped."""
        done = {key for key, by in self.decisions.current() if by == self.by}
        return [one for one in self.queue if one["key"] not in done]

    def counts(self) -> dict[str, int]:
        """How many rows this person has labelled and skipped, in how many of these the guess was kept, and the rest."""
        mine = [one for one in self.decisions.current().values() if one.by == self.by]
        labelled = [one for one in mine if one.did == LABEL]
        same = sum(one.answer == one.guess for one in labelled)
        told = {"labelled": len(labelled), "kept": same, "skipped": len(mine) - len(labelled)}
        return told | {"left": len(self.left), "rows": len(self.queue)}

    def next(self) -> Item | None:
        """The row that is to be labelled now; None when all are done."""
        left = self.left
        return self._item(left[0]) if left else None

    def _item(self, row: Mapping[str, Any]) -> Item:
        key, prompt = row["key"], row["prompt"]
        if not self.classes and key not in self._answers:
            self._answer(self.left[:AHEAD])
        guess, confidence, probabilities = self._guesses[key]
        answers = () if self.classes else self._answers[key]
        return Item(key, prompt, row["why"], guess, confidence, probabilities, answers, self._similar(key))

    def _answer(self, queue: Sequence[Mapping[str, Any]]) -> None:
        """Answer rows twice, together: one by one each would take nearly as long as all."""
        texts: list[Prompt] = [one["prompt"] for one in queue]
        options: dict[str, Any] = {"max_new_tokens": LONGEST}
        both = [self.run.generate(texts, temperature=warmth, **options) for warmth in (0.0, WARM)]
        found = [tuple(dict.fromkeys(one for one in pair if one)) or ("",) for pair in zip(*both, strict=True)]
        sure = self.run.adapter.confidence(texts, [answers[0] for answers in found]).tolist()
        for one, answers, confidence in zip(queue, found, sure, strict=True):
            self._answers[one["key"]], self._guesses[one["key"]] = answers, (answers[0], confidence, {})

    def _similar(self, key: str) -> tuple[Similar, ...]:
        """The labelled rows that are nearest to one: those that the run learned from, and those labelled here."""
        texts, answers, vectors = self.learned
        own = [one for one, _ in self.decisions.agreed()[0] if one.key != key and one.key in self._vectors]
        known = [(text_of(one.prompt), one.answer, float(self._vectors[one.key] @ self._vectors[key])) for one in own]
        known += zip(texts, answers, (vectors @ self._vectors[key]).tolist(), strict=True)
        return tuple(Similar(*one) for one in sorted(known, key=lambda one: -one[2])[:SIMILAR])

    def label(self, answer: str | None = None) -> Decision:
        """Label the row that is to be labelled now.

        Parameters
        ----------
        answer : str, optional
            The class, or the answer; by default the run's guess. A class that the run does not know is written
            ``+NAME``.

        Returns
        -------
        Decision
            As it is kept.

        Raises
        ------
        DataError
            If nothing is left, the answer is empty, or there is no such class.
        """
        item = self._now()
        text = item.guess if answer is None else answer.strip()
        if self.classes and text not in self.classes:
            text = self._new(text)
        if not text:
            raise DataError("the answer is empty; write one, or skip the row")
        rejected = tuple(one for one in item.answers if one and one != text)
        return self._keep(item, LABEL, text, rejected)

    def _new(self, text: str) -> str:
        """The name of a class that was not there before, or a refusal."""
        name = text.removeprefix("+").strip()
        if not text.startswith("+") and text not in {one.answer for one in self.decisions.current().values()}:
            hint = nearest(text, self.classes) or f"; write one of {', '.join(self.classes[:8])}"
            raise DataError(f"there is no class {text!r}{hint}, or +{text} for a new one")
        return name

    def skip(self) -> Decision:
        """Leave the row out that is to be labelled now."""
        return self._keep(self._now(), SKIP, "", ())

    def undo(self) -> Decision | None:
        """Take back this person's last decision, whose row comes again; None if there is none."""
        return self.decisions.undo(self.by)

    def _now(self) -> Item:
        if (item := self.next()) is None:
            raise DataError(f"all {len(self.queue):,} rows are done; raise --budget for more")
        return item

    def _keep(self, item: Item, did: str, answer: str, rejected: tuple[str, ...]) -> Decision:
        told = (item.prompt, answer, item.guess, item.confidence, self.version, rejected, item.why)
        made = Decision(item.key, did, self.by, *told)
        self.decisions.add(made)
        return made

    def _row(self, one: Decision) -> dict[str, Any]:
        """A decision as a row to train on, with the columns of the run's own rows."""
        layout = self.run.facts.layout or ("text_label" if self.classes else "prompt_completion")
        found = self.table.layout if self.table else None
        named = found.columns if found and found.name == layout else {}
        return written(one.prompt, one.answer, layout, named)

    # ---- what came of it

    def agreement(self) -> list[tuple[str, str, Kappa]]:
        """How far any two people agree on the rows that both labelled; nothing where texts are written."""
        by_row = self.decisions.labels().values() if self.classes else ()
        people = sorted({name for own in by_row for name in own})
        found = []
        for first, second in combinations(people, 2):
            both = [(own[first].answer, own[second].answer) for own in by_row if {first, second} <= own.keys()]
            if both:
                found.append((first, second, kappa(*zip(*both, strict=True))))
        return found

    def curve(self) -> Curve:
        """Measure the strategy against random choice on the rows that are labelled; see :func:`.acquisition.compare`.

        Raises
        ------
        DataError
            If there are fewer than 40 labelled rows, or texts are written, which nothing compares so cheaply.
        """
        if not self.classes:
            raise DataError("a curve is drawn of classes alone; compare the runs on an evaluation set instead")
        agreed = [one for one, _ in self.decisions.agreed()[0] if one.key in self._vectors]
        if len(agreed) < acquisition.LEAST:
            raise DataError(f"{len(agreed)} labelled rows are too few for a curve; label {acquisition.LEAST} or more")
        _, answers, vectors = self.learned
        own = numpy.stack([self._vectors[one.key] for one in agreed])
        strategy = "both" if self.strategy == "random" else self.strategy
        labels = [one.answer for one in agreed]
        self.curve_found = acquisition.compare(strategy, own, labels, (vectors, answers), self.run.spec.seed)
        return self.curve_found

    def retrain(self, *, listeners: Sequence[Listener] = (), **fields: Any) -> Run:
        """Begin a run from this one's adapter on its training rows and the labelled ones, and return at once.

        Both tables are written beside the decisions, so that the new run can be opened again; the evaluation set stays
        the same. Where there is a class that the run did not know, the new one begins from its base.

        Parameters
        ----------
        listeners : sequence of callable
            Told every event.
        **fields
            Fields of a spec that are to be otherwise.

        Returns
        -------
        Run
            Preparing or training; under the same name it becomes the next version.

        Raises
        ------
        DataError
            If nothing is labelled, or the run's own rows are gone.
        RunError
            If it learned from pairs or rated answers.
        """
        run, labelled = self.run, list(sources.read(self.folder).train)
        if self.table and self.table.layout.kind not in ("labelled", "chat", "text"):
            fix = f"--data {self.folder / decisions.PAIRS} --init-adapter {run.id}"
            raise RunError(f"run {run.id} learned from other rows than these; begin one with {fix}")
        if self.classes and not {one.answer for one, _ in self.decisions.agreed()[0]} <= {*self.classes}:
            fields = {"init_adapter": None, **fields}
        place = self.folder / f"round-{1 + len(list(self.folder.glob('round-*')))}"
        return training_rows.go_on(run, self.table, labelled, place, listeners, fields)


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"
