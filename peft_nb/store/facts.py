"""What it takes to open a run again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True)
class Facts:
    """What it takes to open a run again, beside its spec; None where it is not known yet.

    Attributes
    ----------
    base, base_hash : str or None
        The base, by a name that finds it again, and the fingerprint of its weights.
    data, fingerprint : str or None
        Where the rows came from, and the SHA-256 of their content.
    layout : str or None
        How they were read.
    dtype, device : str or None
        What was computed in, and where.
    task : dict
        What the task found out about the rows and its head, such as the classes.
    """

    base: str | None = None
    base_hash: str | None = None
    data: str | None = None
    fingerprint: str | None = None
    layout: str | None = None
    dtype: str | None = None
    device: str | None = None
    task: dict[str, Any] = field(default_factory=dict)

    @property
    def chat(self) -> bool:
        """Whether the rows are conversations rather than plain texts."""
        return self.layout != "text"

    def to_json(self) -> str:
        """Write them as JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Facts:
        """Read them back; what another version kept beside them is passed over."""
        known = {one.name for one in fields(cls)}
        return cls(**{name: value for name, value in json.loads(text).items() if name in known})
