"""A person in the rows of real runs, in votes and in an index."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from peft_nb.documents.retriever import build, folder_of
from peft_nb.errors import DataError
from peft_nb.runs.forget import forget
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.stores import finish


def test_runs_their_children_votes_and_indexes_are_named(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store, encoder: Path
) -> None:
    known = [dict(row) for row in rows]
    known[3]["question"] = "Where does Anna  BERG live?"
    few = {"max_steps": 1, "eval_steps": None}
    first = begin(spec(name="desk", **few), data=known, store=store).wait()
    other = begin(spec(**few), data=rows, store=store).wait()
    child = begin(spec(init_adapter=first.id, **few), data=rows, store=store).wait()
    store.promote("desk", "production", why="better")
    store.vote("Who is Anna Berg?", {"base": "nobody"}, None)
    build({"people": "Write to Anna Berg about invoices."}, folder_of("people", store.folder), model=str(encoder))
    (store.folder / "routers" / "desk").mkdir(parents=True)
    (store.folder / "routers" / "desk" / "rows.json").write_text('{"rows": {"desk": ["Hi", "Is Anna Berg in?"]}}')
    found = forget(store, "anna berg")
    assert found.unlooked == []
    table = found.table.set_index("what")
    assert set(table.index) == {"desk v1", child.id, "votes", "router desk", "index people"}
    assert other.id not in table.index
    assert table.loc["desk v1", "found"] in ("training rows", "evaluation rows")
    assert table.loc["desk v1", "rows"] == "1 (3)"
    assert "desk@production has to move to the new version first" in table.loc["desk v1", "to do"]
    assert table.loc[child.id, "found"] == "made from desk v1"
    assert forget(store, "Nobody Atall").table.empty


def test_what_cannot_be_looked_through_is_told(store: Store) -> None:
    finish(store, "tickets")
    found = forget(store, "Anna")
    assert found.table.empty
    assert found.unlooked == ["tickets v1: its rows are no longer kept; look through its data"]


def test_a_text_that_is_everywhere_is_refused(store: Store) -> None:
    with pytest.raises(DataError, match="too short to find anybody by"):
        forget(store, " a ")
