"""The small data sets of the project's own are clean, and what they say is right."""

from __future__ import annotations

import doctest
import json
from types import FunctionType

import pytest

import peft_nb
from peft_nb.data import samples


def rows(name: str) -> list[dict[str, str]]:
    return samples.load(name)["train"]


@pytest.mark.parametrize("name", samples.NAMES)
def test_the_samples_are_clean(name: str) -> None:
    assert peft_nb.check(name).findings == []


def test_every_order_has_the_same_keys_and_types() -> None:
    for row in rows("order-mails"):
        order = json.loads(row["completion"])
        assert list(order) == ["boat", "from", "days", "people", "extras"]
        assert row["completion"] == json.dumps(order)
        assert order["boat"] is None or order["boat"] in row["prompt"]
        assert order["from"].endswith("day")
        assert all(isinstance(order[key], int | None) for key in ("days", "people"))


@pytest.mark.parametrize("row", rows("small-functions"), ids=lambda row: row["instruction"][:40])
def test_every_function_does_what_its_example_says(row: dict[str, str]) -> None:
    scope: dict[str, object] = {}
    exec(row["output"], scope)
    (function,) = [value for value in scope.values() if isinstance(value, FunctionType)]
    assert function.__doc__
    assert function.__doc__.startswith(row["instruction"])
    (test,) = doctest.DocTestFinder().find(function, function.__name__, globs=scope)
    result = doctest.DocTestRunner(verbose=False).run(test)
    assert (result.failed, result.attempted) == (0, 1)


@pytest.mark.parametrize(("name", "common"), [("harbour-german", "der die und"), ("harbour-spanish", "el la que")])
def test_the_texts_are_in_their_language(name: str, common: str) -> None:
    words = " ".join(row["text"] for row in rows(name)).lower().split()
    assert all(words.count(word) > 15 for word in common.split())
