"""Routers of mixtures of experts: what chooses experts gets no adapter unless it is named."""

from __future__ import annotations

import re
from typing import Any

NAMES = {"router", "gate", "router_gate", "shared_expert_gate"}
CLASSES = re.compile(r".*Router.*|.*(Gate|Gating)")


def routers(model: Any) -> set[str]:
    """Find the modules that are routers or lie in one.

    Parameters
    ----------
    model : torch.nn.Module
        Any model.

    Returns
    -------
    set of str
        Their full names; empty for a model without experts.
    """
    found: set[str] = set()
    for name, module in model.named_modules():  # parents come before what lies in them
        parent, _, own = name.rpartition(".")
        if parent in found or own in NAMES or CLASSES.fullmatch(type(module).__name__):
            found.add(name)
    return found
