"""What a request to an OpenAI-compatible server may hold, and what the engine is told of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from peft_nb.errors import RunError, nearest
from peft_nb.serving.targets import Target, Version

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_BOTH = {
    *("model", "stream", "stream_options", "user", "max_tokens", "temperature", "top_p", "top_k", "min_p", "n", "seed"),
    *("stop", "presence_penalty", "frequency_penalty", "repeat_penalty", "logit_bias", "logprobs"),
    *("grammar", "json_schema"),
}
_TOOLS = {"tools", "tool_choice", "parallel_tool_calls"}
FIELDS = {
    CHAT: _BOTH | _TOOLS | {"messages", "max_completion_tokens", "top_logprobs", "response_format", "documents"},
    TEXT: _BOTH | {"prompt"},
}
# As answers are made in the notebook: the most likely token each time, or drawn with a temperature alone.
USUAL = {"temperature": 0.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}


class RefusedError(RunError):
    """A request that is not answered.

    Attributes
    ----------
    status : int
        Of HTTP.
    kind, code, field : str or None
        As OpenAI's errors tell them.
    retry_s : int or None
        After which it may be tried again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        kind: str = "invalid_request_error",
        code: str | None = None,
        field: str | None = None,
        retry_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.kind, self.code, self.field, self.retry_s = status, kind, code, field, retry_s

    @property
    def body(self) -> dict[str, Any]:
        """What the client is told."""
        said = {"message": str(self), "type": self.kind, "param": self.field, "code": self.code}
        return {"error": said}


def busy(message: str, seconds: int) -> RefusedError:
    """A refusal that will not last.

    Parameters
    ----------
    message : str
        What is busy.
    seconds : int
        After which it may be tried again.
    """
    return RefusedError(503, f"{message}; try again", "server_error", "overloaded", retry_s=seconds)


def checked(path: str, body: Any) -> dict[str, Any]:
    """Refuse what would not have the effect that it asks for.

    Parameters
    ----------
    path : str
        :data:`CHAT` or :data:`TEXT`.
    body : object
        What came, as JSON.

    Returns
    -------
    dict
        The same.

    Raises
    ------
    RefusedError
        With the field and how to write it.
    """
    if not isinstance(body, dict):
        raise RefusedError(400, "the request is no JSON object")
    for field in body:
        if field not in FIELDS[path]:
            raise RefusedError(400, f"{field}: not known here{nearest(field, FIELDS[path])}; leave it out", field=field)
    for field, kind in (("model", str), ("user", str), ("stream", bool), ("documents", bool), ("stream_options", dict)):
        if body.get(field) is not None and not isinstance(body[field], kind):
            raise RefusedError(400, f"{field}: not a JSON {NAMES[kind]}", field=field)
    messages = body.get("messages")
    if path == CHAT and not (
        isinstance(messages, list) and messages and all(isinstance(one, dict) for one in messages)
    ):
        raise RefusedError(400, "messages: write a list such as [{'role': 'user', 'content': '…'}]", field="messages")
    if path == TEXT and not isinstance(body.get("prompt"), str):
        raise RefusedError(400, "prompt: write one text", field="prompt")
    return body


NAMES = {str: "string", bool: "boolean", dict: "object"}


def found(word: Any, targets: Mapping[str, Target], base: str, routers: Iterable[str] = ()) -> Target | None:
    """Find whom a request means; None is the base model. Routers are named among what else can be meant.

    Raises
    ------
    RefusedError
        404 with the names that there are.
    """
    if word == base:
        return None
    if isinstance(word, str) and word in targets:
        return targets[word]
    names = ", ".join([*targets, *routers, base])
    said = f"there is no model {word!r} here" if word else "model is missing"
    raise RefusedError(404, f"{said}; write one of {names}", code="model_not_found", field="model")


def told(path: str, body: Mapping[str, Any], version: Version | None) -> dict[str, Any]:
    """Write down for the engine what it shall do.

    Parameters
    ----------
    path : str
        As of :func:`checked`.
    body : mapping
        The request.
    version : Version or None
        Who answers.

    Raises
    ------
    RefusedError
        If it was not trained for such requests.
    """
    given = USUAL | {field: value for field, value in body.items() if value is not None}
    if "max_completion_tokens" in given:
        given["max_tokens"] = given.pop("max_completion_tokens")
    if version and path == CHAT:
        if not version.chat:
            raise RefusedError(400, f"{version.label} was trained on plain texts without a chat template; use {TEXT}")
        roles = [message.get("role") for message in body["messages"]]
        if version.system and not {"system", "developer"} & {*roles}:
            given["messages"] = [{"role": "system", "content": version.system}, *body["messages"]]
    if given.get("stream"):
        given["stream_options"] = {"include_usage": True}
    return given
