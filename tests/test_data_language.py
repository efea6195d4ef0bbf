from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from peft_nb.data import language


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    language._identifier.cache_clear()
    yield
    language._identifier.cache_clear()


def test_short_sentences_are_told_apart() -> None:
    pytest.importorskip("py3langid")
    assert language.known()
    said = {
        "de": "Meine Karte ist weg, was soll ich tun?",
        "en": "When will my new card come?",
        "fr": "Je ne peux pas me connecter à mon compte.",
        "es": "¿Por qué fue rechazado mi pago?",
        "ru": "Когда придёт новая карта?",
    }
    assert {name: language.language(text) for name, text in said.items()} == {name: name for name in said}
    assert language.language("ok") == language.UNKNOWN
    assert language.language("") == language.UNKNOWN


def test_without_the_package_scripts_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "py3langid", None)
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    assert not language.known()
    assert language.script("щука и fish") == "CYRILLIC"
    assert language.script("plum") == "LATIN"
    assert language.script("123") == "none"
