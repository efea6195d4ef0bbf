"""Everything a user can get wrong, as one tree.

    PeftNbError
    ├── SpecError          a field of a spec is missing, misspelt or out of bounds
    ├── DataError          the data cannot be found, read, recognised or trained on
    ├── ModelError         the base cannot be found, loaded or used
    ├── MethodError        the method cannot serve this model or these settings
    │   └── ForecastError  what a run will take cannot be told; the run itself may be fine
    ├── RunError           a run cannot do what was asked of it now
    ├── MergeError         a merged model would not do what the adapter does
    ├── StoreError         the store's folder or index cannot be read or written
    └── CommandError       a magic or command line was mistyped

Each message is one line: what is wrong, where, and how to fix it.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher, get_close_matches


class PeftNbError(Exception):
    """A mistake that the user can fix; shown in a notebook as one line, never as a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class SpecError(PeftNbError):
    """One or more fields of a spec are wrong; the message lists all of them.

    Parameters
    ----------
    problems : iterable of str
        One line per wrong field.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {problem}" for problem in self.problems]


class DataError(PeftNbError):
    """The data cannot be found, read, recognised or trained on."""


class ModelError(PeftNbError):
    """The base model cannot be found, loaded or used."""


class MethodError(PeftNbError):
    """The method cannot serve this model or these settings."""


class ForecastError(MethodError):
    """What a run will take cannot be told beforehand; the run itself may be fine."""


class RunError(PeftNbError):
    """A run cannot do what was asked of it now."""


class MergeError(PeftNbError):
    """A merged model would not do what the adapter does.

    Parameters
    ----------
    message : str
        One line.
    table : str
        What was measured, shown below it.
    """

    def __init__(self, message: str, table: str = "") -> None:
        self.table = table
        super().__init__(message)

    def _render_traceback_(self) -> list[str]:
        return [*super()._render_traceback_(), *self.table.splitlines()]


class StoreError(PeftNbError):
    """The store's folder or index cannot be read or written."""


class CommandError(PeftNbError):
    """A magic or command line was mistyped."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Suggest the known word closest to a misspelt one.

    Parameters
    ----------
    word : str
        What the user wrote.
    known : iterable of str
        What would have been right.

    Returns
    -------
    str
        ``"; did you mean 'x'?"``, or an empty string when nothing is close.
    """
    original = {name.lower(): name for name in known}
    found = get_close_matches(word.lower(), original, cutoff=0.5)
    # Of words that are as close, one of the same letters is the likelier slip.
    best = max(found, key=lambda one: (_ratio(word, one), sorted(one) == sorted(word.lower())), default=None)
    return f"; did you mean {original[best]!r}?" if best else ""


def _ratio(word: str, other: str) -> float:
    return SequenceMatcher(None, other, word.lower()).ratio()
