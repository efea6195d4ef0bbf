"""Rows to examples: token ids, and which of them are trained on; what is too long is cut, dropped or split."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from peft_nb.data import RowProblem, examples, refusal
from peft_nb.data.conversations import Message, equipped, tools_of
from peft_nb.data.examples import Encoded, Example, Report, collect
from peft_nb.data.rendered import BATCH, RenderedRows
from peft_nb.data.rendering import Rendered, unwrap
from peft_nb.errors import DataError
from peft_nb.events import Progress

DOING = "tokenizing"

TooLong = Literal["truncate", "drop", "split"]


def encode(
    rendered: RenderedRows,
    *,
    max_length: int,
    too_long: TooLong = "truncate",
    folder: Path | None = None,
    progress: Progress | None = None,
    row_name: str = "row",
) -> Encoded:
    """Encode every row of a table for training.

    Parameters
    ----------
    rendered : RenderedRows
        The table as the model will see it; iterated once. Its ``loss_on`` trains on every answer and its end
        (``assistant``), on the last answer alone (``completion``), or on everything but the first token, which
        nothing predicts (``all``). Plain texts are always trained on as a whole.
    max_length : int
        Longest example, in tokens.
    too_long : {"truncate", "drop", "split"}, default "truncate"
        What becomes of longer rows. ``truncate`` cuts them at `max_length`; ``drop`` leaves them out; ``split``
        makes several examples of them that together train on what the row would:

        - plain texts, and everything under ``loss_on="all"``: windows of `max_length` tokens, each beginning
          with the last token of the one before, so that every token but the first is trained on exactly once;
        - every answer: as many whole exchanges (a question with its answers) as fit, each example beginning
          with the system prompt; an exchange that alone is too long is cut;
        - the last answer: one example with as many of the last exchanges as fit.
    folder : Path, optional
        Where to write the examples; without one they stay in memory.
    progress : callable, optional
        Called about every `BATCH` rows with the share that is done (0 to 1) and what is being done.
    row_name : str, default "row"
        What errors call a row, such as ``evaluation row``.

    Returns
    -------
    Encoded
        Examples in the order of the rows, each with at least one token to train on, and a report.

    Raises
    ------
    DataError
        When rows are empty, malformed or would train nothing: all of them counted, the first five named; a row whose
        prompt alone is over `max_length` is dropped and counted in the report, and refused only where all are.
    StoreError
        When `folder` cannot be written.
    """
    work = Work(rendered, max_length, too_long)
    return collect(work.examples(progress, row_name), work.report, folder)


def cached(
    root: Path,
    fingerprint: str,
    rendered: RenderedRows,
    *,
    max_length: int,
    too_long: TooLong = "truncate",
    row_name: str = "row",
    progress: Progress | None = None,
    how: Callable[..., Encoded] | None = None,
) -> tuple[str, Encoded]:
    """Find rows that were encoded before, or encode them and keep them for the next time.

    Parameters
    ----------
    root : Path
        Folder of all that is kept.
    fingerprint : str
        Of the data that the rows are a part of; `row_name` tells which part.
    rendered, max_length, too_long, row_name, progress
        As for :func:`encode`; nothing is rendered where the rows are found.
    how : callable, optional
        What encodes rows of another kind in place of :func:`encode`, and takes what it does.

    Returns
    -------
    tuple of str and Encoded
        The name of its folder in `root`, and what is in it.

    Raises
    ------
    DataError, StoreError
        As for :func:`encode`.
    """
    options: dict[str, Any] = {"max_length": max_length, "too_long": too_long}

    def work(folder: Path) -> Encoded:
        if progress:
            progress(0.0, DOING)
        return (how or encode)(rendered, folder=folder, progress=progress, row_name=row_name, **options)

    layout = rendered.layout
    settings: dict[str, Any] = {"loss_on": rendered.loss_on, "system": rendered.system, "layout": layout.name}
    settings |= {**options, "part": row_name, "columns": layout.columns}
    if how:
        settings["how"] = how.__module__
    return examples.cached(root, fingerprint, rendered.tokenizer, settings, work)


@dataclass
class Work:
    """One table being encoded, and so far the rows over the length and those of which nothing is left.

    Rows of another kind are encoded by a subclass that gives its own ``outcomes`` and ``of_row``.
    """

    rendered: RenderedRows
    max_length: int
    too_long: TooLong

    unit = "row"

    def __post_init__(self) -> None:
        self.long: list[int] = []
        self.dropped: list[int] = []
        self.alike: list[int] = []
        self.shortest = 0  # prompt of those dropped, in tokens

    def report(self, examples: int, tokens: int, supervised: int) -> Report:
        """Tell what was done, from the number of examples, their tokens and their supervised tokens."""
        counts, why = (len(self.rendered), examples, tokens, supervised), self.rendered.layout.why
        long, left = tuple(self.long), (tuple(self.dropped), tuple(self.alike))
        return Report(*counts, long, self.too_long, self.max_length, self.rendered.note, why, *left, self.unit)

    def examples(self, progress: Progress | None, row_name: str) -> Iterator[tuple[int, Example]]:
        """Every example with the number of its row; the rows that cannot be used are refused at the end."""
        problems: dict[int, RowProblem] = {}
        total, some = len(self.rendered), False
        for number, outcome in enumerate(self.outcomes()):
            try:
                for example in self.of_row(number, unwrap(outcome)):
                    some = True
                    yield number, example
            except RowProblem as problem:
                problems[number] = problem
            if progress and ((number + 1) % BATCH == 0 or number + 1 == total):
                progress((number + 1) / total, DOING)
        if problems:
            raise refusal(problems, total, row_name)
        if not some:
            raise DataError(self.nothing(row_name))

    def nothing(self, row_name: str) -> str:
        """Say why no example is left."""
        if self.dropped:
            alone = f"the prompt alone of every {row_name} fills max_length ({self.max_length:,} tokens)"
            return f"{alone}; raise max_length above {self.shortest:,}, or shorten the prompts"
        return f"every {row_name} is over {self.max_length:,} tokens and dropped; raise max_length"

    def outcomes(self) -> Iterator[Any]:
        """What each row is rendered as, or why it cannot be used."""
        return iter(self.rendered)

    def of_row(self, number: int, whole: Any) -> list[Example]:
        """Make the examples of a row, and note what is too long."""
        if len(whole.ids) > self.max_length:
            self.long.append(number)
        made = [self.cut(one) for one in self._fitted(number, whole)]
        if None in made:
            self.dropped.append(number)
        return [example for example in made if example]

    def _fitted(self, number: int, whole: Rendered) -> list[Rendered]:
        """What a row becomes: itself, nothing, or several parts; some may still have to be cut."""
        ids, rows = whole.ids, self.rendered
        if len(ids) <= self.max_length or self.too_long == "truncate":
            return [whole]
        if self.too_long == "drop":
            return []
        if rows.layout.plain or rows.loss_on == "all":
            windows = (ids[start : start + self.max_length] for start in range(0, len(ids) - 1, self.max_length - 1))
            return [Rendered(window, [(1, len(window))]) for window in windows]
        return self._split(rows.messages(rows.rows[number]))

    def _split(self, messages: list[Message]) -> list[Rendered]:
        """Whole exchanges, as many as fit, after the system prompt; of the last answer alone, those before it."""
        head, tools = messages[: messages[0]["role"] == "system"], tools_of(messages)
        exchanges: list[list[Message]] = []
        speaker = ""
        for message in messages[len(head) :]:
            if not exchanges or (speaker == "assistant" and message["role"] == "user"):
                exchanges.append([])
            exchanges[-1].append(message)
            speaker = message["role"]

        def rendered(start: int, stop: int) -> Rendered:
            turns = equipped([*head, *chain.from_iterable(exchanges[start:stop])], tools)
            return unwrap(next(self.rendered.renderer.rendered([turns], self.rendered.loss_on)))

        last = len(exchanges)
        if self.rendered.loss_on == "completion":
            tails = (rendered(start, last) for start in range(last))
            return [next((one for one in tails if len(one.ids) <= self.max_length), None) or rendered(last - 1, last)]
        parts, start = [], 0
        while start < last:
            part, stop = rendered(start, start + 1), start + 1
            while stop < last and len((longer := rendered(start, stop + 1)).ids) <= self.max_length:
                part, stop = longer, stop + 1
            parts += [part] if part.spans else []  # no answer of these exchanges is learned
            start = stop
        return parts

    def cut(self, one: Rendered) -> Example | None:
        """Cut to the length; None where the prompt alone fills it."""
        ids, spans = one
        mask = bytearray(len(ids))
        for start, stop in spans:
            mask[start:stop] = b"\x01" * (stop - start)
        example = Example(array("i", ids[: self.max_length]), bytes(mask[: self.max_length]))
        if any(example.supervised):
            return example
        self.shortest = min(self.shortest or spans[0][0], spans[0][0])
        return None
