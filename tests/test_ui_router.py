from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import peft_nb
from peft_nb import Router, Run
from peft_nb.errors import RunError
from peft_nb.serving.route import Gate, NearestRows
from peft_nb.ui.router import page, saved
from tests.test_runs_compare import HOSTILE, Page

SHORT: dict[str, Any] = {"max_new_tokens": 4}
FRUIT, TOOL = "plum fig plum apple", "nail saw nail drill"


@pytest.fixture(scope="module")
def router(kinds: dict[str, Run], encoder: Path) -> Router:
    return peft_nb.route(*kinds.values(), encoder=str(encoder))


def test_each_prompt_is_answered_by_the_run_that_it_is_for(kinds: dict[str, Run], encoder: Path) -> None:
    router = peft_nb.route(*kinds.values(), encoder=str(encoder))
    asked = [FRUIT, TOOL, FRUIT]
    assert [one.name for one in router.route(asked)] == ["fruit", "tool", "fruit"]
    assert router.generate(asked, **SHORT) == [
        kinds[name].generate(prompt, **SHORT) for prompt, name in zip(asked, ["fruit", "tool", "fruit"], strict=True)
    ]
    assert router.generate(TOOL, **SHORT) == kinds["tool"].generate(TOOL, **SHORT)
    assert dict(router.table["prompts"]) == {"fruit": 4, "tool": 3}
    assert [one.prompt for one in router.asked] == [*asked, *asked, TOOL]


def test_a_router_shows_where_prompts_went_and_what_was_measured(router: Router) -> None:
    router.route([FRUIT, HOSTILE])
    matrix = router.confusion()
    assert list(matrix.index) == list(matrix.columns) == ["fruit", "tool"]
    assert matrix.to_numpy().sum(1).tolist() == [6, 6]
    assert matrix.loc["fruit", "fruit"] + matrix.loc["tool", "tool"] > 10
    table = router.evaluate(rows=3)
    assert list(table.columns) == ["base", "alone", "routed", "oracle", "rows", "right"]
    assert (table["oracle"] <= table[["alone", "routed", "base"]].min(axis=1) + 1e-6).all()
    right = table[table["right"] == 1]
    assert len(right)
    assert (right["routed"] == right["alone"]).all()
    drawn = page(router)
    Page(drawn)
    assert HOSTILE not in drawn
    for said in ("Confusion matrix", "Eval loss in nats per token", "nearest rows", "oracle"):
        assert said in drawn
    assert "router to fruit, tool: 2 prompts routed" in repr(router)


def test_the_base_answers_what_is_for_none(kinds: dict[str, Run], encoder: Path) -> None:
    router = peft_nb.route(*kinds.values(), "base", encoder=str(encoder), policy=lambda prompt, user: user)
    assert router.names == ["fruit", "tool", "base"]
    assert router.route("hello", user="base").why == "policy"
    assert router.generate("hello", user="base", **SHORT) == kinds["fruit"].generate("hello", adapter=False, **SHORT)
    with pytest.raises(RunError, match="the policy named 'fruits'; did you mean 'fruit'"):
        router.route("hello", user="fruits")


def test_the_best_two_are_blended(kinds: dict[str, Run], encoder: Path) -> None:
    router = peft_nb.route(*kinds.values(), encoder=str(encoder), blend=2)
    route = router.route("plum saw plum saw")
    assert set(route.weights) == {"fruit", "tool"}
    assert sum(route.weights.values()) == pytest.approx(1)
    answer = router.generate("plum saw plum saw", **SHORT)
    combined = peft_nb.combine({kinds[name]: weight for name, weight in sorted(route.weights.items())}, "cat")
    assert answer == combined.generate("plum saw plum saw", **SHORT)
    assert "blended: " in page(router)
    for _ in range(2):
        router.generate("plum saw plum saw", **SHORT)
    assert len(router.board._mixtures) == 1


def test_a_router_is_written_down_for_a_server(router: Router, kinds: dict[str, Run], encoder: Path) -> None:
    folder = saved(router, "gate")
    assert folder == kinds["fruit"].store.folder / "routers" / "gate"
    assert [one.name for one in NearestRows.load(folder).routes([FRUIT, TOOL])] == ["fruit", "tool"]
    with pytest.raises(RunError, match="put the function into a module of its own"):
        saved(peft_nb.route(kinds["fruit"], encoder=str(encoder), policy=lambda prompt, user: None), "gate")
    blending = peft_nb.route(*kinds.values(), encoder=str(encoder), policy=never_for_guests, blend=2)
    gate = Gate.load(saved(blending, "gate"))
    assert gate.route(FRUIT, "guest").name == "base"
    mixed = "plum saw plum saw"
    assert gate.route(mixed, None).weights == blending.route(mixed).weights
    assert len(gate.route(mixed, None).weights) == 2


def never_for_guests(prompt: str, user: str | None) -> str | None:
    return "base" if user == "guest" else None


def test_mistakes_are_one_line(kinds: dict[str, Run]) -> None:
    with pytest.raises(RunError, match="there is nothing to route to; name runs"):
        peft_nb.route("base")
    with pytest.raises(RunError, match="blend: 0 adapters cannot answer"):
        peft_nb.route(kinds["fruit"], blend=0)
