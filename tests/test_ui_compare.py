from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb import Comparison
from peft_nb.data.prompts import Asked
from peft_nb.errors import DataError, RunError, StoreError
from peft_nb.runs.compare import BASE, Compared
from peft_nb.ui.compare import compared, refuse_existing


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
