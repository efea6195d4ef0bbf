"""What a field of a spec says of itself, and what is said of its name and its value; needs no pydantic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, Literal

from peft_nb.errors import nearest

# Names used elsewhere that are spelled like the wrong field or like none; only ever suggested.
_SYNONYMS = {"dataset": "data", "lora_r": "r", "lora_rank": "r", "lr": "learning_rate", "rank": "r"}

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 60


def show(value: Any) -> str:
    """Write a value for a message, shortened."""
    text = " ".join(_SHORT.repr(value).split())
    return text if len(text) <= 80 else text[:77] + "..."


Kind = Literal["text", "integer", "number", "switch", "choice", "mapping", "list"]


@dataclass(frozen=True)
class FieldInfo:
    """All there is to know about one field; a ``list`` may also be text, and a bound of None is none.

    The choices of a field whose values are registered, see :mod:`.names`, are those listed when it was described.
    """

    name: str
    type: Kind
    help: str
    section: str
    unit: str = ""
    default: Any = None
    required: bool = False
    minimum: float | None = None
    maximum: float | None = None
    bounds: str = ""
    choices: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()

    @property
    def flag(self) -> str:
        """The flag that sets the field, such as ``--learning-rate``."""
        return "--" + self.name.replace("_", "-")


def aliases(fields: Iterable[FieldInfo]) -> dict[str, str]:
    """Map other accepted names of fields to the field each one stands for."""
    return {alias: field.name for field in fields for alias in field.aliases}


def suggest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name that a misspelt or foreign one stands for, as ``errors.nearest`` does."""
    return nearest(_SYNONYMS.get(name, name), known)
