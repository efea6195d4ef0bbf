"""Hypothesis strategies built from the fields themselves, so that a new field is covered at once."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from peft_nb.metrics import demandable
from peft_nb.spec import RunSpec
from peft_nb.spec.field_info import FieldInfo
from peft_nb.spec.fields import RISKS, TRACKERS, USES

AWKWARD = [
    *[
        "null",
        "~",
        "2e-4",
        "0x10",
        "on",
        "2024-13-45",
        "1:30",
        "-x",
        "--r",
        "--r=8",
        ":",
        "-",
        "{x}",
        "$x",
        "${HOME}",
        "'",
        '"',
        "a'b\"c",
        "\\",
        "C:\\new",
        "%%peft",
    ],
    *[
        "&a",
        "*a",
        "|",
        ">",
        "?",
        "---",
        "...",
        "[a",
        "[a]",
        "{a",
        '"a',
        "'a'",
        "a,b",
        "a=b",
        "#a",
        "!a",
        "@a",
        "ünïcödé",
        "日本語",
        "🚀",
        "á",
        "\ufeff",
        "\x7f",
        "\u200b",
    ],
    *(
        "# no",
        "a #b",
        "a: b",
        "!!int 3",
        ">>> a\n... b",
        " a ",
        "\x85",
        "\u2028a\nb",
        "(in memory)",
        "org/set",
    ),
    *(
        "\n",
        "a\n",
        "a\n\n",
        "\n\na",
        "  a\nb",
        "a \nb",
        "a\r\nb",
        "\ta\n\tb",
        "a\n \nb",
        "tickets",
        "./data/x.csv",
    ),
]

characters = st.characters(exclude_categories=["Cs"], exclude_characters="\0")
texts = st.one_of(
    st.sampled_from(AWKWARD), st.text(characters), st.lists(st.sampled_from(AWKWARD), max_size=4).map("".join)
)
words = texts.filter(str.strip)

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=4,
)

_comparisons = st.builds(
    "{}{!r}".format, st.sampled_from(["<", "<=", "> ", " >= "]), st.floats(allow_nan=False, allow_infinity=False)
)

_special: dict[str, st.SearchStrategy[Any]] = {
    "accept": st.dictionaries(st.sampled_from(sorted(demandable())), _comparisons, max_size=3),
    "columns": st.dictionaries(words, words, max_size=3),
    "use": st.fixed_dictionaries(
        {}, optional={**dict.fromkeys(USES, words.map(str.strip)), "risk": st.sampled_from(RISKS)}
    ),
    "method_options": st.dictionaries(words, plain, max_size=3),
    "report_to": st.lists(st.sampled_from(TRACKERS), unique=True),
    "allow": st.lists(words, max_size=3),
    "benchmarks": st.lists(words, max_size=3),
    "loss_type": st.lists(words, max_size=3) | st.none(),
    "loss_weights": st.lists(st.floats(-1e6, 1e6), max_size=3) | st.none(),
    "reward": st.lists(words, max_size=3) | st.none(),
    "reward_weights": st.lists(st.floats(-1e6, 1e6), max_size=3) | st.none(),
    "target_modules": words | st.lists(words, min_size=1, max_size=3),
    "method": st.from_regex(r"[a-z][a-z0-9-]{0,9}", fullmatch=True),
    "name": st.from_regex(r"[a-zA-Z0-9_]([a-zA-Z0-9._-]{0,9}[a-zA-Z0-9_-])?", fullmatch=True),
    "system": texts,
}


def values(field: FieldInfo) -> st.SearchStrategy[Any]:
    """Return every kind of value that a field accepts."""
    if field.name in _special:
        valid = _special[field.name]
    elif field.type == "choice":
        valid = st.sampled_from(field.choices)
    elif field.type == "switch":
        valid = st.booleans()
    elif field.type == "integer":
        valid = st.integers(int(field.minimum or 0), int(field.maximum or 0))
    elif field.type == "number":
        open_ends = {"exclude_min": "above" in field.bounds, "exclude_max": "below" in field.bounds}
        valid = st.floats(field.minimum, field.maximum, **open_ends)
    else:
        valid = words
    return valid if field.required or field.default is not None else valid | st.none()


def _agree(fields: dict[str, Any]) -> dict[str, Any]:
    if fields.get("lr_scheduler_type") == "constant":
        fields.pop("warmup_steps", None)
        fields.pop("warmup_ratio", None)
    if fields.get("warmup_steps"):
        fields.pop("warmup_ratio", None)
    if fields.get("max_steps") and fields.get("warmup_steps", 0) > fields["max_steps"]:
        fields["warmup_steps"] = fields["max_steps"]
    if fields.get("gradient_checkpointing"):
        fields.pop("torch_compile", None)
    return fields


_fields = {field.name: values(field) for field in RunSpec.describe()}
specs = st.fixed_dictionaries({"data": _fields.pop("data")}, optional=_fields).map(_agree).map(lambda kw: RunSpec(**kw))
