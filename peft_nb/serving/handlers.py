"""What clients talk to: HTTP as OpenAI's, bounded and streamed."""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from tornado.httpclient import AsyncHTTPClient, HTTPRequest
from tornado.ioloop import IOLoop
from tornado.iostream import StreamClosedError
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.web import Application, RequestHandler, stream_request_body

from peft_nb.documents.passages import Passage
from peft_nb.errors import PeftNbError
from peft_nb.serving import feedback
from peft_nb.serving.engine import Engine
from peft_nb.serving.front import Front
from peft_nb.serving.requests import CHAT, TEXT, RefusedError, busy, checked, found, told
from peft_nb.serving.targets import BASE

if TYPE_CHECKING:
    from peft_nb.serving.route import Route

LONGEST_S = 3600.0  # longest answer
DRAINED = 16  # times the limit of a request that are read, and thrown away, before the connection is cut


def application(front: Front) -> Application:
    """Make what an HTTP server serves.

    Parameters
    ----------
    front : Front
        Who answers.

    Returns
    -------
    tornado.web.Application
        Chat completions, completions, feedback, the list of models, health and status.
    """
    limits = front.limits
    front.client = AsyncHTTPClient(force_instance=True, max_clients=limits.slots + limits.queue + 1)
    paths = {
        CHAT: Completions,
        TEXT: Completions,
        feedback.PATH: Feedback,
        "/v1/models": Models,
        "/health": Health,
        "/status": Status,
    }
    how = {"front": front}
    handlers: list[Any] = [(path, kind, how) for path, kind in paths.items()]
    return Application(handlers, default_handler_class=Unknown, default_handler_args=how, log_function=lambda _: None)


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
            raise busy(f"{front.inside} requests are being answered or wait", 1)
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
                    ended = busy("the engine ended while it was answering", 2)
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
