"""Language models that write questions and answers about chunks: one of this machine, or one behind an address."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from peft_nb.documents.chunks import Chunk
from peft_nb.documents.synthesis import Write
from peft_nb.documents.templates import Drafted
from peft_nb.errors import DataError

ASKED = 2  # questions about a chunk
LONGEST = 400  # tokens of what is written about one
KEY = "OPENAI_API_KEY"
PATIENCE_S = 120.0
AT_ONCE = 4  # requests
LOOPBACK = ("127.0.0.1", "localhost", "::1")
SMALL = 1_000_000_000  # parameters; those of fewer seldom write what the text says

_PAIR = re.compile(
    r"^\W*(?:Q|Question)\s*\d*\W*:[\s*_]*(?P<question>.+?)\s*\n\W*(?:A|Answer)\s*\d*\W*:[\s*_]*(?P<answer>.+?)\s*"
    r"(?=\n\W*(?:Q|Question)\s*\d*\W*:|\Z)",
    re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


class _Stay(HTTPRedirectHandler):
    """Follows no redirection, which could take the key somewhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


def asked(chunk: Chunk) -> str:
    """What a model is asked about a chunk."""
    where = f" (from {chunk.source}, {chunk.place})"
    return (
        f"Read this text{where}:\n\n{chunk.searched}\n\nWrite {ASKED} questions that somebody who does not see "
        "the text could ask, each with a short answer that uses the words of the text alone. Write nothing else, in "
        "this form:\nQ: …\nA: …"
    )


def pairs(text: str) -> list[Drafted]:
    """Read the questions and answers in what a model wrote; those that are in no such form are left out."""
    found = [
        Drafted(*(" ".join(match[name].split()) for name in ("question", "answer"))) for match in _PAIR.finditer(text)
    ]
    return found[:ASKED]


def local(model: Any, namespace: Mapping[str, Any] | None = None) -> tuple[Write, int]:
    """Let a model of this machine write.

    Parameters
    ----------
    model : Run, str or tuple
        A run, whose adapter is used; an alias, a folder or a name on the hub; or a live ``(model, tokenizer)`` pair.
    namespace : mapping, optional
        The notebook's variables.

    Returns
    -------
    write : callable
        Takes chunks and writes about them.
    parameters : int
        How many the model has.
    """
    from peft_nb.evaluation.generate import generate
    from peft_nb.models.load import load
    from peft_nb.models.resolve import resolve
    from peft_nb.serving.adapter_files import is_run
    from peft_nb.system import resources
    from peft_nb.training.probe import fastest_dtype

    if is_run(model):
        network, tokenizer = model.model, model.tokenizer
    else:
        device = resources.device()
        found = load(
            resolve(model, namespace=namespace), dtype=lambda config: fastest_dtype(config, device), device=device
        )
        network, tokenizer = found.model, found.tokenizer

    def write(chunks: Sequence[Chunk]) -> list[list[Drafted]]:
        prompts = [asked(one) for one in chunks]
        return [pairs(text) for text in generate(network, tokenizer, prompts, max_new_tokens=LONGEST)]

    return write, sum(one.numel() for one in network.parameters())


def remote(address: str, model: str) -> Write:
    """Let a model behind an OpenAI-compatible address write.

    Parameters
    ----------
    address : str
        Such as ``https://api.example.org/v1``. The key is read from the environment, ``OPENAI_API_KEY``, and is sent
        over https, or to this machine, alone.
    model : str
        Its name there.

    Returns
    -------
    callable
        Takes chunks and writes about them; raises a DataError for what the other side refuses.

    Raises
    ------
    DataError
        If it is no such address.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise DataError(f"address: {address!r} is none; write one such as https://api.example.org/v1")
    if parts.username or parts.password:
        raise DataError(f"address: it holds a password; set the key as {KEY} in the environment")
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise DataError(f"address: texts and keys are not sent unencrypted to {parts.hostname}; use https")
    headers = {"Content-Type": "application/json"}
    if key := os.environ.get(KEY):
        headers["Authorization"] = f"Bearer {key}"
    send = build_opener(_Stay).open

    def one(chunk: Chunk) -> list[Drafted]:
        body: dict[str, Any] = {"model": model, "temperature": 0, "max_tokens": LONGEST}
        body["messages"] = [{"role": "user", "content": asked(chunk)}]
        request = Request(f"{address.rstrip('/')}/chat/completions", json.dumps(body).encode(), headers)
        try:
            with send(request, timeout=PATIENCE_S) as reply:
                return pairs(json.load(reply)["choices"][0]["message"]["content"])
        except HTTPError as error:
            hint = f"; set {KEY} in the environment" if error.code == 401 else ""
            raise DataError(f"{parts.hostname} answers {error.code} {error.reason}{hint}") from None
        except (URLError, OSError) as error:
            why = getattr(error, "reason", error)
            raise DataError(f"{parts.hostname} cannot be reached ({why}); check the address") from None
        except (ValueError, KeyError, IndexError, TypeError):
            raise DataError(f"{parts.hostname} answers with what is no chat completion; check the address") from None

    def write(chunks: Sequence[Chunk]) -> list[list[Drafted]]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(one, chunks))

    return write
