"""Every other method of PEFT, by its own name and with its own options alone."""

from __future__ import annotations

import ast
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from peft_nb.methods.registry import REGISTRY, Method, register

if TYPE_CHECKING:
    from peft import PeftConfig

# PEFT's names of methods that are registered under another one, and those that no run could train: xlora mixes adapters
# that are there already; poly and multitask-prompt-tuning want to be told with every text to which task it belongs.
KNOWN = {"prompt-tuning", "prefix-tuning", "xlora", "poly", "multitask-prompt-tuning"}


def names() -> list[str]:
    """Read the names of PEFT's methods out of its source, which takes no import of seconds.

    Returns
    -------
    list of str
        In lower case, with hyphens.
    """
    found = find_spec("peft")
    if not found or not found.origin:
        return []
    tree = ast.parse((Path(found.origin).parent / "utils" / "peft_types.py").read_text(encoding="utf-8"))
    kinds = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PeftType")
    members = [node.targets[0] for node in kinds.body if isinstance(node, ast.Assign)]
    return [member.id.lower().replace("_", "-") for member in members if isinstance(member, ast.Name)]


def config_class(name: str) -> type[PeftConfig]:
    """Import the config class of one of PEFT's methods."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

    found: type[PeftConfig] = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name.upper().replace("-", "_")]]
    return found


for name in names():
    if name not in REGISTRY and name not in KNOWN:
        entry = Method(
            name=name,
            help=f"PEFT's {name}, as its own documentation describes it; configured by method_options.",
            when="you know the method already",
            source="PEFT",
            config_class=partial(config_class, name),
            defaults={"learning_rate": 1e-3},
            required=("num_virtual_tokens",) if name == "cartridge" else (),
        )
        register(entry, listed=False)
