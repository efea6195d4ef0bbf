"""Rows as the model will see them: written by its template and tokenised once, for all who look at them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from functools import cached_property
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.conversations import Message, asked
from peft_nb.data.layouts import Layout
from peft_nb.data.rendering import BATCH, LossOn, Rendered, Renderer, prepare, tokens
from peft_nb.data.turns import Pair

Sides = tuple[Rendered, Rendered]  # the chosen sequence of a pair, and the rejected one

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
        self._remembered: list[Rendered | list[Sides] | RowProblem] = []

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Rendered | RowProblem]:
        """Give for each row its token ids and the spans of them to train on, or why it cannot be used.

        Of pairs the chosen side of the first is given; see :meth:`pairs`. Of rated answers, and of both sides of a
        pair, what is trained on is what follows the prompt. A labelled text has no span, for its label is learned, nor
        has a prompt alone.
        """
        for one in self._each():
            yield one[0][0] if isinstance(one, list) else one

    def pairs(self) -> Iterator[list[Sides] | RowProblem]:
        """Give for each row of preferences the two sides of each of its pairs, or why it cannot be used."""
        for one in self._each():
            assert not isinstance(one, Rendered)
            yield one

    def _each(self) -> Iterator[Rendered | list[Sides] | RowProblem]:
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
        """The conversation of a row up to its last answer, with the system prompt; of pairs the chosen one."""
        return prepare(self.layout.messages(row), self.system, generation=self.layout.kind == "prompt")

    def asked(self) -> Iterator[Rendered | RowProblem]:
        """Give for each row the token ids of its conversation up to its last answer, which is not among them."""
        for start in range(0, len(self.rows), BATCH):
            yield from self._asked([_attempt(self.question, row) for row in self.rows[start : start + BATCH]])

    def question(self, row: Mapping[str, Any]) -> list[Message]:
        """The conversation of a row up to where the last answer begins, with the system prompt."""
        return prepare(self.layout.messages(row), self.system, generation=True)

    def _asked(self, contents: Sequence[list[Message] | RowProblem]) -> Iterator[Rendered | RowProblem]:
        written = iter(self.renderer.chats([one for one in contents if not isinstance(one, RowProblem)], True))
        for content in contents:
            one = content if isinstance(content, RowProblem) else next(written)
            yield one if isinstance(one, RowProblem) else Rendered(array("i", one[1]), [])

    def _render(self, rows: Sequence[Mapping[str, Any]]) -> Sequence[Rendered | list[Sides] | RowProblem]:
        if self.layout.kind == "preference":
            return self._sides([_attempt(self.layout.pairs, row) for row in rows])
        read = self.layout.text if self.layout.plain else self.messages
        contents: list[Any] = [_attempt(read, row) for row in rows]
        readable = [content for content in contents if not isinstance(content, RowProblem)]
        rendered: Iterator[Rendered | RowProblem]
        if self.layout.kind == "prompt":
            return list(self._asked(contents))
        if self.layout.kind == "labelled":
            rendered = (Rendered(ids, []) for ids in tokens(self.tokenizer, readable))
        elif self.layout.plain:
            rendered = (Rendered(ids, [(1, len(ids))]) for ids in self.renderer.texts(readable))
        elif self.layout.kind == "rated":
            rendered = self.renderer.rendered(readable, "assistant", list(map(asked, readable)))
        else:
            rendered = self.renderer.rendered(readable, self.loss_on)
        outcomes = (content if isinstance(content, RowProblem) else next(rendered) for content in contents)
        return list(map(_kept, outcomes))

    def _sides(self, rows: Sequence[list[Pair] | RowProblem]) -> list[list[Sides] | RowProblem]:
        """Render both sides of all pairs together."""
        whole, prompts = [], []
        for prompt, *answers in (pair for pairs in rows if not isinstance(pairs, RowProblem) for pair in pairs):
            for answer in answers:
                whole.append(prepare([*prompt, *answer], self.system, generation=False))
                prompts.append(len(prompt) + (whole[-1][0] is not prompt[0]))
        rendered = map(_kept, self.renderer.rendered(whole, "assistant", prompts))
        found: list[list[Sides] | RowProblem] = []
        for row in rows:
            sides = [] if isinstance(row, RowProblem) else [(next(rendered), next(rendered)) for _ in row]
            wrong = [side for pair in sides for side in pair if isinstance(side, RowProblem)]
            found.append(row if isinstance(row, RowProblem) else wrong[0] if wrong else sides)  # type: ignore[arg-type]
        return found


def _kept(one: Rendered | RowProblem) -> Rendered | RowProblem:
    """In less memory."""
    return one if isinstance(one, RowProblem) else Rendered(array("i", one.ids), one.spans)


def _attempt(read: Any, row: Mapping[str, Any]) -> Any:
    try:
        return read(row)
    except RowProblem as problem:
        return problem
