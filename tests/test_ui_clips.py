"""Players and transcripts as HTML."""

from __future__ import annotations

from peft_nb.ui import clips

SOUND = "data:audio/mpeg;base64,SUQz"


def test_differences_are_marked_and_foreign_text_is_escaped() -> None:
    page = clips.table("Worst <clips>", [clips.Shown(SOUND, "the <b>Kobe</b> pier", "the cobe pier", "33 % wrong")])
    assert "Worst &lt;clips&gt;" in page
    assert f'<audio controls preload="none" src="{SOUND}"' in page
    assert "&lt;b&gt;Kobe&lt;/b&gt;</ins>" in page
    assert ">cobe</ins>" in page
    assert "33 % wrong" in page
    assert "<b>" not in page
    assert page.count("<ins ") == 2


def test_nothing_but_small_sounds_is_loaded() -> None:
    for other in (
        "https://example.com/a.mp3",
        "javascript:alert(1)",
        f'{SOUND}" onerror="x',
        "data:text/html;base64,AA==",
    ):
        assert clips.player(other, "x") == ""
    assert 'aria-label="&quot;quoted&quot;"' in clips.player(SOUND, '"quoted"')
    assert "<details open>" not in clips.table("t", [clips.Shown(SOUND, "said")], folded=True)
