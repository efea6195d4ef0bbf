from __future__ import annotations

from datetime import UTC, datetime

import pandas

from peft_nb.ui.listing import Listing, rows

WIDE = "w" * 200


def test_a_terminal_has_numbers_to_the_right_text_to_the_left_and_nothing_cut() -> None:
    names = pandas.Index(["lora", "ia3"], name="method")
    table = Listing({"when": ["mostly", "<b>"], "parameters": [1_234_567, 8], "loss": [2.5, None]}, index=names)
    assert repr(table).splitlines() == [
        "        when   parameters   loss",
        "method",
        "lora    mostly  1,234,567  2.500",
        "ia3     <b>             8",
    ]
    assert WIDE in repr(Listing({"a": [WIDE], "b": [WIDE]}))


def test_a_notebook_has_the_same() -> None:
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    table = Listing({"what": ["<b>", WIDE], "parameters": [1_234_567, 8], "mergeable": [True, False], "at": [at, at]})
    html = table._repr_html_()
    style = '<td style="vertical-align:top;text-align:'
    right, left = (f'{style}{side};white-space:nowrap">' for side in ("right", "left"))
    assert f"{right}1,234,567</td>" in html
    assert f"{left}&lt;b&gt;</td>" in html
    assert f"{left}yes</td>" in html
    assert f"{left}{at.astimezone():%Y-%m-%d %H:%M}</td>" in html
    assert f'{style}left">{WIDE}</td>' in html
    assert html.count("<th ") == 4  # rows without names are not counted
    assert type(table[["what"]]) is pandas.DataFrame


def test_only_a_very_long_word_is_broken() -> None:
    html = rows(("<b>", "similarity"), [("a line of words of common length", "f" * 64)])
    assert html.count("<td ") == 2
    assert html.count("overflow-wrap:anywhere") == 1
    assert '<th scope="col" style="text-align:left;vertical-align:top;padding:2px 16px 2px 0">&lt;b&gt;</th>' in html
    assert html.startswith('<div style="overflow-x:auto">')  # what is too wide is scrolled


def test_what_is_missing_is_empty() -> None:
    missing = pandas.Series([3, None], dtype="Int64")
    table = Listing({"texts": missing, "at": [None, pandas.NaT], "said": ["it's", None]})
    assert [line.split() for line in repr(table).splitlines()] == [["texts", "at", "said"], ["0", "3", "it's"], ["1"]]
    assert table._repr_html_().count('nowrap"></td>') == 4
    assert ">it's<" in table._repr_html_()


def test_small_numbers_keep_their_digits() -> None:
    shares = pandas.Index([0], name="run")
    html = Listing({"share": [0.00123], "none": [0.0], "large": [12345.678]}, index=shares)._repr_html_()
    for said in (">0.00123<", ">0.000<", ">12,345.678<", ">run<"):
        assert said in html
