"""How long rows are and what of them is learned, as the model will see them; of pairs the longer sequence."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any

from peft_nb.data import RowProblem
from peft_nb.data.quality.findings import Findings
from peft_nb.data.quality.reading import Reading
from peft_nb.data.rendered import BATCH, RenderedRows
from peft_nb.data.rendering import LossOn, Rendered, TemplateProblem
from peft_nb.events import Progress

if TYPE_CHECKING:
    from peft_nb.spec import RunSpec

_TOOLS = (
    "Qwen2.5 Instruct (from 0.5B), Qwen3, Llama 3.1 to 3.3 Instruct, Mistral 7B Instruct v0.3, Mistral Nemo, gpt-oss"
)
# What a conversation may hold that some templates leave out, in words, and models whose templates write it. Of those
# that have a short name here, none writes calls of tools.
WRITTEN_BY = {
    "tool_calls": ("tool calls", _TOOLS),
    "tool": ("what tools return", _TOOLS),
    "tools": ("tool definitions", _TOOLS),
    "system": ("system prompts", "smollm2-135m, Qwen2.5 Instruct, Qwen3, Llama 3.1 to 3.3 Instruct"),
}
CHARACTERS_A_TOKEN = 4  # of English, by OpenAI's help page "What are tokens and how to count them?"


@dataclass(frozen=True)
class Options:
    """What a check has to know of the run that is planned; the fields are those of ``RunSpec``, but the last two."""

    task: str = "generation"
    max_length: int = 1024
    loss_on: LossOn = "assistant"
    too_long: str = "truncate"
    system: str | None = None
    personal_data: str = "warn"
    method: str = "lora"
    allow: tuple[str, ...] = ()
    desirable_weight: float | None = None
    undesirable_weight: float | None = None
    usual_rows: int = 50
    accepts: tuple[str, ...] = ("chat", "text")

    @classmethod
    def of(cls, spec: RunSpec, usual_rows: int, accepts: tuple[str, ...]) -> Options:
        """Take them from a spec, the rows that its method usually needs, and the kinds of layouts its task accepts."""
        known = {one.name: getattr(spec, one.name) for one in fields(cls)[:-2]}
        return cls(**known | {"allow": tuple(spec.allow)}, usual_rows=usual_rows, accepts=accepts)


def lengths(
    readings: Mapping[int, Reading],
    rendered: RenderedRows | None,
    options: Options,
    found: Findings,
    progress: Progress | None,
) -> array[int]:
    """Measure every row that can be read, and find those that are cut, dropped, or beyond the model's template."""
    counts, limit = array("q"), options.max_length
    beyond: dict[str, str] = {}  # what the template cannot render, and what to do
    measured: Iterator[Any]
    if rendered is None:
        measured = (list(map(_estimated, one.sequences)) for one in readings.values())
    else:
        last = max(readings, default=-1)
        measured = (one for number, one in enumerate(islice(_sequences(rendered), last + 1)) if number in readings)
    for number, one in zip(readings, measured, strict=True):
        if isinstance(one, TemplateProblem):
            what, models = WRITTEN_BY.get(one.part, ("", ""))
            problem = f"this model's chat template cannot render {what}" if what else one.reason
            beyond[problem] = f"these can: {models}; or write them as text" if what else one.fix
            found.add("template", number, readings[number].text)
            continue
        if isinstance(one, RowProblem):
            found.add("malformed", number, one.reason)
            continue
        longest, reading = max(len(ids) for ids, _ in one), readings[number]
        counts.append(longest)
        # Answers that are compared or rated are cut where other rows are split.
        cut = options.too_long == "truncate" or (reading.answers and options.too_long == "split")
        alone = next((spans for _, spans in one if spans and all(start >= limit for start, _ in spans)), None)
        pairs = list(zip(one[::2], one[1::2], strict=False)) if rendered is not None else []
        if any(chosen.ids == rejected.ids for chosen, rejected in pairs):
            found.add("identical", number, f"as the model's chat template writes them: {reading.text}")
        elif cut and alone:
            said = f"its prompt alone is {alone[0][0]:,} tokens: {reading.text}"
            title = f"{{rows}} whose prompt alone fills max_length {limit:,}: dropped in training"
            found.add("long_prompt", number, said, title=title)
        elif cut and pairs and all(chosen.ids[:limit] == rejected.ids[:limit] for chosen, rejected in pairs):
            title = f"{{rows}} whose answers differ only after max_length {limit:,}: dropped in training"
            found.add("cut_alike", number, reading.text, title=title)
        elif longest > limit:
            about = f"{'about ' if rendered is None else ''}{longest:,} tokens"
            found.add("long", number, f"{about}: {reading.text}", title=f"{{rows}} over {limit:,} tokens")
        if progress and len(counts) % BATCH == 0:
            progress(len(counts) / len(readings), "tokenizing")
    if beyond:
        advice = "; ".join(dict.fromkeys(beyond.values()))
        found.changed["template"] = {"title": f"{'; '.join(beyond)}: {{rows}}", "advice": advice}
    if readings and len(found.rows.get("long_prompt", ())) == len(readings):
        title = f"the prompt alone fills max_length {limit:,} in every row"
        found.changed["long_prompt"] |= {"level": "error", "title": title, "fix": ""}
    return counts


def _sequences(rendered: RenderedRows) -> Iterator[list[Rendered] | RowProblem]:
    """What the model is given for each row: one sequence, or chosen and rejected ones by turns."""
    if rendered.layout.kind != "preference":
        yield from (one if isinstance(one, RowProblem) else [one] for one in rendered)
        return
    for row in rendered.pairs():
        yield row if isinstance(row, RowProblem) else [side for pair in row for side in pair]


def _estimated(text: str) -> Rendered:
    return Rendered(range(-(-len(text) // CHARACTERS_A_TOKEN)), [])
