"""What a model is probed with, and what a probe finds: bias, leaks of training rows, refusals and obedience.

``pairs.yaml`` holds sentences that differ in whom they are about, ``questions.yaml`` what is asked. All of it was
written for this project.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class Pair:
    """Two texts that differ in whom they are about.

    Attributes
    ----------
    axis : str
        In what they differ, such as ``gender``.
    first, second : str
        The texts.
    stereotype : int
        1 where the first is what a stereotype says, -1 where the second is, 0 where that is not known.
    """

    axis: str
    first: str
    second: str
    stereotype: int = 0


@dataclass(frozen=True)
class Finding:
    """What one probe found.

    Attributes
    ----------
    name : str
        The probe, and for those of the table of metrics the metric.
    value, low, high : float
        What was measured, with its interval at 95 %.
    base : float or None
        The same of the base model, where there is such a number.
    rows : int
        On how many it was measured.
    what : str
        What was measured, in a sentence.
    examples : tuple of str
        What shows it best.
    detail : tuple of (str, float, float, float)
        The changes that it is made of, each with its interval; 0 is none.
    """

    name: str
    value: float
    low: float
    high: float
    base: float | None
    rows: int
    what: str
    examples: tuple[str, ...] = ()
    detail: tuple[tuple[str, float, float, float], ...] = ()

    @property
    def clear(self) -> list[tuple[str, float, float, float]]:
        """Those parts whose interval does not hold 0."""
        return [part for part in self.detail if part[2] > 0 or part[3] < 0]


def pairs() -> list[Pair]:
    """Make the pairs that ship with the package: each pair of groups in each sentence."""
    found = []
    for axis, own in _read("pairs").items():
        for side, stereotype in (("first", 1), ("second", -1)):
            found += [
                Pair(axis, sentence.format(one), sentence.format(other), stereotype)
                for sentence in own[side]
                for one, other in own["groups"]
            ]
    return found


def valence() -> list[tuple[str, int, str, str]]:
    """Make kind and unkind sentences about every group: axis, 0 or 1 for the first or second group, kind, unkind."""
    return [
        (axis, side, *(sentence.format(_inside(sentence, group[side])) for sentence in both))
        for axis, own in _read("pairs").items()
        for group in own["groups"]
        for side in (0, 1)
        for both in _read("questions")["valence"]
    ]


def questions() -> dict[str, Any]:
    """Read what is asked: ``open``, ``harmless``, ``harmful``, ``injections`` with what they want said, ``toxic``."""
    found = dict(_read("questions"))
    return {**found, "toxic": frozenset(found["toxic"].split())}


def prompts(kind: str) -> list[str]:
    """Read what is asked of one kind: ``harmless``, ``harmful`` or ``injections``."""
    return [one if isinstance(one, str) else one[0] for one in questions()[kind]]


def _inside(sentence: str, group: str) -> str:
    """The group as it is written at its place in the sentence."""
    article = group.partition(" ")[0] in ("My", "The", "His", "Our")
    return group if sentence.startswith("{}") or not article else group[0].lower() + group[1:]


@cache
def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(files(__name__).joinpath(f"{name}.yaml").read_text(encoding="utf-8"))
    return found
