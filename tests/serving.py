"""Runs to serve, and how a test asks a server."""

from __future__ import annotations

from typing import Any

import httpx

from peft_nb.events import silent
from peft_nb.serving import server, targets
from peft_nb.serving.server import Server
from peft_nb.store import Store

TOKENS = 10  # after which near ties of the random base fall differently
PROMPTS = ["Where is my parcel?", "Can I pay later?", "My screen is black.", "Do you open on Sundays?"]


def serve(store: Store, *words: str, detach: bool = False, **options: Any) -> Server:
    """Start a server of some runs."""
    small = {"threads": 1, "context": 512, "outtype": "f32"}  # near ties of random weights fall as in transformers
    names = targets.pinned(store, words)
    return server.start(server.prepared(names, store, silent, **{**small, **options}), detach)


def post(server: Server, model: str, prompt: str = PROMPTS[0], **fields: Any) -> httpx.Response:
    """Ask a model in a conversation of one turn."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": TOKENS, **fields}
    return httpx.post(f"{server.address}/v1/chat/completions", json=body, timeout=60)


def said(server: Server, model: str, prompt: str = PROMPTS[0], **fields: Any) -> str:
    """Give the answer of a model."""
    text: str = post(server, model, prompt, **fields).raise_for_status().json()["choices"][0]["message"]["content"]
    return text.strip()
