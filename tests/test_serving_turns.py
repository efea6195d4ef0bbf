from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from peft_nb.serving.turns import PATIENCE_S, Turns


class Scene:
    """Requests that work until they are told to end."""

    def __init__(self, slots: int) -> None:
        self.now = 0.0
        self.turns = Turns(slots, lambda: self.now)
        self.working: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.ends: dict[str, asyncio.Event] = {}

    async def come(self, *names: str) -> list[str]:
        for name in names:
            self.ends[name] = asyncio.Event()
            self.tasks[name] = asyncio.create_task(self._work(name))
            await asyncio.sleep(0)
        return await self.settled()

    async def end(self, name: str) -> list[str]:
        self.ends[name].set()
        return await self.settled()

    async def settled(self) -> list[str]:
        for _ in range(10):
            await asyncio.sleep(0)
        return self.working

    async def _work(self, name: str) -> None:
        async with self.turns.of(name[0]):
            self.working.append(name)
            try:
                await self.ends[name].wait()
            finally:
                self.working.remove(name)


def play(slots: int, act: Callable[[Scene], Awaitable[None]]) -> None:
    async def scene() -> None:
        await act(Scene(slots))

    asyncio.run(scene())


def test_one_adapter_at_a_time_with_as_many_requests_as_there_are_slots() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.come("a1", "b1", "a2", "b2", "a3") == ["a1", "a2"]
        assert await scene.end("a1") == ["a2", "a3"]  # together with the other
        assert await scene.end("a2") == ["a3"]
        assert await scene.end("a3") == ["b1", "b2"]
        await scene.end("b1")
        assert await scene.end("b2") == []

    play(2, act)


def test_nobody_is_let_past_one_who_has_waited_for_long() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.come("a1", "b1", "a2") == ["a1", "a2"]
        scene.now = PATIENCE_S + 1
        assert await scene.come("a3") == ["a1", "a2"]
        assert await scene.end("a1") == ["a2"]
        assert await scene.end("a2") == ["b1"]
        assert await scene.end("b1") == ["a3"]

    play(3, act)


def test_who_gives_up_leaves_no_gap() -> None:
    async def act(scene: Scene) -> None:
        assert await scene.come("a1", "b1", "c1") == ["a1"]
        scene.tasks["b1"].cancel()
        scene.tasks["a1"].cancel()
        assert await scene.settled() == ["c1"]
        assert await scene.come("a2") == ["c1"]
        assert await scene.end("c1") == ["a2"]

    play(1, act)
