from __future__ import annotations

import numpy
import pytest

from peft_nb.data.printed import by_numpy, is_cut, read

VALUES = [
    ["yes", "no"],
    ["it's", 'a "quote"', "line\nbreak", "é"],
    [1, 2, -3],
    [1.5, -0.25],
    [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "[1 2]"}],
    [True, None],
    [],
    ["a, b", "c"],
]


@pytest.mark.parametrize("value", VALUES)
def test_what_python_and_numpy_print_is_read_as_it_was(value: list[object]) -> None:
    array = numpy.array(value, dtype=object)
    assert read(str(value), None) == read(str(array), None) == read(repr(array), None) == value


def test_strings_side_by_side_are_not_joined() -> None:
    assert read(str(numpy.array(["a", "b"] * 40)), None) == ["a", "b"] * 40
    assert read(repr(numpy.array(["a", "b"])), None) == ["a", "b"]
    assert read("[['a' 'b']\n ['c' 'd']]", None) == [["a", "b"], ["c", "d"]]


def test_arrays_inside_are_lists() -> None:
    printed = "[{'text': array(['Saint Bernadette'], dtype=object), 'start': array([515], dtype=int32)}]"
    assert read(printed, None) == [{"text": ["Saint Bernadette"], "start": [515]}]


@pytest.mark.parametrize(
    "text", ["", "[INST] hi", "[see] this", "[1] [2]", "['open", "(1, 2)", "[x for x in y]", "array(", "['a' # b"]
)
def test_other_text_is_left_alone(text: str) -> None:
    assert read(text, text) == text


def test_a_cut_array_is_known() -> None:
    long = str(numpy.array([f"word {number}" for number in range(2_000)]))
    assert is_cut(long)
    assert read(long, "as it is") == "as it is"
    assert not is_cut("[to be continued...]")


@pytest.mark.parametrize("text", ["['a' 'b']", "array(['a'], dtype=object)", "array(['a', 'b'])", "[\"it's\" 'so']"])
def test_what_numpy_printed_is_known(text: str) -> None:
    assert by_numpy(text)
    assert by_numpy(f" {text}\n")


@pytest.mark.parametrize("text", ['["38", "39"]', "['a', 'b']", "['a']", "[]", "[1 2]", "array of words", "['open", ""])
def test_json_python_and_matrices_are_text_like_any_other(text: str) -> None:
    assert not by_numpy(text)
