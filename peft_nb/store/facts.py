"""What a run needs to be opened again, kept apart from what was measured of it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What a run found out about its base and its rows; None where it does not know yet.

    Attributes
    ----------
    base, base_hash : str or None
        Name, origin and configuration of the base, and the hash of its weights.
    data, fingerprint : str or None
        Where the training rows came from, in words, and the hash of their content.
    layout : str or None
        The layout that was recognised in the rows, such as ``question_answer``.
    dtype, device : str or None
        What the run trains in, and where.
    init_adapter : str or None
        The adapter that training started from, in words, with the hash of its weights.
    documents : dict or None
        ``index``, the name of the index whose chunks are put before questions, and the ``fingerprint`` that it had.
    place : str or None
        The cluster at work on the run, which goes on if the process that began it ends; None for any other run.
    task : dict
        What the task found out about the rows and the head, such as a classifier's ``classes``, ``multi_label``,
        ``max_tokens`` and ``pooling``; anything that JSON holds.
    """

    base: str | None = None
    base_hash: str | None = None
    data: str | None = None
    fingerprint: str | None = None
    layout: str | None = None
    dtype: str | None = None
    device: str | None = None
    init_adapter: str | None = None
    documents: dict[str, str] | None = None
    place: str | None = None
    task: dict[str, Any] = field(default_factory=dict)

    @property
    def chat(self) -> bool:
        """Whether the rows are conversations rather than plain texts."""
        return self.layout != "text"

    def to_json(self) -> str:
        """Write down what is known."""
        return json.dumps({name: plain(value) for name, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Read it back; what is missing is not known, and what only another version knows is left out."""
        told = json.loads(text)
        return cls(**{one.name: told[one.name] for one in fields(cls) if told.get(one.name) is not None})


def plain(value: Any) -> Any:
    """Reduce a value, such as a scalar or array of numpy or torch, to what JSON holds; NaN and infinity become None."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
