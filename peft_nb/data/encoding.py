"""Rows to examples: token ids, and which of them are trained on; what is too long is cut, left out or split."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Literal

from peft_nb.data import RowProblem, examples, refusal
from peft_nb.data.conversations import Message
from peft_nb.data.examples import Encoded, Example, Report, collect
from peft_nb.data.layouts import Layout
from peft_nb.data.rendering import Lesson, LossOn, Renderer, prepare, unwrap
from peft_nb.errors import DataError
from peft_nb.events import Progress

BATCH = 512  # rows rendered and tokenised at a time
DOING = "encoding the data"

TooLong = Literal["truncate", "drop", "split"]
Content = str | list[Message]


def encode(
    rows: Sequence[Mapping[str, Any]],
    layout: Layout,
    tokenizer: Any,
    *,
    max_length: int,
    loss_on: LossOn = "assistant",
    too_long: TooLong = "truncate",
    system: str | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    row_name: str = "row",
) -> Encoded:
    """Encode every row of a table for training.

    Parameters
    ----------
    rows : sequence of mapping
        The table; read once, in order.
    layout : Layout
        What its columns mean.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    max_length : int
        Longest example, in tokens.
    loss_on : {"assistant", "completion", "all"}, default "assistant"
        Train on every answer and its end, on the last answer alone, or on everything but the first token, which
        nothing predicts. Plain texts are always trained on as a whole.
    too_long : {"truncate", "drop", "split"}, default "truncate"
        What becomes of longer rows. ``truncate`` cuts them at `max_length`; ``drop`` leaves them out; ``split``
        makes several examples of them that together train on what the row would:

        - plain texts, and everything under ``loss_on="all"``: windows of `max_length` tokens, each beginning
          with the last token of the one before, so that every token but the first is trained on exactly once;
        - every answer: as many whole exchanges (a question with its answers) as fit, each example beginning
          with the system prompt; an exchange that alone is too long is cut;
        - the last answer: one example with as many of the last exchanges as fit.
    system : str, optional
        System prompt for conversations that have none of their own.
    folder : Path, optional
        Where to write the examples; without one they stay in memory.
    progress : callable, optional
        Called about every `BATCH` rows with the share that is done (0 to 1) and what is being done.
    row_name : str, default "row"
        What errors call a row, such as ``held-out row``.

    Returns
    -------
    Encoded
        Examples in the order of the rows, each with at least one token to train on, and a report.

    Raises
    ------
    DataError
        When rows are empty, malformed or would train nothing: all of them counted, the first five named.
    StoreError
        When `folder` cannot be written.
    """
    work = _Work(rows, layout, Renderer(tokenizer), max_length, loss_on, too_long, system)
    return collect(work.examples(progress, row_name), work.report, folder)


def cached(
    root: Path,
    fingerprint: str,
    rows: Sequence[Mapping[str, Any]],
    layout: Layout,
    tokenizer: Any,
    *,
    row_name: str = "row",
    progress: Progress | None = None,
    **options: Any,
) -> tuple[str, Encoded]:
    """Find rows that were encoded before, or encode them and keep them for the next time.

    Parameters
    ----------
    root : Path
        Folder of all that is kept.
    fingerprint : str
        Of the data that `rows` are a part of; `row_name` tells which part.
    rows, layout, tokenizer, row_name, progress, **options
        As for :func:`encode`.

    Returns
    -------
    tuple of str and Encoded
        The name of its folder in `root`, and what is in it.

    Raises
    ------
    DataError, StoreError
        As for :func:`encode`.
    """

    def work(folder: Path) -> Encoded:
        if progress:
            progress(0.0, DOING)
        return encode(rows, layout, tokenizer, folder=folder, progress=progress, row_name=row_name, **options)

    settings = {**options, "part": row_name, "layout": layout.name, "columns": layout.columns}
    return examples.cached(root, fingerprint, tokenizer, settings, work)


@dataclass
class _Work:
    """One table being encoded, and what has been counted so far."""

    rows: Sequence[Mapping[str, Any]]
    layout: Layout
    renderer: Renderer
    max_length: int
    loss_on: LossOn
    too_long: TooLong
    system: str | None

    def __post_init__(self) -> None:
        self.long: list[int] = []

    def report(self, examples: int, tokens: int, supervised: int) -> Report:
        note = "plain texts, no template" if self.layout.plain else self.renderer.note
        counts = len(self.rows), examples, tokens, supervised
        return Report(*counts, tuple(self.long), self.too_long, self.max_length, note, self.layout.why)

    def examples(self, progress: Progress | None, row_name: str) -> Iterator[tuple[int, Example]]:
        """Every example with the number of its row; the rows that cannot be used are refused at the end."""
        problems: dict[int, RowProblem] = {}
        total, some = len(self.rows), False
        for number, (content, lesson) in enumerate(self._lessons()):
            try:
                if isinstance(lesson, RowProblem):
                    raise lesson
                if len(lesson[0]) > self.max_length:
                    self.long.append(number)
                for example in [self._example(one) for one in self._fitted(content, lesson)]:
                    some = True
                    yield number, example
            except RowProblem as problem:
                problems[number] = problem
            if progress and ((number + 1) % BATCH == 0 or number + 1 == total):
                progress((number + 1) / total, DOING)
        if problems:
            raise refusal(problems, total, row_name)
        if not some:
            raise DataError(f"every {row_name} is over {self.max_length:,} tokens and left out; raise max_length")

    def _lessons(self) -> Iterator[tuple[Content, Lesson | RowProblem]]:
        """What each row holds and what is to be learned from it, a batch at a time."""
        remaining = iter(self.rows)
        while batch := [self._content(row) for row in islice(remaining, BATCH)]:
            legible = [content for content in batch if not isinstance(content, RowProblem)]
            lessons: Iterator[Lesson | RowProblem]
            if self.layout.plain:
                lessons = ((ids, [(1, len(ids))]) for ids in self.renderer.texts(legible))
            else:
                lessons = self.renderer.lessons(legible, self.loss_on)
            for content in batch:
                yield content, content if isinstance(content, RowProblem) else next(lessons)

    def _content(self, row: Mapping[str, Any]) -> Any:
        try:
            if self.layout.plain:
                return self.layout.text(row)
            return prepare(self.layout.messages(row), self.system, generation=False)
        except RowProblem as problem:
            return problem

    def _fitted(self, content: Content, lesson: Lesson) -> list[Lesson]:
        """What a row becomes: itself, nothing, or several lessons; some may still have to be cut."""
        ids = lesson[0]
        if len(ids) <= self.max_length or self.too_long == "truncate":
            return [lesson]
        if self.too_long == "drop":
            return []
        if isinstance(content, str) or self.loss_on == "all":
            windows = (ids[start : start + self.max_length] for start in range(0, len(ids) - 1, self.max_length - 1))
            return [(window, [(1, len(window))]) for window in windows]
        return self._split(content)

    def _split(self, messages: list[Message]) -> list[Lesson]:
        """Whole exchanges, as many as fit, after the system prompt; of the last answer alone, those before it."""
        head = messages[: messages[0]["role"] == "system"]
        exchanges: list[list[Message]] = []
        speaker = ""
        for message in messages[len(head) :]:
            if not exchanges or (speaker == "assistant" and message["role"] == "user"):
                exchanges.append([])
            exchanges[-1].append(message)
            speaker = message["role"]

        def lesson(start: int, stop: int) -> Lesson:
            turns = [*head, *chain.from_iterable(exchanges[start:stop])]
            return unwrap(next(self.renderer.lessons([turns], self.loss_on)))

        last = len(exchanges)
        if self.loss_on == "completion":
            tails = (lesson(start, last) for start in range(last))
            return [next((one for one in tails if len(one[0]) <= self.max_length), None) or lesson(last - 1, last)]
        parts, start = [], 0
        while start < last:
            part, stop = lesson(start, start + 1), start + 1
            while stop < last and len((longer := lesson(start, stop + 1))[0]) <= self.max_length:
                part, stop = longer, stop + 1
            parts += [part] if part[1] else []  # exchanges whose answers all have the weight 0
            start = stop
        return parts

    def _example(self, lesson: Lesson) -> Example:
        ids, spans = lesson
        mask = bytearray(len(ids))
        for start, stop in spans:
            mask[start:stop] = b"\x01" * (stop - start)
        example = Example(array("i", ids[: self.max_length]), bytes(mask[: self.max_length]))
        if not any(example.supervised):
            alone = f"its prompt alone is {spans[0][0]:,} tokens and max_length is {self.max_length:,}"
            raise RowProblem(f"would train nothing: {alone}", "raise max_length or shorten the prompt")
        return example
