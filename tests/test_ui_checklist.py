from __future__ import annotations

from peft_nb.runs.checklist import NO_ADVICE, Checklist, Item
from peft_nb.ui.checklist import Page


def test_blanks_are_marked_and_foreign_text_is_escaped() -> None:
    items = (Item("Art. 1", "Purpose", "<script>alert(1)</script>"), Item("Art. 2", "Affected", ""))
    page = Page(Checklist("tickets v1", "A law", "Law 1", "https://example.org", items))
    html = page._repr_html_()
    assert "<script" not in html
    assert "&lt;script&gt;" in html
    assert html.count("(blank)") == 1
    assert NO_ADVICE in html
    assert "1 of 2 filled from the store, 1 blank" in html
    assert "Art. 2 · Affected: (blank)" in repr(page)
