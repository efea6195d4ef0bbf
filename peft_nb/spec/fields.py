"""What a field of a spec can be: how its value is read from an object or from text, and how it describes itself.

YAML and flags deliver text, Python delivers objects; the field alone decides what the text means.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from numbers import Integral, Real
from types import NoneType
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, Field
from pydantic.fields import FieldInfo as PydanticField
from pydantic_core import ErrorDetails

from peft_nb.errors import nearest
from peft_nb.spec.criteria import criterion
from peft_nb.spec.field_info import FieldInfo, Kind, show, suggest
from peft_nb.spec.names import NAMES, UNLISTED


def _text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str):
        raise ValueError(f"{show(value)} is not text; give a name, or text in quotes")
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{show(value)} holds a character that no file can keep; remove it")
    return str.__str__(value)


def _word(value: Any) -> str:
    if not (text := _text(value)).strip():
        raise ValueError(f"{show(text)} is empty; write a name or leave the field out")
    return text


def _adapter(value: Any) -> str:
    return _word(value.id if hasattr(value, "adapter_dir") else value)


def _index(value: Any) -> str:
    return _word(value.name if hasattr(value, "retriever") else value)


def _name(field: str, value: Any) -> str:
    name, known = _word(value), NAMES[field]
    if known and name not in known and name not in UNLISTED[field]:
        fix = nearest(name, [*known, *UNLISTED[field]]) or "; known are " + ", ".join(known)
        raise ValueError(f"no {field} is called {show(name)}{fix}")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise ValueError(f"{show(name)} is not the name of a {field}; use letters, digits, '-' and '_'")
    return name


def _real(value: Any) -> float:
    number = math.nan
    if isinstance(value, (str, Real)) and not isinstance(value, bool):
        with suppress(OverflowError, ValueError):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{show(value)} is not a finite number; write digits, such as 3 or 2e-4")
    return number + 0.0  # turns -0.0, which is written differently, into 0.0


def _whole(value: Any) -> int:
    number = _real(value)
    if not number.is_integer():
        raise ValueError(f"{show(value)} is not a whole number; the nearest is {round(number)}")
    return int(number)


def _switch(value: Any) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    switch = words.get(value.lower()) if isinstance(value, str) else value
    if not isinstance(switch, bool):
        raise ValueError(f"{show(value)} is neither true nor false")
    return switch


def _mapping(value: Any, key: str, content: str) -> dict[Any, Any]:
    if isinstance(value, str):
        pairs = [[side.strip() for side in pair.split("=", 1)] for pair in value.split(",")]
        if all(len(pair) == 2 for pair in pairs) and len({name for name, _ in pairs}) == len(pairs):
            value = dict(pairs)
    if not isinstance(value, dict):
        raise ValueError(f"{show(value)} is no mapping; write {key}: {content}, or {key}={content},{key}={content}")
    return value


def _columns(value: Any) -> dict[str, str]:
    return {_word(role): _word(column) for role, column in _mapping(value, "role", "column").items()}


def _options(value: Any) -> dict[str, Any]:
    return {_word(name): _plain(one) for name, one in _mapping(value, "name", "value").items()}


def _criteria(value: Any) -> dict[str, str]:
    given = _mapping(value, "metric", '"< 1.2"')
    return {_word(metric): str(criterion(metric, _word(wanted))) for metric, wanted in given.items()}


def _use(value: Any) -> dict[str, str]:
    """Read what a model is to be used for; every key is one of `USES`."""
    given = {_word(name): _text(one).strip() for name, one in _mapping(value, "purpose", "TEXT").items()}
    for name in given:
        if name not in USES:
            raise ValueError(f"{show(name)} says nothing of a use{nearest(name, USES)}; known are {', '.join(USES)}")
    if (risk := given.get("risk", RISKS[0])) not in RISKS:
        raise ValueError(f"risk: {show(risk)} is not one of {', '.join(RISKS)}{nearest(risk, RISKS)}")
    return given


def _plain(value: Any) -> Any:
    """Read what JSON could hold; text that reads as a number, true, false or null is one."""
    if isinstance(value, dict):
        return {_word(name): _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, str):
        text = _text(value)
        words = {"true": True, "false": False, "null": None, "": None}
        if text.lower() in words:
            return words[text.lower()]
        if re.fullmatch(r"[+-]?\d{1,18}", text, re.ASCII):
            return int(text)
        if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
            return _real(text)
        return text
    if value is None or isinstance(value, bool):
        return value
    number = _real(value)
    return int(number) if isinstance(value, Integral) else number


def _modules(value: Any) -> str | list[str]:
    # PEFT takes text as a regular expression over full names, which a layer's plain name would never match.
    if isinstance(value, str) and re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)*", value):
        value = re.split(r"\s*,\s*", value)
    if not isinstance(value, (list, tuple)):
        return _word(value)
    if not value:
        raise ValueError("the list is empty; name at least one layer, or write all-linear")
    return [_word(name) for name in value]


def _words(value: Any) -> list[str]:
    if isinstance(value, str):
        value = [word.strip() for word in value.split(",") if word.strip()]
    if not isinstance(value, (list, tuple, set)):
        raise ValueError(f"{show(value)} is no list; write [FIRST, SECOND], or FIRST,SECOND")
    return [_word(one) for one in value]


def _numbers(value: Any) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [_real(one) for one in value]
    return [_real(one) for one in _words(str(value))]


def _trackers(value: Any) -> list[str]:
    named = [] if value is None or value in ("none", "None") else _words(value)
    for name in named:
        if name not in TRACKERS:
            fix = nearest(name, TRACKERS) or f"; known are {', '.join(TRACKERS)}"
            raise ValueError(f"nothing is reported to {show(name)}{fix}")
    return sorted(set(named), key=TRACKERS.index)


USES = ("purpose", "risk", "affected", "human_oversight")
RISKS = ("minimal", "limited", "high")
MANY = 12  # choices, too many for a line
TRACKERS = ("trackio", "wandb", "mlflow", "tensorboard", "codecarbon")
Text = Annotated[str, BeforeValidator(_text)]
Word = Annotated[str, BeforeValidator(_word)]
Adapter = Annotated[str, BeforeValidator(_adapter)]
IndexName = Annotated[str, BeforeValidator(_index)]
TaskName = Annotated[str, BeforeValidator(partial(_name, "task"))]
MethodName = Annotated[str, BeforeValidator(partial(_name, "method"))]
FormatName = Annotated[str, BeforeValidator(partial(_name, "format"))]
Whole = Annotated[int, BeforeValidator(_whole)]
Number = Annotated[float, BeforeValidator(_real)]
Switch = Annotated[bool, BeforeValidator(_switch)]
Columns = Annotated[dict[str, str], BeforeValidator(_columns)]
Options = Annotated[dict[str, Any], BeforeValidator(_options)]
Use = Annotated[dict[str, str], BeforeValidator(_use)]
Criteria = Annotated[dict[str, str], BeforeValidator(_criteria)]
Trackers = Annotated[list[str], BeforeValidator(_trackers)]
Words = Annotated[list[str], BeforeValidator(_words)]
Numbers = Annotated[list[float], BeforeValidator(_numbers)]
Modules = Annotated[str | list[str], BeforeValidator(_modules)]

_KINDS: dict[Any, Kind]
_KINDS = {str: "text", int: "integer", float: "number", bool: "switch", dict: "mapping", Literal: "choice"}


def field(default: Any, section: str, unit: str = "", aliases: tuple[str, ...] = (), **bounds: Any) -> Any:
    """Declare a field of a spec: its default, where it stands in forms and help, its unit, other names, bounds."""
    extra: Any = {"section": section, "unit": unit, "aliases": aliases}
    return Field(default, json_schema_extra=extra, **bounds)


def info(name: str, field: PydanticField) -> FieldInfo:
    """Gather what a field made by :func:`field` says about itself."""
    annotation: Any = field.annotation
    if NoneType in get_args(annotation):
        annotation = next(part for part in get_args(annotation) if part is not NoneType)
    kind = "choice" if name in NAMES else _KINDS.get(getattr(annotation, "__origin__", annotation), "list")
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = {sign: getattr(rule, sign) for rule in field.metadata for sign in words if hasattr(rule, sign)}
    extra: Any = field.json_schema_extra
    return FieldInfo(
        name=name,
        type=kind,
        help=" ".join((field.description or "").split()),
        section=extra["section"],
        unit=extra["unit"],
        default=None if field.is_required() else field.default,
        required=field.is_required(),
        minimum=bounds.get("ge", bounds.get("gt")),
        maximum=bounds.get("le", bounds.get("lt")),
        bounds=", ".join(f"{words[sign]} {bound:,.10g}" for sign, bound in bounds.items()),
        choices=tuple(NAMES[name]) if name in NAMES else get_args(annotation) if kind == "choice" else (),
        aliases=extra["aliases"],
    )


def explain(error: ErrorDetails, model: type[BaseModel], aliases: Iterable[str] = ()) -> str:
    """Say in one line what is wrong with a field of a model whose fields :func:`field` made.

    Parameters
    ----------
    error : dict
        One of pydantic's errors.
    model : type
        The model that refused.
    aliases : iterable of str
        Other names its fields go by.

    Returns
    -------
    str
        The field, its value and how to fix it.
    """
    given, context = error["input"], error.get("ctx", {})
    # A number that may be left open reaches its bounds as it was written.
    name, value = str(error["loc"][0]), given if isinstance(given, str) and "_than" in error["type"] else show(given)
    if error["type"] == "extra_forbidden":
        known = [*model.model_fields, *aliases]
        return f"{name if name.isprintable() else repr(name)}: no such field{suggest(name, known)}"
    field = info(name, model.model_fields[name])
    words = {
        "missing": f"missing; give {field.help[0].lower()}{field.help[1:]}",
        "literal_error": f"{value} is not one of {', '.join(_some(field.choices))}{nearest(value, field.choices)}",
        "greater_than_equal": f"{value} is below the smallest allowed value {field.minimum}",
        "greater_than": f"{value} is too low; it must be above {field.minimum}",
        "less_than_equal": f"{value} is above the largest allowed value {field.maximum}",
        "less_than": f"{value} is too high; it must be below {field.maximum}",
    }
    return f"{name}: {words.get(error['type']) or context.get('error', error['msg'])}"


def _some(choices: tuple[str, ...]) -> tuple[str, ...]:
    """As many choices as a line holds."""
    return choices if len(choices) < MANY else (*choices[: MANY // 2], "…")
