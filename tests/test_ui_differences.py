from __future__ import annotations

import re

import pytest

from peft_nb.spec import RunSpec
from peft_nb.ui.differences import MARK, clean, marked, settings


def inserted(text: str, beside: str) -> list[str]:
    html = marked(text, beside)
    assert re.sub(r"</?ins[^>]*>", "", html) == text.replace("&", "&amp;").replace("<", "&lt;")
    assert "underline" in MARK
    return re.findall(r"<ins[^>]*>(.*?)</ins>", html)


@pytest.mark.parametrize(
    ("text", "beside", "words"),
    [
        ("one two three", "one two three", []),
        ("one 2 three", "one two three", ["2"]),
        ("one two", "one two three", []),
        ("one two three four", "one three", ["two", "four"]),
        ("a < b & c", "a b", ["&lt;", "&amp; c"]),
        ("", "one", []),
        ("one", "", ["one"]),
        ("one\n\ntwo", "one two", []),
        ("今日は雨です", "今日は晴です", ["雨"]),
        ("👩🏽‍🚀 fliegt", "👩🏻‍🚀 fliegt", ["👩🏽‍🚀"]),
        ("مرحبا بالعالم", "مرحبا بكم", ["بالعالم"]),
    ],
)
def test_words_that_differ_are_marked(text: str, beside: str, words: list[str]) -> None:
    assert inserted(text, beside) == words


def test_what_controls_a_terminal_is_replaced() -> None:
    assert clean("a\x1b[31m\x07\x00b\x9b\ud800\n\t👩🏽‍🚀 é") == "a\ufffd[31m\ufffd\ufffdb\ufffd\ufffd\n\t👩🏽‍🚀 é"


def test_settings_that_differ_are_listed_without_names() -> None:
    one, other = RunSpec(data="a.csv", name="one", r=8), RunSpec(data="a.csv", name="other", learning_rate=0.5)
    found = settings({"one": one, "other": other})
    assert list(found) == ["r", "learning_rate"]
    assert found["r"] == {"one": 8, "other": RunSpec(data="a.csv").r}
    assert settings({"one": one}) == settings({"one": one, "again": one}) == {}
