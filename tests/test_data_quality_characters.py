from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from peft_nb.data.quality.characters import flaws, repair

RIGHT = [
    "Café à la carte – voilà…”", "« un café…»", "AMANHÃ…", "MENÜ–KARTE", "HYVÄ–PÄIVÄ", "CAFÉ™", "2×½ = 1", "20 °C",
    "“Å” is a letter", "naïve façade", "日本語です", "привет мир", "שלום", "¡Olé!", "👍", "👨‍👩‍👧 family", "می‌خواهم",
    "\U0001f3f4\U000e0067\U000e0062\U000e007f", "7", "B", "No", "是", "<b>bold</b>&nbsp;text", "a\tb\r\nc",
    "x = a[i] ** 2  # fine",
]  # fmt: skip


@pytest.mark.parametrize("text", RIGHT)
def test_right_as_it_is(text: str) -> None:
    assert flaws(text) == ()
    assert repair(text) == text


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\u00a0", "\u200b", "\x00"])
def test_empty(text: str) -> None:
    assert flaws(text) == ("empty",)


@pytest.mark.parametrize(
    "text", ["-", "?", "...", "***", "n/a", "N/A", " nan ", "None", "NULL", "<null>", "TODO", "xxx"]
)
def test_near_empty(text: str) -> None:
    assert flaws(text) == ("near_empty",)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize(
    "text",
    [
        "Café crème", "don’t say “no”, it is – well… 5 €", "日本語テスト", "привет", "CAFÉ", "😀 ok", "São Paulo",
        "œuvre", "się tak", "20° warm", "naïve 日本 привет",
    ],
)  # fmt: skip
def test_mojibake_is_undone(text: str, encoding: str) -> None:
    try:
        broken = text.encode().decode(encoding)
    except UnicodeDecodeError:
        pytest.skip(f"{encoding} has no letter for one of these bytes")
    assert "mojibake" in flaws(broken)
    assert "control" not in flaws(broken)  # the bytes 0x80 to 0x9F are part of the mojibake
    assert repair(broken) == text


def test_mojibake_beside_letters_that_are_right() -> None:
    assert repair("日本 CafÃ© – ok") == "日本 Café – ok"


def test_mojibake_twice() -> None:
    twice = "it’s".encode().decode("cp1252").encode().decode("cp1252")
    assert repair(twice) == "it’s"


@pytest.mark.parametrize(
    ("text", "flaw", "fixed"),
    [
        ("x\x00y", "control", "xy"),
        ("\x1b[1;31mred\x1b[0m", "control", "red"),
        ("a\x85b", "control", "ab"),
        ("soft\u00adhyphen", "invisible", "softhyphen"),
        ("\ufeffHello", "invisible", "Hello"),
        ("pay\u200b now", "invisible", "pay now"),
        ("abc\u202edef", "invisible", "abcdef"),
        ("join\u200ded", "invisible", "joined"),
        ("hi\U000e0041\U000e0042", "invisible", "hi"),
        ("lost \ufffd here", "replacement", "lost \ufffd here"),
        ("half \ud83d pair", "replacement", "half \ud83d pair"),
    ],
)
def test_characters_that_do_not_belong(text: str, flaw: str, fixed: str) -> None:
    assert flaws(text) == (flaw,)
    assert repair(text) == fixed


def test_several_flaws_in_order() -> None:
    assert flaws("CafÃ©\x00\u200b\ufffd") == ("mojibake", "replacement", "control", "invisible")


@given(st.text(alphabet=st.characters(codec="utf-8")))
@example("Î\x1f¼")
def test_repair_settles(text: str) -> None:
    fixed = repair(text)
    assert repair(fixed) == fixed


@given(st.text(alphabet=st.characters(max_codepoint=0x7E, min_codepoint=0x20)))
def test_plain_text_is_never_changed(text: str) -> None:
    assert repair(text) == text
