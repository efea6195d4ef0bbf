from __future__ import annotations

from datetime import datetime

from peft_nb.store import Entry, Facts, Store
from peft_nb.ui import lineage
from peft_nb.ui.lineage import Tree
from tests.stores import finish


def test_a_tree_has_branches_and_lists_in_lists() -> None:
    tree = Tree("a", (Tree("b", (Tree("c"),)), Tree("<d>")))
    assert repr(tree) == "a\n├─ b\n│  └─ c\n└─ <d>"
    html = tree._repr_html_()
    assert html.count("<li>") == 3
    assert "&lt;d&gt;" in html
    assert "<d>" not in html


def test_a_short_hash_has_the_whole_one_where_the_pointer_rests(store: Store) -> None:
    finish(store, "tickets", facts=Facts(base="m", base_hash="1" * 60 + "<b>"))
    told = lineage.tree(store.lineage("tickets"))
    assert "base: m; weights 111111111111\n" in repr(told)
    assert f'<span title="{"1" * 60}&lt;b&gt;">base: m; weights 111111111111</span>' in told._repr_html_()


def test_an_entry_says_what_was_done() -> None:
    entry = Entry(datetime(2026, 1, 2), "me", "promote", "lora-1", "tickets", 2, "production", 1, "better", None)
    assert lineage.said(entry) == "tickets@production: v1 → v2"
    table = lineage.log([entry])
    assert table.columns.tolist() == list(lineage.COLUMNS)
    assert table["what"].tolist() == ["tickets@production: v1 → v2"]
