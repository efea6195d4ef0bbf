"""How the world stops the engine: two flags that it reads, and what it raises when it cannot go on."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Event as Flag

from peft_nb.errors import RunError
from peft_nb.system.resources import processes


class Abandoned(Exception):
    """The user asked twice: the step under way is aborted."""


class NotFinite(RunError):
    """The loss or a gradient is no number any more; the message says at which step and on which rows."""


@dataclass(frozen=True)
class StopFlag:
    """What the world may tell the engine: stop after this step, or now."""

    soon: Flag = field(default_factory=Flag)
    now: Flag = field(default_factory=Flag)


def agreed(mine: bool) -> bool:
    """What process 0 thinks, so that of several processes none goes on alone; all of them have to ask.

    Parameters
    ----------
    mine : bool
        What this process thinks.

    Returns
    -------
    bool
        The same in every process.
    """
    if processes() == 1:
        return mine
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast

    return bool(broadcast(torch.tensor([int(mine)], device=PartialState().device)).item())
