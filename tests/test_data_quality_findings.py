"""Kinds of findings, how they are collected, and how texts are shown."""

from __future__ import annotations

from peft_nb.data.quality.findings import (
    EXAMPLES,
    FIXABLE,
    FIXED_BY_DEFAULT,
    KINDS,
    LEVELS,
    REDACTED,
    SHOWN,
    Findings,
    shown,
)
from tests.test_data_quality_checks import KEY


def test_rows_are_collected_once_a_kind_and_listed_worst_first() -> None:
    found = Findings()
    for number in (5, 2, 5, 9, 7):
        found.add("long", number, f"text {number}")
    found.add("secret", 3, "key", "why")
    found.add("malformed", 4, "odd")
    listed = found.all()
    assert [one.kind for one in listed] == ["malformed", "secret", "long"]
    assert [one.level for one in listed] == list(LEVELS)
    long = listed[-1]
    assert (long.count, long.rows, long.title) == (4, (2, 5, 7, 9), "4 rows over max_length")
    assert long.examples == ("row 5: text 5", "row 2: text 2", "row 9: text 9")[:EXAMPLES]
    assert listed[0].title == "1 row that cannot be read"
    assert found.why == {("malformed", 4): "cannot be read", ("secret", 3): "why"} | {
        ("long", number): "" for number in (5, 2, 9, 7)
    }


def test_what_is_said_of_a_table_overrides_what_is_usual() -> None:
    found = Findings()
    found.say("few", title="3 rows")
    found.add("personal", 1, "text", level="error")
    assert [(one.kind, one.level, one.title, one.count) for one in found.all()] == [
        ("personal", "error", "1 row with personal data (PII)", 1),
        ("few", "info", "3 rows", 0),
    ]
    assert KINDS["personal"].level == "warning"


def test_what_is_fixed_by_itself_says_how() -> None:
    assert {kind for kind, usual in KINDS.items() if usual.fix} == FIXABLE
    assert FIXABLE - FIXED_BY_DEFAULT == REDACTED == {"personal", "secret"}
    assert {usual.level for usual in KINDS.values()} == set(LEVELS)


def test_an_example_is_one_short_line_without_secrets() -> None:
    assert shown("a\n b\t\tc") == "a b c"
    long = shown("word " * 100)
    assert (len(long), long[-1]) == (SHOWN, "…")
    assert shown(f"my key is {KEY}") == "my key is s…"
    assert shown(f"my key is {KEY[:9]}\u200b{KEY[9:]}") == "my key is s…"
    assert shown(f"cafÃ©: {KEY}") == "cafÃ©: s…"
    assert shown("\x1b[31mred") == "�[31mred"
