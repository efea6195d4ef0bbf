"""How long rows are and what of them is learned, as the model will see them."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.conversations import Message
from peft_nb.data.layouts import Layout
from peft_nb.data.quality.findings import Findings
from peft_nb.data.quality.reading import Reading
from peft_nb.data.rendering import Lesson, LossOn, Renderer, prepare
from peft_nb.events import Progress
from peft_nb.spec import RunSpec

BATCH = 512
CHARACTERS_A_TOKEN = 4  # of English, by OpenAI's help page "What are tokens and how to count them?"


@dataclass(frozen=True)
class Options:
    """What a check has to know of the run that is planned; the fields are those of ``RunSpec``, but for the last."""

    task: str = "generation"
    max_length: int = 1024
    loss_on: LossOn = "assistant"
    too_long: str = "truncate"
    system: str | None = None
    personal_data: str = "warn"
    method: str = "lora"
    usual_rows: int = 50
    accepts: tuple[str, ...] = ("chat", "text")

    @classmethod
    def of(cls, spec: RunSpec, usual_rows: int, accepts: tuple[str, ...]) -> Options:
        """Take them from a spec, the rows that its method usually needs, and the kinds of layouts its task accepts."""
        others = ("usual_rows", "accepts")
        known = {field.name: getattr(spec, field.name) for field in fields(cls) if field.name not in others}
        return cls(**known, usual_rows=usual_rows, accepts=accepts)


def lessons(
    rows: Iterable[Mapping[str, Any]], layout: Layout, tokenizer: Any, options: Options
) -> Iterator[Lesson | RowProblem]:
    """Write rows as the model will see them.

    Parameters
    ----------
    rows : iterable of mapping
        Rows that their layout can read.
    layout, tokenizer, options
        As for :func:`check`.

    Yields
    ------
    tuple or RowProblem
        Token ids and the spans of them to train on, uncut; of a preference pair the chosen side, of a labelled
        text no span.
    """
    renderer = None if layout.kind == "labelled" else Renderer(tokenizer)
    remaining = iter(rows)
    while batch := list(islice(remaining, BATCH)):
        if renderer is None:
            for ids in tokenizer([layout.text(row) for row in batch], verbose=False)["input_ids"]:
                yield ids, []
        elif layout.kind == "text":
            yield from ((ids, [(1, len(ids))]) for ids in renderer.texts([layout.text(row) for row in batch]))
        else:
            conversations = [prepare(_conversation(row, layout), options.system, generation=False) for row in batch]
            yield from renderer.lessons(conversations, options.loss_on)


def _conversation(row: Mapping[str, Any], layout: Layout) -> list[Message]:
    if layout.kind == "chat":
        return layout.messages(row)
    prompt, chosen, _ = layout.pair(row)
    return [*prompt, *chosen]


def lengths(
    rows: Iterable[Mapping[str, Any]],
    layout: Layout,
    readings: Mapping[int, Reading],
    tokenizer: Any,
    options: Options,
    found: Findings,
    progress: Progress | None,
) -> array[int]:
    """Measure every row that can be read, and find those that are cut or then teach nothing."""
    counts, limit = array("q"), options.max_length
    if tokenizer is None:
        measured: Iterable[Any] = (
            (range(-(-len(reading.text) // CHARACTERS_A_TOKEN)), []) for reading in readings.values()
        )
    else:
        measured = lessons((row for number, row in enumerate(rows) if number in readings), layout, tokenizer, options)
    for number, lesson in zip(readings, measured, strict=True):
        if isinstance(lesson, RowProblem):
            found.add("malformed", number, lesson.reason)
            continue
        ids, spans = lesson
        counts.append(len(ids))
        if spans and options.too_long == "truncate" and all(start >= limit for start, _ in spans):
            found.add("nothing", number, f"its prompt alone is {spans[0][0]:,} tokens, max_length is {limit:,}")
        elif len(ids) > limit:
            about = f"{'about ' if tokenizer is None else ''}{len(ids):,} tokens"
            found.add("long", number, f"{about}: {readings[number].text}", title=f"{{rows}} over {limit:,} tokens")
        if progress and len(counts) % BATCH == 0:
            progress(len(counts) / len(readings), "counting tokens")
    return counts
