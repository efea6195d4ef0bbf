"""Who answers at a moment: the engine that holds the model, once there is one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from peft_nb.serving import front as module
from peft_nb.serving.engine import Files
from peft_nb.serving.front import Front, Limits
from peft_nb.serving.requests import RefusedError
from peft_nb.serving.targets import Target
from tests.test_serving_targets import ONE, TWO


@dataclass
class Load:
    model: str


@dataclass
class Holding:
    """What of an engine a choice looks at."""

    load: Load
    alive: bool = True


def serving() -> Front:
    made = Front(Limits(2, 3, 1000), None, None, base="base.gguf")
    made.targets = {"tickets": Target("tickets", ONE, TWO, 0.25)}
    made.files = {ONE.run: Files("base.gguf", "one"), TWO.run: Files("merged.gguf")}
    return made


def test_a_request_goes_to_the_engine_that_holds_the_model_of_its_version() -> None:
    front = serving()
    first, second = Holding(Load("base.gguf")), Holding(Load("merged.gguf"))
    front.use({"base.gguf": first, "merged.gguf": second}, front.targets)  # type: ignore[dict-item]

    async def asked() -> set[tuple[int, str | None, str | None]]:
        found = [await front.chosen("tickets", f"user {number}") for number in range(40)]
        found.append(await front.chosen("base", "user"))
        return {(id(engine), version and version.run, adapter) for engine, version, adapter in found}

    assert asyncio.run(asked()) == {
        (id(first), ONE.run, "one"),
        (id(second), TWO.run, None),
        (id(first), None, None),
    }


def test_requests_wait_for_an_engine_that_has_ended_and_are_refused_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ENGINE_S", 0.2)
    front, engine = serving(), Holding(Load("base.gguf"))

    async def asked() -> None:
        front.use({"base.gguf": engine}, front.targets)  # type: ignore[dict-item]
        await front.ended(engine)  # type: ignore[arg-type]
        assert front.engines, "its process lives"
        engine.alive = False
        await front.ended(engine)  # type: ignore[arg-type]
        assert front.status()["state"] == "loading"
        with pytest.raises(RefusedError, match="the engine is not ready; try again"):
            await front.chosen("base", "user")
        waiting = asyncio.create_task(front.chosen("base", "user"))
        await asyncio.sleep(0.05)
        front.use({"base.gguf": Holding(Load("base.gguf"))}, front.targets)  # type: ignore[dict-item]
        assert (await waiting)[0] is front.engines["base.gguf"]

    asyncio.run(asked())


def test_its_state_names_versions_and_their_shares() -> None:
    told = serving().status()
    assert (told["state"], told["slots"], told["queue"], told["inside"]) == ("loading", 2, 3, 0)
    assert told["models"]["tickets"]["versions"] == [
        {"version": ONE.label, "run": ONE.run, "share": 0.75},
        {"version": TWO.label, "run": TWO.run, "share": 0.25},
    ]
    assert told["models"]["base"]["versions"] == []
