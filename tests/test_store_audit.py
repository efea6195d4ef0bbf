"""The log: who did what, when and why."""

from __future__ import annotations

import getpass
import sqlite3
from datetime import UTC, datetime

import pytest

from peft_nb.errors import StoreError
from peft_nb.store import Store
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
        " why, forced, share"
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
