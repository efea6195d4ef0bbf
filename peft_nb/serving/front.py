"""What clients talk to: HTTP as OpenAI's, bounded, in front of engines that can be replaced under way."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError
from tornado.locks import Event
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.web import Application, RequestHandler, stream_request_body

from peft_nb.documents.passages import Passage, retrieve
from peft_nb.errors import PeftNbError, RunError
from peft_nb.serving import feedback
from peft_nb.serving.answer_log import AnswerLog
from peft_nb.serving.engine import Engine, Files
from peft_nb.serving.requests import CHAT, TEXT, RefusedError, checked, found, told
from peft_nb.serving.targets import BASE, Target, Version, versions
from peft_nb.serving.traffic import Traffic
from peft_nb.serving.turns import Turns

if TYPE_CHECKING:
    from peft_nb.documents.retriever import Retriever
    from peft_nb.serving.route import Gate, Route

ENGINE_S = 60  # longest wait for an engine that is being replaced
ENDING_S = 1.0  # by which the system may tell of a process's end later than its connections do
LONGEST_S = 3600.0  # longest answer
DRAINED = 16  # times the limit of a request that are read, and thrown away, before the connection is cut


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

    def application(self) -> Application:
        """Make what an HTTP server serves."""
        self.client = AsyncHTTPClient(force_instance=True, max_clients=self.limits.slots + self.limits.queue + 1)
        handlers: list[Any] = [
            (path, kind, {"front": self})
            for path, kind in (
                (CHAT, Completions),
                (TEXT, Completions),
                (feedback.PATH, Feedback),
                ("/v1/models", Models),
                ("/health", Health),
                ("/status", Status),
            )
        ]
        return Application(
            handlers, default_handler_class=Unknown, default_handler_args={"front": self}, log_function=lambda _: None
        )

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
                raise _busy("the engine is not ready", 5) from None

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


def _busy(message: str, seconds: int) -> RefusedError:
    return RefusedError(503, f"{message}; try again", "server_error", "overloaded", retry_s=seconds)


class Handler(RequestHandler):
    """What all answers have in common: who may ask, and how errors look."""

    open = False  # to whoever knows no key

    def initialize(self, front: Front) -> None:
        """Learn what is served."""
        self.front = front

    def prepare(self) -> None:
        """Let in whoever may ask."""
        front = self.front
        if front.hosts is not None and self.request.host_name not in front.hosts:
            raise RefusedError(403, f"no host {self.request.host_name!r} is served here", "permission_error")
        given = self.request.headers.get("Authorization", "").removeprefix("Bearer ")
        if front.key and not self.open and not hmac.compare_digest(given.encode(), front.key.encode()):
            raise RefusedError(401, "a key is required: Authorization: Bearer KEY", code="invalid_api_key")

    def read(self, content: bytes | bytearray, length: int) -> Any:
        """Read the JSON of a request of some length, of which no more was kept than is taken."""
        limit = self.front.limits.body_bytes
        if length > limit:
            why = f"the request is larger than {limit / 1e6:g} MB; shorten it"
            raise RefusedError(413, why, code="request_too_large")
        if self.request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            raise RefusedError(415, "send JSON with Content-Type: application/json")
        try:
            return json.loads(content)
        except ValueError as error:
            raise RefusedError(400, f"the request is no JSON: {error}") from None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Tell an error in OpenAI's form."""
        error = kwargs.get("exc_info", (None, None, None))[1]
        if not isinstance(error, RefusedError):
            said = str(error) if isinstance(error, PeftNbError) else self._reason
            error = RefusedError(status_code, said, "invalid_request_error" if status_code < 500 else "server_error")
        self.set_status(error.status)
        if error.retry_s:
            self.set_header("Retry-After", str(error.retry_s))
        self.finish(error.body)

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Keep what users got wrong out of the log."""
        if not isinstance(value, PeftNbError):
            super().log_exception(typ, value, tb)

    def set_default_headers(self) -> None:
        """Say nothing about the server."""
        self.clear_header("Server")


class Unknown(Handler):
    """Everything else."""

    def prepare(self) -> None:
        """Name what there is."""
        super().prepare()
        paths = f"{CHAT}, {TEXT}, {feedback.PATH}, /v1/models and /health"
        raise RefusedError(404, f"{self.request.path}: not served; there are {paths}")


class Health(Handler):
    """Whether requests are answered at once."""

    open = True

    def get(self) -> None:
        """Answer."""
        ready = self.front.ready.is_set()
        self.set_status(200 if ready else 503)
        self.finish({"status": "ok" if ready else "loading"})


class Models(Handler):
    """The names that requests may write in ``model``."""

    def get(self) -> None:
        """Answer."""
        made = {"object": "model", "created": int(self.front.began), "owned_by": "peft_nb"}
        data = [
            {"id": word, **made, "versions": [version.label for version in target.versions]}
            for word, target in self.front.targets.items()
        ]
        data += [{"id": word, **made, "versions": []} for word in (*self.front.routers, BASE)]
        self.finish({"object": "list", "data": data})


class Status(Handler):
    """What the panel shows."""

    def get(self) -> None:
        """Answer."""
        self.finish(self.front.status())


class Feedback(Handler):
    """What a client says of an answer."""

    async def post(self) -> None:
        """Keep it."""
        said = feedback.checked(self.read(self.request.body, len(self.request.body)))
        await asyncio.to_thread(self.front.answers.tell, said)
        self.finish({"id": said.id, "object": "feedback"})


@stream_request_body
class Completions(Handler):
    """Prompts and conversations."""

    def initialize(self, front: Front) -> None:
        """Begin with nothing."""
        super().initialize(front)
        self.got = bytearray()
        self.length = 0
        self.entered = self.gone = False
        self.documents: list[Passage] = []
        self.route: Route | None = None
        self.asked = ""  # the name of the router, where one was asked
        self.id = f"answer-{uuid4().hex}"  # by which a client can say something of it

    def data_received(self, chunk: bytes) -> None:
        """Keep what is not too long."""
        self.length += len(chunk)
        if self.length <= self.front.limits.body_bytes:
            self.got += chunk

    async def post(self) -> None:
        """Answer, as soon as it is this request's turn."""
        front, limits = self.front, self.front.limits
        body = checked(self.request.path, self.read(self.got, self.length))
        if body.get("model") not in front.routers:
            found(body.get("model"), front.targets, BASE, front.routers)
        if front.inside >= limits.slots + limits.queue:
            raise _busy(f"{front.inside} requests are being answered or wait", 1)
        front.inside += 1
        try:
            self.route = await front.route(body)
            if self.route:
                self.asked, body["model"] = body["model"], self.route.name
                self.set_header("X-Routed-To", self.route.name)
                self.set_header("X-Route-Confidence", f"{self.route.confidence:.3f}")
            await self._answer(body)
        except BaseException:
            front.traffic.fail(body["model"])
            raise
        finally:
            front.inside -= 1

    async def _answer(self, body: dict[str, Any]) -> None:
        front, path, began = self.front, self.request.path, time.monotonic()
        user = body.get("user") or uuid4().hex
        version = front.version(body["model"], user)
        blend = str(self.route.weights or "") if self.route else ""
        async with front.turns.of("" if front.mixes else f"{version.label if version else BASE}{blend}"):
            for left in (1, 0):  # an engine that dies before it has said anything is replaced meanwhile
                engine, version, adapter = await front.chosen(body["model"], user)
                self.label = version.label if version else BASE
                self.set_header("X-Model-Version", self.label)
                given, self.documents = await front.behind_documents(path, body, version)
                stream = _Stream(self, bool((body.get("stream_options") or {}).get("include_usage")))
                engine.busy += 1
                try:
                    asked = told(path, given, version)
                    with engine.slot(self._mixed(engine, adapter, user), asked) as place:
                        if body.get("stream"):
                            usage, text = await self._streamed(engine, asked | place, stream)
                        else:
                            usage, text = await self._whole(engine, asked | place)
                    break
                except (HTTPStreamClosedError, ConnectionError, OSError):
                    if self.gone:
                        raise RefusedError(499, "the client has gone") from None
                    ended = _busy("the engine ended while it was answering", 2)
                    if stream.begun:
                        self.write(b"data: " + json.dumps(ended.body).encode() + b"\n\n")
                    if stream.begun or not left:
                        raise ended from None
                    await front.ended(engine)
                finally:
                    engine.busy -= 1
        seconds = time.monotonic() - began
        tokens = usage.get("completion_tokens", 0)
        front.traffic.add(body["model"], self.label, seconds, tokens)
        routed = {}
        if self.route:
            front.traffic.add(self.asked, self.route.name, seconds, tokens)
            routed = {"router": self.asked, "confidence": round(self.route.confidence, 3), "why": self.route.why}
        front.answers.add(self.id, body, text, version.run if version else None)
        if front.log:
            front.log.write(
                id=self.id,
                user=body.get("user"),
                asked=body.get("messages", body.get("prompt")),
                answer=text,
                model=body["model"],
                version=self.label,
                run=version.run if version else None,
                seconds=round(seconds, 3),
                prompt_tokens=usage.get("prompt_tokens"),
                completion_tokens=usage.get("completion_tokens"),
                **routed,
            )
        if not self.gone:
            self.finish()

    def _mixed(self, engine: Engine, adapter: str | None, user: str) -> dict[str, float]:
        """The adapters that answer, by weight: several where a router blends and this engine holds them all."""
        front, weights = self.front, self.route.weights if self.route and engine.blends else {}
        mixed = dict[str, float]()
        for name, weight in weights.items():
            version = front.version(name, user)
            files = front.files.get(version.run) if version else None
            if files is None or files.adapter not in engine.load.adapters:
                mixed.clear()
                break
            mixed[files.adapter] = weight
        if mixed:
            self.set_header("X-Blended", ", ".join(f"{name}={weight:g}" for name, weight in weights.items()))
        return mixed or ({adapter: 1.0} if adapter else {})

    async def _whole(self, engine: Engine, asked: dict[str, Any]) -> tuple[dict[str, Any], str]:
        response = await self.front.client.fetch(_request(engine, self.request.path, asked), raise_error=False)
        if response.code == 599:
            raise response.error or HTTPStreamClosedError("the engine has gone")
        if response.code >= 400:
            _refuse(response.code, response.body)
        answer = json.loads(response.body)
        answer |= {"id": self.id, "model": self.label}
        answer.pop("timings", None)
        self.write(answer | self.shown())
        return answer.get("usage") or {}, "\n".join(map(_text, answer["choices"]))

    async def _streamed(self, engine: Engine, asked: dict[str, Any], stream: _Stream) -> tuple[dict[str, Any], str]:
        request = _request(engine, self.request.path, asked)
        request.header_callback, request.streaming_callback = stream.header, stream.chunk
        response = await self.front.client.fetch(request, raise_error=False)
        if stream.status >= 400:
            _refuse(stream.status, bytes(stream.rest))
        if response.code == 599:
            raise response.error or HTTPStreamClosedError("the engine has gone")
        return stream.usage, "".join(stream.texts)

    def shown(self) -> dict[str, Any]:
        """What is behind the answer, told once: with the answer, or with its first token."""
        documents, self.documents = self.documents, []
        return {"documents": [vars(one) for one in documents]} if documents else {}

    def on_connection_close(self) -> None:
        """Note that nobody waits any more; what streams is then not written on."""
        self.gone = True


class _Stream:
    """Events of the engine on their way to a client."""

    def __init__(self, handler: Completions, usage_wanted: bool) -> None:
        self.handler, self.usage_wanted = handler, usage_wanted
        self.status, self.begun = 0, False
        self.rest = bytearray()
        self.usage: dict[str, Any] = {}
        self.texts: list[str] = []

    def header(self, line: str) -> None:
        """Read the status off the first line."""
        if line.startswith("HTTP/"):
            self.status = int(line.split()[1])

    def chunk(self, data: bytes) -> None:
        """Pass on whole events."""
        if self.handler.gone:
            raise StreamClosedError  # which ends the engine's work on it
        self.rest += data
        if self.status >= 400:
            return
        *events, rest = bytes(self.rest).split(b"\n\n")
        self.rest = bytearray(rest)
        passed = b"".join(self._passed(event) for event in events)
        if passed:
            self.begun = True
            self.handler.set_header("Content-Type", "text/event-stream")
            self.handler.set_header("Cache-Control", "no-cache")
            self.handler.write(passed)
            IOLoop.current().add_future(self.handler.flush(), lambda done: done.exception())  # type: ignore[arg-type]

    def _passed(self, event: bytes) -> bytes:
        if not event.strip():
            return b""
        kind, _, data = event.strip().partition(b": ")
        if kind != b"data" or data == b"[DONE]":
            return event.strip() + b"\n\n"
        told = json.loads(data)
        told.pop("timings", None)
        if usage := told.get("usage"):
            self.usage = usage
            if not told.get("choices") and not self.usage_wanted:
                return b""
        if "choices" in told:
            told |= {"id": self.handler.id, "model": self.handler.label, **self.handler.shown()}
            self.texts += [_text(choice) for choice in told["choices"]]
        return b"data: " + json.dumps(told, ensure_ascii=False).encode() + b"\n\n"


def _request(engine: Engine, path: str, asked: Mapping[str, Any]) -> HTTPRequest:
    return HTTPRequest(
        engine.address + path,
        method="POST",
        headers={"Authorization": f"Bearer {engine.key}", "Content-Type": "application/json"},
        body=json.dumps(asked),
        request_timeout=LONGEST_S,
        connect_timeout=10,
    )


def _refuse(status: int, body: bytes) -> None:
    """Tell a client what the engine refused."""
    try:
        error = json.loads(body)["error"]
        message, kind = str(error["message"]), str(error.get("type") or "invalid_request_error")
    except (ValueError, KeyError, TypeError):
        message, kind = "the engine could not answer", "server_error"
    raise RefusedError(status, message, kind)


def _text(choice: Mapping[str, Any]) -> str:
    said = choice.get("message") or choice.get("delta") or choice
    return str(said.get("content") or said.get("text") or "")
