"""What YAML says of a spec, and what it cannot."""

from __future__ import annotations

import pytest

from peft_nb.errors import SpecError
from peft_nb.spec import RunSpec
from peft_nb.spec.notation.yaml import read_yaml


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "null"])
def test_empty_yaml_sets_nothing(text: str) -> None:
    assert read_yaml(text) == {}
    with pytest.raises(SpecError, match="the YAML sets no field; write at least data: NAME"):
        RunSpec.from_yaml(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "data: x\na: b: c",
            "line 2: not YAML, mapping values are not allowed here; write one 'field: value'",
        ),
        ("data: x\n\tr: 1", "line 2: not YAML, found character '\\t' that cannot start any token"),
        ("data: x\nsystem: 'open", "line 2: not YAML, found unexpected end of stream"),
        ("data: x\n\nsystem: a\x07", "line 3: the character 0x7 is not for text; remove it"),
        ("data: x\n---\ndata: y", "line 2: not YAML, but found another document"),
        ("data: &a [*a]", "line 1: not YAML, found unconstructable recursive node"),
        ("data: *a", "line 1: not YAML, found undefined alias 'a'"),
        ("? [a]\n: 3", "line 1: a field is named by one word"),
        ("- data", "the YAML is not a mapping"),
        ("data", "the YAML is not a mapping"),
        ('data: "\\UFFFFFFFF"', "not YAML: an escape names no character, or lists nest too deeply"),
        ("data: " + "[" * 5000, "not YAML: an escape names no character, or lists nest too deeply"),
    ],
)
def test_bad_yaml_gives_one_line_with_its_number(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml(text)
    (found,) = caught.value.problems
    assert found.startswith(problem)
    assert "\n" not in found


def test_all_fields_given_twice_are_named() -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml("data: x\nr: 8\ndata: y\ncolumns: {a: b}\nr: 9")
    assert caught.value.problems == [
        "line 3: 'data' is already set in line 1; keep one",
        "line 5: 'r' is already set in line 2; keep one",
    ]
    with pytest.raises(SpecError, match="line 1: 'a' is already set in line 1"):
        RunSpec.from_yaml("columns: {a: b, a: c}")


def test_tags_build_no_objects() -> None:
    assert read_yaml("data: !!python/object/apply:os.getcwd []") == {"data": []}
    assert read_yaml("r: !!int '8'\nname: !mine x") == {"r": "8", "name": "x"}
