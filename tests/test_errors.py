"""Mistakes are one tree, each told in a line."""

from __future__ import annotations

import inspect
import re

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb import errors
from peft_nb.errors import MergeError, PeftNbError, SpecError, nearest

CLASSES = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind) and issubclass(kind, Exception)}


def test_the_tree_at_the_top_is_the_tree_of_the_classes() -> None:
    drawn: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^(    (?:│   )?[├└]── |    )(\w+Error)\b", line):
            drawn.append((len(found[1]) // 4 - 1, found[2]))
    assert {name for _, name in drawn} == CLASSES.keys()
    parents: list[str] = []
    for depth, name in drawn:
        parents[depth:] = [name]
        assert CLASSES[name].__base__ is (CLASSES[parents[depth - 1]] if depth else Exception)


@pytest.mark.parametrize("name", [name for name in CLASSES if name not in ("SpecError", "MergeError")])
def test_a_notebook_shows_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    shell = InteractiveShell.instance()
    shell.user_ns["mistake"] = CLASSES[name]("what is wrong; what to do")
    shell.run_cell("raise mistake")
    assert capsys.readouterr().out.strip().endswith(f"{name}: what is wrong; what to do")
    assert CLASSES[name]("x")._render_traceback_() == [f"{name}: x"]


def test_a_spec_error_lists_every_wrong_field() -> None:
    several = SpecError(iter(["r: 0 is too small", "epochs: none"]))
    assert several.problems == str(several).splitlines() == ["r: 0 is too small", "epochs: none"]
    assert several._render_traceback_() == ["SpecError: r: 0 is too small", "SpecError: epochs: none"]
    assert SpecError("r: 0 is too small").problems == ["r: 0 is too small"]


def test_a_merge_error_shows_what_was_measured_below_its_line() -> None:
    error = MergeError("too far off", "a  b\n1  2")
    assert (str(error), isinstance(error, PeftNbError)) == ("too far off", True)
    assert error._render_traceback_() == ["MergeError: too far off", "a  b", "1  2"]


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("lorra", "; did you mean 'lora'?"),
        ("LORA", "; did you mean 'lora'?"),
        ("ia-3", "; did you mean 'IA3'?"),
        ("lroa", "; did you mean 'lora'?"),
        ("zzz", ""),
        ("", ""),
    ],
)
def test_the_nearest_known_word_is_suggested_as_it_is_written(word: str, told: str) -> None:
    assert nearest(word, ["road", "lora", "dora", "IA3", "prefix"]) == told


def test_where_nothing_is_known_nothing_is_near() -> None:
    assert nearest("lora", []) == ""
