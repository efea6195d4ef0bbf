"""How the world stops the engine: two flags that it reads, and what it raises when a step is given up."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event as Flag


class Abandoned(Exception):
    """The user asked twice: the step under way is given up at once."""


@dataclass(frozen=True)
class StopFlag:
    """What the world may tell the engine: stop after this step, or now."""

    soon: Flag = field(default_factory=Flag)
    now: Flag = field(default_factory=Flag)
