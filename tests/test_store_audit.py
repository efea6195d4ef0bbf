"""The log: who did what, when and why."""

from __future__ import annotations

import getpass
import sqlite3
from datetime import UTC, datetime

import pytest

from peft_nb.errors import StoreError
from peft_nb.store import Store, schema
from tests.stores import ask, finish


def test_the_log_says_who_when_what_and_why_and_never_changes(store: Store) -> None:
    before = datetime.now(UTC)
    id = finish(store, "tickets")
    finish(store, "desk")
    store.promote("tickets", "production", why="  fewer refusals ")
    newest, *_, oldest = store.log()
    assert before <= oldest.at <= newest.at <= datetime.now(UTC)
    assert {entry.who for entry in store.log()} == {getpass.getuser()}
    assert (newest.action, newest.run, newest.name, newest.version) == ("promote", id, "tickets", 1)
    assert (newest.alias, newest.before, newest.why, newest.forced) == ("production", None, "fewer refusals", None)
    assert store.log("tickets") == store.log(id) == store.log("tickets@production") == [newest, oldest]
    with pytest.raises(StoreError, match="there is no run 'tikets'"):
        store.log("tikets")
    told = ask(store, "SELECT * FROM audit")
    for attempt in (
        "UPDATE audit SET why = 'another'",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE id = 1",
        "INSERT OR REPLACE INTO audit SELECT 1, at, 'someone', action, run, name, version, alias, before,"
        " why, forced, share, named, rule, hash"
        " FROM audit",
    ):
        with pytest.raises(sqlite3.IntegrityError, match="only ever appended"):
            ask(store, attempt)
    assert ask(store, "SELECT * FROM audit") == told


@pytest.mark.parametrize("error", [KeyError("uid"), OSError("none"), ImportError("pwd")])
def test_an_account_without_a_name_is_unknown(store: Store, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def nobody() -> str:
        raise error

    monkeypatch.setattr(getpass, "getuser", nobody)
    finish(store, "tickets")
    assert store.log()[0].who == "unknown"


def test_a_line_that_was_changed_put_in_or_taken_out_is_found(store: Store) -> None:
    finish(store, "tickets")
    finish(store, "desk")
    store.promote("tickets", "production", why="fewer refusals")
    assert store.whole_log() is None
    ask(store, "DROP TRIGGER audit_is_not_changed")
    ask(store, "DROP TRIGGER audit_is_not_shortened")
    hashes = [row[0] for row in ask(store, "SELECT hash FROM audit ORDER BY id")]
    assert len({*hashes}) == 3
    for change, undo, found in (
        (
            "UPDATE audit SET why = 'none' WHERE id = 3",
            "UPDATE audit SET why = 'fewer refusals' WHERE id = 3",
            "promote",
        ),
        ("UPDATE audit SET at = at + 0.001 WHERE id = 2", "", "version"),
        ("DELETE FROM audit WHERE id = 2", "", "promote"),
    ):
        ask(store, change)
        broken = store.whole_log()
        assert broken
        assert broken.action == found
        if undo:
            ask(store, undo)
            assert store.whole_log() is None


def test_the_log_of_an_older_index_is_chained_when_it_is_opened(store: Store) -> None:
    finish(store, "tickets")
    finish(store, "desk")
    told = [(entry.at, entry.action, entry.name) for entry in store.log()]
    before = next(n for n, script in enumerate(schema.MIGRATIONS) if "line_hash" in script)
    for statement in ("DROP TRIGGER audit_is_not_changed", "DROP TABLE policies"):
        ask(store, statement)
    for column in ("named", "rule", "hash"):
        ask(store, f"ALTER TABLE audit DROP COLUMN {column}")
    ask(store, "CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN SELECT RAISE (ABORT, 'no'); END")
    ask(store, f"PRAGMA user_version = {before}")
    again = Store(store.folder)
    assert [(entry.at, entry.action, entry.name) for entry in again.log()] == told
    assert again.whole_log() is None
    assert all(entry.hash for entry in again.log())
    again.promote("tickets", "production", why="still chained")
    assert again.whole_log() is None
