"""What several processes that train together know of each other."""

from __future__ import annotations

from typing import TypeVar

import torch.distributed as dist

Item = TypeVar("Item")


def gathered(mine: Item) -> list[Item]:
    """Collect what each process has; all of them have to ask.

    Parameters
    ----------
    mine : object
        Of this process, in main memory.

    Returns
    -------
    list
        One a process, in the order of their ranks; the only one's where there is no other.
    """
    if not dist.is_initialized():
        return [mine]
    found = [mine] * dist.get_world_size()
    dist.all_gather_object(found, mine)
    return found
