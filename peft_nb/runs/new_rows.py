"""What a run is compared on: the rows that it learned from, and new ones, whatever they come as."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy
import pandas

from peft_nb.data import Rows, detection, sources, splits
from peft_nb.data.examples import Examples
from peft_nb.data.layouts import Layout
from peft_nb.data.rendered import RenderedRows
from peft_nb.documents.embedding import Embedder
from peft_nb.errors import DataError
from peft_nb.events import Progress
from peft_nb.runs.run import Run
from peft_nb.serving.route import places_of, prompts_of, text_of
from peft_nb.tasks.base import Look

MOST, SIGNALS, LEAST = 400, 80, 8  # texts, images or clips that are looked at of each side, and that there have to be
LOG, ANSWER = "asked", "answer"  # the columns of the server's log that hold prompts and answers
HELD = {"array", "bytes", "path"}  # keys of an image or a clip that is no row
NAMED = 5  # classes that a run does not know


@dataclass
class Side:
    """Rows of one side.

    Attributes
    ----------
    texts : list of str
        What was asked; of images and clips what the run says of them, once it was asked.
    examples : sequence of Example, or None
        The rows as a run reads them; None where nothing but prompts is known.
    answered : bool
        Whether the examples have answers that can be learned.
    answers : list of (str, str)
        Prompts with what was answered since, by a log.
    notes : list of str
        What was left out.
    look : Look or None
        What the run's base makes of images or clips.
    vectors : numpy.ndarray
        What the rows are about, shape ``(rows, size)``, each of length 1.
    """

    texts: list[str]
    examples: Any = None
    answered: bool = False
    answers: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    look: Look | None = None
    vectors: numpy.ndarray = field(default_factory=lambda: numpy.zeros((0, 1)))

    def __len__(self) -> int:
        return len(self.texts) or len(self.examples or ())

    def see(self, run: Run, embedder: Embedder, progress: Progress) -> None:
        """Find out what the rows are about: texts by an encoder, images and clips by the run's own base."""
        if not signals(run):
            self.vectors = embedder.embed(self.texts, progress)
            return
        progress(0, f"looking at {len(self):,} rows")
        with run.adapter.using:
            self.look = run.adapter.task.look(run.model, run.tokenizer, self.examples, run.facts.task)
        self.vectors = self.look.vectors if self.look else self.vectors

    def ask(self, run: Run, progress: Progress) -> pandas.DataFrame:
        """Ask a run that writes no answers what it says of the rows."""
        progress(0, f"asking about {len(self):,} rows")
        if not signals(run):
            return run.predict(list(self.texts))
        with run.adapter.using:
            found = run.adapter.task.predicted(run.model, run.tokenizer, self.examples, run.facts.task)
        self.texts = run.adapter.task.said(found)
        return found

    def shown(self, place: int) -> str:
        """A row as it is shown: its text, or which image or clip it is and what the run says of it."""
        if self.examples is None or not self.look:
            return self.texts[place]
        said = f": {self.texts[place]}" if self.texts else ""
        return f"{self.look.what} {place}{said}"


def signals(run: Run) -> bool:
    """Whether a run reads images or clips."""
    return run.adapter.task.base in ("vision", "speech")


def kept_side(run: Run, rows: Examples) -> Side:
    """Choose rows that a run learned from or is evaluated on."""
    if signals(run):
        return Side([], rows.take(places_of(len(rows), SIGNALS)))
    return Side(_prompts(run, rows))


def new(run: Run, rows: Any, namespace: Mapping[str, Any], progress: Progress) -> Side:
    """Read new rows, with the answers that they have.

    Parameters
    ----------
    run : Run
        What they are for.
    rows : object
        Prompts, images or clips as a list, whatever the run takes as data, or the log of a server.
    namespace : mapping
        The notebook's variables.
    progress : callable
        Told how far it is.

    Raises
    ------
    DataError
        If they are none that can be asked of this run.
    """
    task, spec = run.adapter.task, run.spec
    listed = isinstance(rows, list | tuple) and bool(rows)
    if listed and signals(run) and (not isinstance(rows[0], Mapping) or rows[0].keys() & HELD):
        chosen = [rows[place] for place in places_of(len(rows), SIGNALS)]
        return Side([], task.unlabelled(chosen, run.tokenizer, run.facts.task))
    if listed and all(isinstance(one, str) for one in rows):
        return Side(_some(list(rows)))
    read = sources.read(rows, namespace).train
    if len(read) and LOG in read[0]:
        told = [row for row in read if row.get(LOG) and text_of(row[LOG]).strip()]
        seen = [told[place] for place in places_of(len(told), MOST)]
        texts = [text_of(row[LOG]).strip() for row in seen]
        said = [(text, str(row[ANSWER])) for text, row in zip(texts, seen, strict=True) if row.get(ANSWER)]
        return Side(texts, answers=said * task.generates)
    if len(read) and {"at", "version"} <= set(read[0]) and LOG not in read[0]:
        raise DataError("the log holds no texts; serve with --log-texts, or pass the rows themselves")
    layout = detection.detect(read, spec.format, spec.columns)
    if layout.kind == "prompt":
        return Side(_some([text_of(layout.messages(row)) for row in read]))
    if layout.kind not in task.accepts:
        raise DataError(f"{layout.why}: these rows are none that {spec.task} learns from; give such rows, or prompts")
    known, notes = _of_known_classes(run, read, layout)
    some = splits.chosen(known, places_of(len(known), SIGNALS if signals(run) else MOST))
    rendered = RenderedRows(some, layout, run.tokenizer, loss_on=spec.loss_on, system=spec.system)
    _, encoded = task.encode(rendered, spec, dict(run.facts.task), row_name="new row", progress=progress)
    texts = [] if signals(run) else _prompts(run, encoded.examples)
    return Side(texts, encoded.examples, True, notes=notes)


def _prompts(run: Run, examples: Examples) -> list[str]:
    chat = run.facts.chat and run.adapter.task.generates
    return [one for one in prompts_of(examples, run.tokenizer, run.spec.system, chat, MOST) if one]


def _some(prompts: Sequence[str]) -> list[str]:
    filled = [one.strip() for one in prompts if one.strip()]
    return [filled[place] for place in places_of(len(filled), MOST)]


def _of_known_classes(run: Run, rows: Rows, layout: Layout) -> tuple[Rows, list[str]]:
    """The rows of classes that a classifier knows, and a note on the others; of any other task all rows."""
    known = run.facts.task.get("classes")
    if not known:
        return rows, []
    unknown = Counter(label for row in rows for label in {*map(str, layout.labels(row))} - {*known})
    kept = [number for number, row in enumerate(rows) if {*map(str, layout.labels(row))} <= {*known}]
    if not unknown:
        return rows, []
    told = ", ".join(f"{name} ({count:,})" for name, count in unknown.most_common(NAMED))
    note = f"{len(rows) - len(kept):,} of {len(rows):,} rows are of classes that it does not know: {told}"
    return splits.chosen(rows, kept), [f"{note}; they were left out, retrain to learn them"]
