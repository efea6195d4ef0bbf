"""The ways to add trainable parameters to a frozen base: one registry, one file a family.

A method is added by one registered entry: :func:`.registry.register` it in the file of its family and import that file
here.
"""

from __future__ import annotations

# isort: off
# In the order in which they are listed; others fills in what none of them has registered.
from peft_nb.methods import lora, lowrank, orthogonal, scaling, tokens, bitfit, bottleneck, full, others  # noqa: F401

# isort: on
from peft_nb.methods.registry import (
    FIELDS,
    REGISTRY,
    Method,
    attach,
    complete,
    methods,
    options,
    problems,
    register,
    tasks_of,
)

__all__ = [
    "FIELDS",
    "REGISTRY",
    "Method",
    "attach",
    "complete",
    "methods",
    "options",
    "problems",
    "register",
    "tasks_of",
]
