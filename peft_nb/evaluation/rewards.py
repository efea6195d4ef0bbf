"""What answers are rewarded by: functions of the notebook and built-in ones, for one answer or many, sync or async."""

from __future__ import annotations

import asyncio
import inspect
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from numbers import Real
from typing import Any

from peft_nb.errors import SpecError, nearest
from peft_nb.models.quiet import first_line

IMPORTED = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")

Columns = Mapping[str, Any]
Maker = Callable[[str], Callable[..., Any]]


class BadReward(Exception):
    """A reward function gave what is no reward."""


def _exact_match(argument: str) -> Callable[..., float]:
    def exact_match(completion: str, reference: str) -> float:
        from peft_nb.evaluation import scores

        return scores.exact_match(completion, reference)

    return exact_match


def _json_valid(argument: str) -> Callable[..., float]:
    def json_valid(completion: str) -> float:
        try:
            json.loads(completion)
        except ValueError:
            return 0.0
        return 1.0

    return json_valid


def _length(argument: str) -> Callable[..., float]:
    if not argument.isdecimal() or not int(argument):
        raise ValueError("give the wanted number of words, such as length:12")
    wanted = int(argument)

    def length(completion: str) -> float:
        words = len(completion.split())
        return min(words, wanted) / max(words, wanted)

    return length


def _regex(argument: str) -> Callable[..., float]:
    if not argument:
        raise ValueError(r"give a pattern, such as regex:^\d+$")
    try:
        pattern = re.compile(argument)
    except re.error as error:
        raise ValueError(f"the pattern {argument!r} cannot be read ({error})") from None
    return lambda completion: float(bool(pattern.search(completion)))


MAKERS: dict[str, Maker] = {
    "exact_match": _exact_match,
    "json_valid": _json_valid,
    "length": _length,
    "regex": _regex,
}
BUILT_IN = ("exact_match", "json_valid", "length:12", "regex:")
"""As they are written."""


@dataclass(frozen=True)
class Reward:
    """One function that rewards answers.

    Attributes
    ----------
    name : str
        What messages call it.
    function : callable
        ``(prompt, completion, **columns) -> float | None`` of one answer, or ``(prompts, completions, **columns)`` of
        many, which gives a list; it may be async. It is given those of these and of the columns that it takes.
    weight : float
        What its rewards are multiplied by.
    """

    name: str
    function: Callable[..., Any]
    weight: float = 1.0

    @property
    def takes(self) -> tuple[set[str], bool]:
        """The names that it takes, and whether it takes all others too."""
        kinds = inspect.signature(self.function).parameters.values()
        named = {one.name for one in kinds if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}
        return named, any(one.kind is one.VAR_KEYWORD for one in kinds)

    @property
    def batched(self) -> bool:
        """Whether it takes many answers at once."""
        return bool(self.takes[0] & {"prompts", "completions"})

    async def of(self, prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Columns]) -> list[Any]:
        """Reward answers: of each a number, None where it says nothing, or the exception that it raised."""
        names, every = self.takes
        if not self.batched:
            rows = zip(prompts, completions, columns, strict=True)
            each = [{**row, "prompt": prompt, "completion": said} for prompt, said, row in rows]
            given = [row if every else {name: row[name] for name in row if name in names} for row in each]
            return await asyncio.gather(*(self._one(row) for row in given))
        known = dict.fromkeys(name for row in columns for name in row)
        table: dict[str, Any] = {name: [row.get(name) for row in columns] for name in known if every or name in names}
        whole = {"prompts": list(prompts), "completions": list(completions)}
        table |= {name: value for name, value in whole.items() if every or name in names}
        try:
            found = await _awaited(self.function(**table))
            if not isinstance(found, Sequence) and not hasattr(found, "tolist"):
                raise BadReward(f"gave a {type(found).__name__} where it is asked for a list")
            several = found.tolist() if hasattr(found, "tolist") else list(found)
            if len(several) != len(completions):
                raise BadReward(f"gave {len(several)} rewards for {len(completions)} answers")
        except Exception as error:  # whatever it is, training goes on
            return [error] * len(completions)
        return list(map(_number, several))

    async def _one(self, row: dict[str, Any]) -> Any:
        try:
            return _number(await _awaited(self.function(**row)))
        except Exception as error:  # likewise
            return error


async def _awaited(found: Any) -> Any:
    return await found if inspect.isawaitable(found) else found


def _number(value: Any) -> Any:
    """A reward as a float, None, or what is wrong with it as an exception."""
    if value is None or isinstance(value, Real):
        if value is None or math.isfinite(value):
            return value if value is None else float(value)
        return BadReward(f"gave {value}, which is not finite")
    if hasattr(value, "item") and getattr(value, "size", None) in (1, ()):  # a number of numpy or torch
        return _number(value.item())
    return BadReward(f"gave a {type(value).__name__} where it is asked for a number or None")


@dataclass
class Judged:
    """What some answers were rewarded with.

    Attributes
    ----------
    values : list of float
        Of each answer the weighted sum of its rewards; NaN where none says anything, or one failed.
    failed : int
        Answers of which a reward failed.
    why : str
        The first failure.
    """

    values: list[float]
    failed: int = 0
    why: str = ""


@dataclass
class Rewards:
    """What a run rewards answers by: one function or several.

    Attributes
    ----------
    functions : list of Reward
        At least one.
    failed : int
        Answers so far of which a reward failed.
    why : str
        The first failure.
    """

    functions: list[Reward]
    failed: int = field(default=0, init=False)
    why: str = field(default="", init=False)

    def __call__(self, prompts: Sequence[str], completions: Sequence[str], columns: Sequence[Columns]) -> Judged:
        """Reward answers, all functions at once.

        Parameters
        ----------
        prompts, completions : sequence of str
            What was asked last, and the answer.
        columns : sequence of mapping
            The row of each.

        Returns
        -------
        Judged
            Also counted here where one failed.
        """

        async def gathered() -> list[list[Any]]:
            return await asyncio.gather(*(one.of(prompts, completions, columns) for one in self.functions))

        judged = Judged([])
        for several in zip(*asyncio.run(gathered()), strict=True):
            both = list(zip(self.functions, several, strict=True))
            errors = [f"{one.name} {_told(value)}" for one, value in both if isinstance(value, Exception)]
            known = [one.weight * value for one, value in both if isinstance(value, float)]
            judged.failed += bool(errors)
            judged.why = judged.why or next(iter(errors), "")
            judged.values.append(math.nan if errors or not known else sum(known))
        self.failed += judged.failed
        self.why = self.why or judged.why
        return judged


def _told(error: Exception) -> str:
    line = next(iter(str(error).strip().splitlines()), "")
    return line if isinstance(error, BadReward) else f"fails with {type(error).__name__}: {line}"


def find(
    names: Sequence[str], given: object, namespace: Mapping[str, Any], weights: Sequence[float] | None = None
) -> Rewards:
    """Find what a spec wants answers to be rewarded by.

    Parameters
    ----------
    names : sequence of str
        Functions of the notebook or of a module (``module:function``), or built-in ones, with an argument behind a
        colon where they take one.
    given : object
        A function passed instead of a name, or a list of functions and names; or None.
    namespace : mapping
        The notebook's variables.
    weights : sequence of float, optional
        One for each; all 1 by default.

    Returns
    -------
    Rewards
        In the same order.

    Raises
    ------
    SpecError
        In one line, if there is no such function or it takes nothing that it is given.
    """
    several = list(given) if isinstance(given, list | tuple) else [given] if given is not None else list(names)
    return Rewards(
        [_found(one, namespace, weight) for one, weight in zip(several, weights or [1.0] * len(several), strict=True)]
    )


def _found(wanted: Any, namespace: Mapping[str, Any], weight: float) -> Reward:
    name, function = str(wanted), wanted
    if isinstance(wanted, str):
        function = namespace.get(wanted)
        word, _, argument = wanted.partition(":")
        if function is None and word in MAKERS:
            try:
                return Reward(name, MAKERS[word](argument), weight)
            except ValueError as error:
                raise SpecError([f"reward: {word}: {error}"]) from None
        if function is None and IMPORTED.fullmatch(wanted):
            try:
                function = getattr(import_module(word), argument)
            except Exception as error:  # of whatever the module does
                raise SpecError([f"reward: {wanted} cannot be imported ({first_line(error)})"]) from None
    else:
        name = getattr(wanted, "__name__", type(wanted).__name__)
    if not callable(function):
        what = f"there is no function {name!r}" if function is None else f"{name} is a {type(function).__name__}"
        functions = [one for one, value in namespace.items() if callable(value) and not one.startswith("_")]
        fix = nearest(name, [*MAKERS, *functions])
        own = "a function of prompt and completion" if namespace else "module:function, since there is no notebook here"
        fix = fix or f"; give {', '.join(MAKERS)}, or {own}"
        raise SpecError([f"reward: {what}{fix}"])
    found = Reward(name, function, weight)
    try:
        taken, every = found.takes
    except (TypeError, ValueError):
        raise SpecError([f"reward: {name} does not say what it takes; wrap it in a function of completion"]) from None
    if not every and not taken & {"completion", "completions"}:
        raise SpecError([f"reward: {name} takes no completion; write reward(prompt, completion)"])
    return found
