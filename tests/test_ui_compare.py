from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb import Comparison, compare
from peft_nb.data.prompts import Asked
from peft_nb.errors import DataError, RunError, StoreError
from peft_nb.runs.compare import BASE, Compared
from peft_nb.store import Facts, Store
from peft_nb.ui.compare import compared, refuse_existing
from tests.stores import finish
from tests.test_runs_compare import Page


def answered(*names: str) -> Comparison:
    """A comparison of what is in no store, with three prompts."""
    asked = [Asked("Hello"), Asked("How do I pay?"), Asked("Bye")]
    answers = {name: [f"{name} {place}" for place in range(3)] for name in names}
    return Comparison(Compared(dict.fromkeys(names or ["a"]), {}, {}, asked, answers))


def test_a_vote_that_means_nothing_is_refused() -> None:
    three = answered("calm", "short", "base")
    with pytest.raises(RunError, match="there is no prompt 3; the last one is 2"):
        three.vote(3, "calm")
    with pytest.raises(RunError, match=r"^clam gave no answer; did you mean 'calm'\?$"):
        three.vote(0, "clam")
    with pytest.raises(RunError, match="nothing was asked here"):
        answered().vote(0, None)
    assert three.votes.empty
    assert three.tally["of"].tolist() == [0, 0, 0]


def test_votes_are_kept_in_the_comparison() -> None:
    three = answered("calm", "short", "base")
    three.vote(1, "short")
    three.vote(0, None)
    three.vote(1, "calm")
    assert three.votes["best"].tolist() == [None, "calm"]
    assert three.votes.index.tolist() == ["Hello", "How do I pay?"]
    assert three.tally.index[0] == "calm"
    assert three.panel is three.panel


def test_win_rates_count_all_votes_on_any_two_of_them(store: Store) -> None:
    ids = [finish(store, name, f"data: rows\nname: {name}\n", Facts(base="m")) for name in ("calm", "short")]
    for place, best in enumerate([*ids[:1] * 3, ids[1], None]):
        store.vote(f"{place}", {ids[0]: "a", ids[1]: "b"}, best)
    two = compare(*ids, prompts=[], store=store)
    assert two.win_rates.reset_index().values.tolist() == [
        ["calm", "short", 3, 4, 1, 0.75, pytest.approx(0.3006, abs=1e-4), pytest.approx(0.9544, abs=1e-4)]
    ]
    said = "  calm over short: win rate (95 % interval) 75 % (30 % to 95 %), 4 votes, 1 tie"
    assert said in repr(two).splitlines()
    shown = Page(two._repr_html_())
    assert shown.open == []
    assert "win rate (95 % interval)votescalm over short75 % (30 % to 95 %)4 votes, 1 tie" in shown.text
    assert compare(ids[0], prompts=[], store=store).win_rates.empty  # beside base, which was not voted on
    assert "win rate" not in compare(ids[0], prompts=[], store=store)._repr_html_()


def test_votes_on_a_base_are_not_counted_where_the_bases_differ(store: Store) -> None:
    ids = [finish(store, name, f"data: rows\nname: {name}\n", Facts(base=name)) for name in ("calm", "short")]
    store.vote("Hello", {ids[0]: "a", "base": "b"}, "base")
    assert compare(*ids, "base", prompts=[], store=store).win_rates.empty
    assert compare(ids[0], "base", prompts=[], store=store).win_rates.index.tolist() == [("calm", "base")]


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        ({"a": 1}, "a dict is no list of texts"),
        (3, "a int is no list of texts"),
        (["Hello", " "], "number 1 is empty"),
        ([["Hello"]], "number 0 is a list"),
    ],
)
def test_prompts_are_looked_at_before_anything_is_loaded(prompts: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        compared({BASE: None}, prompts)  # type: ignore[arg-type]


def test_a_page_that_is_there_is_refused_before_the_work(tmp_path: Path) -> None:
    refuse_existing(tmp_path / "page.html")
    with pytest.raises(StoreError, match="is there already"):
        refuse_existing(tmp_path)
