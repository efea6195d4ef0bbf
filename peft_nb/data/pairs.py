"""Preferences to examples: of a pair both sequences end to end, of a rated answer its own with what it is worth."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from peft_nb.data import RowProblem, encoding
from peft_nb.data.encoding import TooLong, Work
from peft_nb.data.examples import Encoded, Example, collect, joined
from peft_nb.data.rendered import RenderedRows, Sides
from peft_nb.data.rendering import Rendered
from peft_nb.events import Progress


def encode(
    rendered: RenderedRows,
    *,
    max_length: int,
    too_long: TooLong = "truncate",
    folder: Path | None = None,
    progress: Progress | None = None,
    row_name: str = "row",
) -> Encoded:
    """Encode every pair, or every rated answer, of a table.

    The prompt is written as for generation, with the same tokens on both sides of a pair; the loss is on the tokens of
    the answer alone, with its end.

    Parameters
    ----------
    rendered : RenderedRows
        The table as the model will see it, of the kind "preference" or "rated"; iterated once.
    max_length : int
        Longest sequence, in tokens; a pair has two.
    too_long : {"truncate", "drop", "split"}, default "truncate"
        Longer sequences are cut at `max_length`, and the pair is dropped where nothing of an answer is left, or both
        are the same then; ``drop`` drops a pair of which either is longer. Answers are not split but cut.
    folder : Path, optional
        Where to write the examples; without one they stay in memory.
    progress : callable, optional
        Called about every `BATCH` rows with the share that is done (0 to 1) and what is being done.
    row_name : str, default "row"
        What errors call a row, such as ``evaluation row``.

    Returns
    -------
    Encoded
        Of a pair one example that holds the chosen and the rejected sequence as :func:`.examples.joined` lays them; of
        a rated answer one with the label 1 where it is good, else 0. Those of a row follow each other.

    Raises
    ------
    DataError
        When rows cannot be used: all of them counted, the first five named; or when no pair is left.
    StoreError
        When `folder` cannot be written.
    """
    kind = _Pairs if rendered.layout.kind == "preference" else _Rated
    work = kind(rendered, max_length, "truncate" if too_long == "split" else too_long)
    return collect(work.examples(progress, row_name), work.report, folder)


cached = partial(encoding.cached, how=encode)
"""Find pairs or rated answers that were encoded before, or encode them; as :func:`.encoding.cached`."""


class _Pairs(Work):
    unit = "pair"

    def outcomes(self) -> Iterator[list[Sides] | RowProblem]:
        return self.rendered.pairs()

    def of_row(self, number: int, whole: list[Sides]) -> list[Example]:
        return [example for sides in whole if (example := self._pair(number, sides))]

    def _pair(self, number: int, sides: Sides) -> Example | None:
        if sides[0].ids == sides[1].ids:
            raise RowProblem("the model's chat template writes chosen and rejected alike", "drop the row")
        if over := any(len(side.ids) > self.max_length for side in sides):
            self.long.append(number)
        if over and self.too_long == "drop":
            return None
        chosen, rejected = map(self.cut, sides)
        if chosen is None or rejected is None:
            self.dropped.append(number)
            return None
        if chosen.ids == rejected.ids:
            self.alike.append(number)
            return None
        return joined(chosen, rejected)

    def nothing(self, row_name: str) -> str:
        if self.alike and not self.dropped:
            alike = f"the answers of every {row_name} differ only after {self.max_length:,} tokens"
            return f"{alike}; raise max_length above {self.max_length:,}"
        return super().nothing(row_name)


class _Rated(Work):
    unit = "rated answer"

    def of_row(self, number: int, whole: Rendered) -> list[Example]:
        _, good = self.rendered.layout.rated(self.rendered.rows[number])
        return [Example(one.ids, one.supervised, (int(good),)) for one in super().of_row(number, whole)]
