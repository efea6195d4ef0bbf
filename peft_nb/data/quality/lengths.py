"""How long rows are and what of them is learned, as the model will see them."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

from peft_nb.data import RowProblem
from peft_nb.data.quality.findings import Findings
from peft_nb.data.quality.reading import Reading
from peft_nb.data.rendered import BATCH, RenderedRows
from peft_nb.data.rendering import LossOn, Rendered
from peft_nb.events import Progress
from peft_nb.spec import RunSpec

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

    @classmethod
    def of(cls, spec: RunSpec, usual_rows: int) -> Options:
        """Take them from a spec, and the rows that its method usually needs."""
        known = {field.name: getattr(spec, field.name) for field in fields(cls) if field.name != "usual_rows"}
        return cls(**known, usual_rows=usual_rows)


def lengths(
    readings: Mapping[int, Reading],
    rendered: RenderedRows | None,
    options: Options,
    found: Findings,
    progress: Progress | None,
) -> array[int]:
    """Measure every row that can be read, and find those that are cut or then teach nothing."""
    counts, limit = array("q"), options.max_length
    measured: Iterator[Any]
    if rendered is None:
        measured = (Rendered(range(-(-len(one.text) // CHARACTERS_A_TOKEN)), []) for one in readings.values())
    else:
        last = max(readings, default=-1)
        measured = (one for number, one in enumerate(islice(rendered, last + 1)) if number in readings)
    for number, one in zip(readings, measured, strict=True):
        if isinstance(one, RowProblem):
            found.add("malformed", number, one.reason)
            continue
        ids, spans = one
        counts.append(len(ids))
        if spans and options.too_long == "truncate" and all(start >= limit for start, _ in spans):
            found.add("nothing", number, f"its prompt alone is {spans[0][0]:,} tokens, max_length is {limit:,}")
        elif len(ids) > limit:
            about = f"{'about ' if rendered is None else ''}{len(ids):,} tokens"
            found.add("long", number, f"{about}: {readings[number].text}", title=f"{{rows}} over {limit:,} tokens")
        if progress and len(counts) % BATCH == 0:
            progress(len(counts) / len(readings), "counting tokens")
    return counts
