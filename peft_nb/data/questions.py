"""Prompts to examples: what a model is asked, up to where its own answer begins."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from peft_nb.data import RowProblem, encoding
from peft_nb.data.encoding import TooLong, Work
from peft_nb.data.examples import Encoded, Example, Report, collect
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import Rendered
from peft_nb.events import Progress

EVALUATION = "evaluation row"


def encode(
    rendered: RenderedRows,
    *,
    max_length: int,
    too_long: TooLong = "drop",
    folder: Path | None = None,
    progress: Progress | None = None,
    row_name: str = "row",
) -> Encoded:
    """Encode the prompt of every row of a table, written as for generation.

    Parameters
    ----------
    rendered : RenderedRows
        The table as the model will see it, of the kind "chat" or "prompt"; of a conversation the last answer is left
        out. Iterated once.
    max_length : int
        Longest prompt, in tokens. A longer one is dropped and counted: cut, it would be another question.
    too_long : str
        Not used.
    folder : Path, optional
        Where to write the examples; without one they stay in memory.
    progress : callable, optional
        Called about every `BATCH` rows with the share that is done (0 to 1) and what is being done.
    row_name : str, default "row"
        What errors call a row, such as ``evaluation row``.

    Returns
    -------
    Encoded
        Examples learned as a whole, whose labels are the number of their row and 1 for an evaluation row, else 0.

    Raises
    ------
    DataError
        When rows cannot be used: all of them counted, the first five named; or when no prompt is left.
    StoreError
        When `folder` cannot be written.
    """
    work = _Questions(rendered, max_length, "drop")
    work.part = int(row_name == EVALUATION)
    return collect(work.examples(progress, row_name), work.report, folder)


cached = partial(encoding.cached, how=encode)
"""Find prompts that were encoded before, or encode them; as :func:`.encoding.cached`."""


class _Questions(Work):
    unit = "prompt"
    part = 0

    def outcomes(self) -> Iterator[Rendered | RowProblem]:
        return self.rendered.asked()

    def of_row(self, number: int, whole: Rendered) -> list[Example]:
        if len(whole.ids) > self.max_length:
            self.long.append(number)
            return []
        return [Example.whole(array("i", whole.ids), (number, self.part))]

    def report(self, examples: int, tokens: int, supervised: int) -> Report:
        return super().report(examples, tokens, 0)
