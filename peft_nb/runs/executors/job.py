"""A run on its way to another process: what the pipeline needs there, as JSON holds it, and its rows by content."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from peft_nb.data import RowProblem, detection, sources, table
from peft_nb.data.kept import kept
from peft_nb.data.layouts import Layout
from peft_nb.data.quality import fixes
from peft_nb.data.quality.fixes import Change
from peft_nb.data.table import Table
from peft_nb.errors import DataError
from peft_nb.runs import rows
from peft_nb.runs.context import Context, Inputs
from peft_nb.spec import RunSpec
from peft_nb.store.facts import plain

MEDIA = "image", "audio"  # what columns are that may hold something in memory


@dataclass(frozen=True)
class Job:
    """A run to be executed by another process.

    Attributes
    ----------
    id : str
        The run.
    spec, facts : str
        As YAML and as JSON.
    metrics : dict
        What was measured so far.
    history : list of dict
        Rows logged before.
    resumed : bool
        Whether it goes on from its last checkpoint.
    """

    id: str
    spec: str
    facts: str
    metrics: dict[str, Any]
    history: list[dict[str, Any]]
    resumed: bool

    @classmethod
    def of(cls, context: Context, *, resumed: bool) -> Job:
        """Describe a run at work."""
        spec, facts = context.spec.to_yaml(), context.facts.to_json()
        return cls(context.folder.name, spec, facts, plain(context.metrics), context.history, resumed)

    def to_json(self) -> dict[str, Any]:
        """All fields by name."""
        return asdict(self)


def pack(context: Context, found: Table | None) -> str:
    """Write down the rows of a run, so that another process reads the same; of one that resumes, what it may need.

    Where the spec wants personal data replaced or refused, that happens here, before anything is sent.

    Raises
    ------
    DataError
        When rows that are needed again cannot be read, or hold personal data that is refused.
    """
    spec, told = context.spec, dict[str, Any]()
    if again := found is None and kept(context.folder) is None:
        _, found, _ = rows.read(spec, context.inputs)
    if found is not None:
        clean, changes = rows.redacted(context, found)
        if again and changes:  # which would no longer be known as those it began with
            raise DataError("the encoded rows of the run are gone, and its rows hold personal data; resume it here")
        held_out = None if clean.eval_rows is None else _sent(clean.eval_rows, clean.eval_layout)
        told |= {"train": _sent(clean.rows, clean.layout), "eval": held_out}
        told["changes"] = [asdict(one) for one in (*fixes.remembered(found.fingerprint), *changes)]
        told |= {name: getattr(found, name) for name in ("origin", "fingerprint", "eval_fingerprint")}
        if spec.regression is not None:
            regression = sources.read(spec.regression, context.inputs.namespace).train
            told["regression"] = _sent(regression, detection.detect(regression))
    return json.dumps(told, ensure_ascii=False)


def _sent(found: Sequence[Mapping[str, Any]], layout: Layout) -> list[Mapping[str, Any]]:
    """Rows as JSON holds them: an image or a clip in memory by its content, nothing for one that cannot be read."""
    column = next((layout.columns[role] for role in MEDIA if role in layout.columns), None)
    if column is None:
        return list(found)

    def cell(row: Mapping[str, Any]) -> Any:
        medium: Any = layout.text(row)
        return medium.cell

    sent = list[Mapping[str, Any]]()
    for row in found:
        try:
            sent.append({**row, column: cell(row)})
        except RowProblem:
            sent.append({**row, column: None})
    return sent


def unpack(packed: str, spec: RunSpec) -> tuple[Inputs, Table | None]:
    """Read what :func:`pack` wrote: what stands for the names in the spec, and the rows that the run began with."""
    told: Mapping[str, Any] = json.loads(packed)
    if not told:
        return Inputs(), None
    known: dict[str, Any] = {"changes": [Change(**one) for one in told["changes"]]}
    known["namespace"] = {spec.regression: told["regression"]} if spec.regression is not None else {}
    data: dict[str, Any] = {"train": told["train"]}
    if spec.eval_data is not None:
        inputs = Inputs(data, told["eval"], **known)
    else:
        inputs = Inputs(data | ({} if told["eval"] is None else {"validation": told["eval"]}), **known)
    found = table.read(spec, inputs.data, inputs.eval_data)
    return inputs, replace(found, **{name: told[name] for name in ("origin", "fingerprint", "eval_fingerprint")})
