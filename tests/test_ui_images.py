"""Grids of images hold nothing but small images and escaped texts."""

from __future__ import annotations

from peft_nb.data.images.thumbnail import thumbnail
from peft_nb.ui.images import Shown, grid, picture
from tests.images import drawing

EVIL = '"><script>alert(1)</script>'


def test_foreign_text_is_escaped_and_nothing_foreign_is_loaded() -> None:
    shown = grid(EVIL, [Shown(thumbnail(drawing("cross", 1)), EVIL, EVIL), Shown("https://example.com/x.png", "a")])
    assert "<script" not in shown
    assert shown.count("<img ") == 1
    assert "example.com" not in shown
    assert picture(f"data:image/png;base64,AA{EVIL}", "x") == ""
    assert "<details><summary>" in grid("some", [], folded=True)
