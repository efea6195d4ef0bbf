"""The rows of a run on their way to examples: read, redacted, checked and encoded once, and found again on resuming.

Beside the run lie ``data.json``, what the check told; ``examples.json``, which encoded rows are its own;
``prompts.json``, a few evaluation rows to ask later; and ``judging.json``, those to be answered at the end.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.adapters.exporters import Side
from peft_nb.data import examples, prompts, splits, table
from peft_nb.data.examples import Encoded, Example, Examples, Report
from peft_nb.data.kept import EXAMPLES, Sides, cache_of, kept
from peft_nb.data.quality import checks, fixes, redaction
from peft_nb.data.quality.fixes import Change
from peft_nb.data.quality.lengths import Options
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.sources import IN_MEMORY
from peft_nb.data.table import Table
from peft_nb.errors import DataError, SpecError, StoreError
from peft_nb.events import Notice
from peft_nb.methods import REGISTRY
from peft_nb.models.load import Base
from peft_nb.runs import documents, rewards
from peft_nb.runs.context import Context, Inputs
from peft_nb.spec import RunSpec
from peft_nb.store import Facts, space
from peft_nb.system import resources
from peft_nb.system.files import atomic_text
from peft_nb.tasks import TASKS, Task, inspect, problems, proposed

if TYPE_CHECKING:
    from peft_nb.evaluation.evaluators import Asked

OWN = 200  # of the user's own regression rows, at most
CHECKED_ROWS = 2_000  # rows that a run looks through before it trains; `%peft data` takes its time for all
JUDGING, DATA = space.ASKED, "data.json"


def read(spec: RunSpec, inputs: Inputs) -> tuple[RunSpec, Table, Facts]:
    """Find the rows of a run, recognise them, and refuse what does not fit its task; imports no PyTorch.

    Parameters
    ----------
    spec : RunSpec
        What to do.
    inputs : Inputs
        What was passed instead of names.

    Returns
    -------
    tuple of RunSpec, Table and Facts
        The spec, with the task that the rows are for where it names none; the rows, and what they say.

    Raises
    ------
    DataError, SpecError
        In one line, or one for each field.
    """
    found = inputs.table or table.read(spec, inputs.data, inputs.eval_data, inputs.namespace)
    spec = proposed(spec, found.layout)
    if wrong := problems(spec):
        raise SpecError(wrong)
    told = inspect(spec, found)
    if spec.regression is not None:
        _regression(spec, inputs)
    return spec, found, Facts(data=found.origin, fingerprint=found.fingerprint, layout=found.layout.name, task=told)


def read_again(context: Context) -> Table:
    """Find the rows that a run began with, as it began with them.

    Raises
    ------
    DataError
        When they are gone, or not what they were.
    """
    spec, before = context.spec, context.facts.fingerprint
    _, found, facts = read(spec, context.inputs)
    if before not in (None, facts.fingerprint):
        raise DataError(f"{spec.data} is not what the run began with; put it back, or start a new run")
    context.note(data=facts.data, fingerprint=facts.fingerprint, layout=facts.layout)
    context.facts.task.update(facts.task)
    if told := documents.changed(context):
        raise DataError(f"{told}; put it back, or start a new run")
    return documents.put(context, redacted(context, found)[0])


def redacted(context: Context, found: Table) -> tuple[Table, list[Change]]:
    """Replace personal data in the rows, or refuse to train on them, where the spec says so."""
    spec, progress = context.spec, context.progress
    wanted, allow = spec.personal_data, spec.allow
    rows, changes = redaction.redact_rows(found.rows, found.layout, wanted, allow, progress)
    eval_rows = found.eval_rows
    if eval_rows is not None:
        eval_rows, more = redaction.redact_rows(eval_rows, found.eval_layout, wanted, allow, progress)
        changes += [Change(change.row, f"evaluation row: {change.what}") for change in more]
    if changes:
        counts = Counter(change.what for change in changes)
        context.publish(Notice("personal data: " + ", ".join(f"{what} ({n:,})" for what, n in counts.items())))
    if wanted == "redact":  # or rows with and without personal data would be taken for the same
        how = f"redacted but for {allow}" if allow else "redacted"
        fingerprints = (f"{one}, {how}" for one in (found.fingerprint, found.eval_fingerprint))
        found = replace(found, **dict(zip(("fingerprint", "eval_fingerprint"), fingerprints, strict=True)))  # type: ignore[arg-type]
    return replace(found, rows=rows, eval_rows=eval_rows), [*context.inputs.changes, *changes]


def check(context: Context, found: Table, changes: Sequence[Change], tokenizer: Any) -> None:
    """Look for what spoils training, say it before the first step, and keep the report in the run's folder."""
    if resources.rank():
        return
    spec = context.spec
    report = checks.cached(
        context.folder.parent.parent / "checks",
        (found.fingerprint, found.eval_fingerprint),
        found.rendered(tokenizer, spec),
        found.eval_rows,
        found.eval_layout if found.eval_rows else None,
        options=Options.of(spec, REGISTRY[spec.method].rows, context.task.accepts),
        most=CHECKED_ROWS,
        progress=context.progress,
        looked=context.task.check,
        state=context.task.state(found.rows, found.layout),
    )
    # By the content before redaction, as what was fixed was remembered.
    changes = [*fixes.remembered(str(context.facts.fingerprint)), *changes]
    told = {"data": found.origin, **report, "changes": [asdict(change) for change in changes]}
    atomic_text(context.folder / DATA, json.dumps(told, ensure_ascii=False, indent=1))
    serious = [finding["title"] for finding in report["findings"] if finding["level"] != "info"]
    if serious:
        named = [name for name in (spec.data, spec.eval_data) if name]
        more = "peft_nb.check" if IN_MEMORY in named else f"%peft data {' --eval-data '.join(named)}"
        context.publish(Notice("; ".join(serious), "warning", f"{more} shows more"))


def told(folder: Path) -> dict[str, Any]:
    """What the check of the data told before the first step; empty where there is nothing."""
    try:
        found: dict[str, Any] = json.loads((folder / DATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def encode(context: Context, found: Table, base: Base) -> Sides:
    """Encode the rows of a run, and write beside it which examples are its own, so that it resumes without its data."""
    context.task.limit(base, context.spec, context.facts.task)
    context.task.supply(base, context.spec, context.facts.task, context.progress)
    rendered = found.rendered(base.tokenizer, context.spec)
    key, train = _encoded(context, context.task, rendered, found.fingerprint, "row")
    context.publish(Notice(f"{found.origin}: {train.report}"))
    _tell_cut(context, train.report)
    keys, numbers = [key], list[int]()
    if found.eval_rows is not None:
        rendered = found.rendered_eval(base.tokenizer, context.spec)
        key, held_out = _encoded(context, context.task, rendered, found.eval_fingerprint, "evaluation row")
        keys.append(key)
        _tell_cut(context, held_out.report, "evaluation ")
        sides = Sides(train.examples, held_out.examples)
    else:
        numbers = _set_aside(context, found, train.examples)
        sides = Sides(*train.examples.parted(numbers))
    later = [_again(context, found, base, order, sides.train) for order in range(len(found.again))]
    again = {key: one for key, one in later if one is not None}
    sides = Sides(sides.train, sides.held_out, tuple(again.values()))
    if resources.local_rank() == 0:
        own = {"keys": keys, "held_out": numbers, **({"again": [*again]} if again else {})}
        atomic_text(context.folder / EXAMPLES, json.dumps(own))
        asked = sorted(set(sides.held_out.rows.tolist()))
        prompts.save(context.folder, context.task.prompts(*(found.bare or found).held_out, asked, context.facts.task))
        if context.task.written(context.spec):
            rewards.keep(context.folder, found)
            if found.layout.kind == "preference":
                told = "of each pair the prompt alone is learned from"
                context.publish(Notice(f"{told}; a reward gets the chosen answer as reference"))
    return sides


def _again(context: Context, found: Table, base: Base, order: int, first: Examples) -> tuple[str, Examples | None]:
    """The training examples of a later epoch; none where other rows are too long than in the first."""
    spec = context.spec
    rows = RenderedRows(found.again[order], found.layout, base.tokenizer, loss_on=spec.loss_on, system=spec.system)
    key, made = _encoded(context, context.task, rows, f"{found.fingerprint}, order {order + 2}", "row")
    return key, made.examples if made.examples.rows.tolist() == first.rows.tolist() else None


def _tell_cut(context: Context, report: Report, of: str = "") -> None:
    """Warn of rows that are not used whole."""
    if report.long and report.too_long != "split":
        done = {"truncate": "truncated", "drop": "dropped"}[report.too_long]
        limit = f"{report.max_length:,} {report.limit_unit}"
        told = f"{len(report.long):,} of {report.rows:,} {of}rows are over {limit}: {done}"
        instead = "fewer distractors" if context.spec.documents else "too_long: split"
        fix = f"raise max_length, or {instead}" if report.limit_unit == "tokens" else "cut them into shorter ones"
        context.publish(Notice(told, "warning", fix))


def to_evaluate(
    context: Context, found: Table | None, sides: Sides, tokenizer: Any
) -> tuple[list[Asked], list[tuple[str, Example]]]:
    """Find the evaluation rows to be answered and the user's own regression rows, and keep them beside the run.

    Parameters
    ----------
    context : Context
        The run.
    found : Table or None
        Its rows; None when it resumes.
    sides : Sides
        Its examples.
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's.

    Returns
    -------
    tuple of list of Asked and list of (str, Example)
        Conversations up to their last answer with that answer; regression rows with their names.
    """
    from peft_nb.evaluation.evaluators import ANSWERED, FEW, Asked

    path, spec = context.folder / JUDGING, context.spec
    if found is None and path.exists():
        own = json.loads(path.read_text(encoding="utf-8"))
    else:
        own = {"asked": [], "regression": None}
        parts = context.task.evaluator().parts(spec)
        if {"answers", "lengths", "documents"} & set(parts):
            rows, layout = (found or read_again(context)).held_out
            numbers = sorted(set(sides.held_out.rows.tolist()))
            most = ANSWERED if {"answers", "documents"} & set(parts) else FEW
            own["asked"] = context.task.conversations(rows, layout, numbers, spec, most)
        if spec.regression is not None:
            source = _regression(spec, context.inputs)
            rendered = source.rendered(tokenizer, spec)
            task = context.task.ordinary
            own["regression"], _ = _encoded(context, task, rendered, source.fingerprint, "regression row")
        if resources.local_rank() == 0:
            atomic_text(path, json.dumps(own, ensure_ascii=False))
    named: list[tuple[str, Example]] = []
    if own["regression"] is not None and (encoded := examples.load(cache_of(context.folder) / own["regression"])):
        regression = encoded.examples
        places = prompts.spread(range(len(regression)), OWN)
        named = [(f"row {regression.rows[place]}", regression[place]) for place in places]
    return [Asked(**one) for one in own["asked"]], named


def compared_on(folder: Path) -> tuple[Sequence[Any], str]:
    """Examples to compare a trained model with another on, and their name: the held-out ones, else the learned ones.

    Only what was kept beside the run is looked at; the data may be gone.
    """
    sides = None
    with suppress(DataError, StoreError):
        sides = kept(folder)
    train, held_out = (sides.train, sides.held_out) if sides else ((), ())
    return (held_out, "evaluation rows") if len(held_out) else (train, "training rows")


def for_script(context: Context, base: Base) -> tuple[Side, Side]:
    """The training and evaluation examples of a run that began, each with its rows where they are still to be had."""
    sides, found = kept(context.folder), None
    with suppress(DataError):  # gone, or not what they were
        found = read_again(context)
    if sides is None:
        sides = encode(context, found or read_again(context), base)
    if found is None:
        return Side(sides.train), Side(sides.held_out)
    return Side(sides.train, found.rows, found.layout), Side(sides.held_out, *found.held_out)


def _regression(spec: RunSpec, inputs: Inputs) -> Table:
    """The user's own regression rows."""
    found = table.read(RunSpec(data=spec.regression), namespace=inputs.namespace)
    TASKS[spec.task].ordinary.validate(found.layout, spec)
    return found


def _encoded(
    context: Context, task: Task, rendered: RenderedRows, fingerprint: str, row_name: str
) -> tuple[str, Encoded]:
    return task.encode(
        rendered,
        context.spec,
        context.facts.task,
        cache=cache_of(context.folder),
        fingerprint=fingerprint,
        row_name=row_name,
        progress=context.progress,
    )


def _set_aside(context: Context, found: Table, encoded: Examples) -> list[int]:
    """Numbers of the rows to hold out, of those that became examples; by label where the task says so."""
    spec = context.spec
    if not spec.eval_fraction:
        return []
    numbers = sorted(set(encoded.rows.tolist()))
    texts = splits.Texts(found.rows, found.layout, numbers)
    labels = encoded.labels if context.task.stratify else None
    _, aside = splits.split(texts, spec.eval_fraction, spec.seed, labels, context.progress, context.task.groups)
    if not aside and len(numbers) > 1:
        context.publish(
            Notice("no evaluation set: all rows are near-duplicates of each other", "warning", "give eval_data")
        )
    return [numbers[place] for place in aside]
