"""What is served at this moment and who answers, in front of engines that can be replaced under way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tornado.locks import Event

from peft_nb.documents.passages import Passage, retrieve
from peft_nb.errors import RunError
from peft_nb.serving import feedback
from peft_nb.serving.answer_log import AnswerLog
from peft_nb.serving.engine import Engine, Files
from peft_nb.serving.requests import CHAT, RefusedError, busy, found
from peft_nb.serving.targets import BASE, Target, Version, versions
from peft_nb.serving.traffic import Traffic
from peft_nb.serving.turns import Turns

if TYPE_CHECKING:
    from peft_nb.documents.retriever import Retriever
    from peft_nb.serving.route import Gate, Route

ENGINE_S = 60  # longest wait for an engine that is being replaced
ENDING_S = 1.0  # by which the system may tell of a process's end later than its connections do


@dataclass(frozen=True)
class Limits:
    """How much is taken in.

    Attributes
    ----------
    slots : int
        Requests answered at the same time.
    queue : int
        Requests that wait beside them.
    body_bytes : int
        Largest request.
    """

    slots: int
    queue: int
    body_bytes: int


class Front:
    """What is served at this moment, and by whom.

    Parameters
    ----------
    limits : Limits
        How much is taken in.
    key : str or None
        What a client must know.
    hosts : set of str or None
        Names under which clients may call; None for any. A page in a browser that has its own name lead here is
        kept out with it.
    log : AnswerLog or None
        Where answers are noted.
    base : str
        The base model as the engine loads it.
    mixes : bool
        Whether the engine computes requests for different adapters together.
    vote : callable or None
        Keeps what clients say of answers.

    Attributes
    ----------
    targets : dict of str to Target
        By name.
    files : dict of str to Files
        What each run answers with.
    engines : dict of str to Engine
        By the model that they hold, who answers at this moment.
    indexes : dict of Path to Retriever
        By their folders, those whose chunks are put before questions.
    routers : dict of str to Gate
        By name, what finds out whom a request is for.
    answers : feedback.Answers
        The last answers, of which clients may say something.
    """

    def __init__(
        self,
        limits: Limits,
        key: str | None,
        hosts: set[str] | None,
        log: AnswerLog | None = None,
        base: str = "",
        mixes: bool = False,
        vote: feedback.Vote | None = None,
    ) -> None:
        self.limits, self.key, self.hosts, self.log, self.base = limits, key, hosts, log, Files(base)
        self.mixes = mixes
        self.targets: dict[str, Target] = {}
        self.files: dict[str, Files] = {}
        self.engines: dict[str, Engine] = {}
        self.indexes: dict[Path, Retriever] = {}
        self.routers: dict[str, Gate] = {}
        self.ready = Event()
        self.troubles: dict[str, str] = {}
        self.answers = feedback.Answers(vote)
        self.traffic = Traffic()
        self.turns = Turns(limits.slots)
        self.inside = 0
        self.client: Any = None
        self.began = time.time()

    def use(self, engines: dict[str, Engine], targets: dict[str, Target]) -> None:
        """Let these engines, by their models, answer for these targets from now on."""
        self.engines, self.targets = engines, targets
        self.ready.set()

    def lose(self, engine: Engine) -> None:
        """Let requests to an engine that has ended wait for the next one."""
        if self.engines.get(engine.load.model) is engine:
            del self.engines[engine.load.model]
            self.ready.clear()

    def version(self, word: Any, user: str) -> Version | None:
        """Decide who answers."""
        target = found(word, self.targets, BASE)
        return target.choose(user) if target else None

    async def route(self, body: Mapping[str, Any]) -> Route | None:
        """Find out whom a request to a router is for; None for a request that names somebody."""
        from peft_nb.serving.route import text_of

        if (router := self.routers.get(body.get("model", ""))) is None:
            return None
        prompt = text_of(body["messages"] if "messages" in body else body["prompt"])
        try:
            return await asyncio.to_thread(router.route, prompt, body.get("user"))
        except RunError as error:  # of the policy, which is not the client's fault
            raise RefusedError(500, str(error), code="policy_failed") from None

    async def ended(self, engine: Engine) -> None:
        """Lose an engine that has broken a connection, as soon as its process is seen to have ended."""
        until = time.monotonic() + ENDING_S
        while engine.alive and time.monotonic() < until:
            await asyncio.sleep(0.02)
        if not engine.alive:
            self.lose(engine)

    async def chosen(self, word: Any, user: str) -> tuple[Engine, Version | None, str | None]:
        """Decide by what is served at one moment who answers: which engine, as which version, with which LoRA."""
        while True:
            version = self.version(word, user)
            files = self.files.get(version.run) if version else self.base
            if files and (engine := self.engines.get(files.model)):
                return engine, version, files.adapter
            try:
                await self.ready.wait(timedelta(seconds=ENGINE_S))
            except TimeoutError:
                raise busy("the engine is not ready", 5) from None

    def open(self, index: Path) -> None:
        """Load an index and its encoder before anybody waits for them; StoreError or ModelError if that fails."""
        from peft_nb.documents.retriever import Retriever

        if index not in self.indexes:
            found = Retriever(index)
            found.embedder.load()
            self.indexes[index] = found

    async def behind_documents(
        self, path: str, body: dict[str, Any], version: Version | None
    ) -> tuple[dict[str, Any], list[Passage]]:
        """Put documents before a question where who answers learned so, unless the request has documents: false."""
        wanted = body.get("documents") is not False
        body = {name: value for name, value in body.items() if name != "documents"}
        if path != CHAT or not wanted or not version or not version.index:
            return body, []
        asked = [turn.get("content") for turn in body["messages"] if turn.get("role") == "user"]
        if not asked or not isinstance(asked[-1], str) or not asked[-1].strip():
            fix = "end with a user's message that is a text, or send documents: false"
            raise RefusedError(400, f"messages: there is no question to find documents by; {fix}", field="messages")
        index = self.indexes[version.index]
        (laid,), (passages,) = await asyncio.to_thread(retrieve, index, [body["messages"]], version.chunks)
        return body | {"messages": laid}, passages

    def status(self) -> dict[str, Any]:
        """Tell how things stand; names and numbers alone."""
        shown = {}
        for word, target in self.targets.items():
            shares = [{"version": target.main.label, "run": target.main.run, "share": 1 - target.share}]
            if target.other:
                shares.append({"version": target.other.label, "run": target.other.run, "share": target.share})
            shown[word] = {"versions": shares, "chat": target.main.chat, **self.traffic.of(word)}
        shown[BASE] = {"versions": [], **self.traffic.of(BASE)}
        every = self.traffic.of(*shown)
        for word in self.routers:
            traffic = self.traffic.of(word)
            by = traffic["by_version"].items()
            shares = [{"version": name, "run": None, "share": count / traffic["answered"]} for name, count in by]
            shown[word] = {"versions": shares, "chat": True, **traffic}
        notes = [
            f"{version.label} answers from a merged model of its own ({version.merged}), "
            f"{self.files[version.run].mb:,.0f} MB beside the base"
            for version in versions(self.targets.values())
            if version.merged
        ]
        return {
            "state": "ready" if self.ready.is_set() else "loading",
            "seconds": time.time() - self.began,
            "inside": self.inside,
            "slots": self.limits.slots,
            "queue": self.limits.queue,
            "troubles": list(self.troubles.values()),
            "notes": notes,
            "all": every,
            "models": shown,
        }
