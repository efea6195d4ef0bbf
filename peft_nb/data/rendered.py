"""Rows as the model will see them: written by its template and tokenised once, for all who look at them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.conversations import Message
from peft_nb.data.layouts import Layout
from peft_nb.data.rendering import BATCH, LossOn, Rendered, Renderer, prepare, tokens

REMEMBERED = 2_048  # first rows whose tokens are kept: about as many as a check looks at, in 8 MB at 1,000 tokens a row


class RenderedRows:
    """Rows of a table as token ids with the spans to train on, each rendered when it is first asked for.

    One object serves a whole run: the forecast, the check and encoding iterate it one after the other, and the first
    `REMEMBERED` rows, which all of them want, are rendered and tokenised once. Nothing is cut here.

    Parameters
    ----------
    rows : sequence of mapping
        The table.
    layout : Layout
        What its columns mean.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's tokenizer.
    loss_on : {"assistant", "completion", "all"}, default "assistant"
        Of conversations, what is trained on, as for :func:`.encoding.encode`.
    system : str, optional
        System prompt for conversations that have none of their own.

    Examples
    --------
    >>> rendered = RenderedRows(rows, layout, tokenizer)  # doctest: +SKIP
    >>> forecast = encode(rendered.first(256), max_length=1024)  # doctest: +SKIP
    >>> checked = check(rendered.rows, layout, rendered=rendered)  # doctest: +SKIP
    >>> encoded = encode(rendered, max_length=1024)  # doctest: +SKIP
    """

    def __init__(
        self,
        rows: Sequence[Mapping[str, Any]],
        layout: Layout,
        tokenizer: Any,
        *,
        loss_on: LossOn = "assistant",
        system: str | None = None,
    ) -> None:
        self.rows, self.layout, self.tokenizer = rows, layout, tokenizer
        self.loss_on, self.system = loss_on, system
        self._remembered: list[Rendered | RowProblem] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Rendered | RowProblem]:
        """Give for each row its token ids and the spans of them to train on, or why it cannot be used.

        Of a preference pair the chosen side is rendered; a labelled text has no span, for its label is learned.
        """
        number = 0
        while number < len(self.rows):
            if number < len(self._remembered):
                yield self._remembered[number]
                number += 1
                continue
            batch = self._render(self.rows[number : number + BATCH])
            if number == len(self._remembered):
                self._remembered += batch[: max(0, REMEMBERED - number)]
            yield from batch
            number += len(batch)

    def first(self, count: int) -> RenderedRows:
        """The first rows alone; what is rendered of them is remembered for all."""
        part = copy(self)
        part.rows = self.rows[:count]
        return part

    @cached_property
    def renderer(self) -> Renderer:
        """Writes conversations and plain texts."""
        return Renderer(self.tokenizer)

    @property
    def note(self) -> str:
        """How rows are written, for the user."""
        return "plain texts, no template" if self.layout.plain else self.renderer.note

    def messages(self, row: Mapping[str, Any]) -> list[Message]:
        """The conversation of a row up to its last answer, with the system prompt."""
        if self.layout.kind == "preference":
            prompt, chosen, _ = self.layout.pair(row)
            return prepare([*prompt, *chosen], self.system, generation=False)
        return prepare(self.layout.messages(row), self.system, generation=False)

    def _render(self, rows: Sequence[Mapping[str, Any]]) -> list[Rendered | RowProblem]:
        read = self.layout.text if self.layout.plain else self.messages
        contents: list[Any] = [_attempt(read, row) for row in rows]
        readable = [content for content in contents if not isinstance(content, RowProblem)]
        rendered: Iterator[Rendered | RowProblem]
        if self.layout.kind == "labelled":
            rendered = (Rendered(ids, []) for ids in tokens(self.tokenizer, readable))
        elif self.layout.plain:
            rendered = (Rendered(ids, [(1, len(ids))]) for ids in self.renderer.texts(readable))
        else:
            rendered = self.renderer.rendered(readable, self.loss_on)
        outcomes = (content if isinstance(content, RowProblem) else next(rendered) for content in contents)
        return [one if isinstance(one, RowProblem) else Rendered(array("i", one.ids), one.spans) for one in outcomes]


def _attempt(read: Any, row: Mapping[str, Any]) -> Any:
    try:
        return read(row)
    except RowProblem as problem:
        return problem
