"""The chat panel: one prompt, the answers of an adapter and of its base model as they grow."""

from __future__ import annotations

import threading
import time
from collections.abc import MutableMapping
from dataclasses import replace
from keyword import iskeyword
from typing import Any, cast

import ipywidgets

from peft_nb.errors import CommandError
from peft_nb.runs.compare import BASE
from peft_nb.system.frontend import variables
from peft_nb.ui import wording
from peft_nb.ui.chat import Chat, Turn, html
from peft_nb.ui.panels.panel import FIELD, LABEL, Panel, Tell, button, progress, row
from peft_nb.ui.style import MUTED

SETTLE_S = 0.15  # the front end says that Enter was pressed just before it says what was written
NUMBER = {"width": "150px"}


class ChatPanel(Panel):
    """Talk to adapters and their base model side by side.

    Parameters
    ----------
    talk : Chat
        What :func:`peft_nb.chat` returns.

    Attributes
    ----------
    talk : Chat
        The conversation.
    message : ipywidgets.Text
        What is said next; Enter sends it.
    adapter, temperature, seed, longest : ipywidgets.Widget
        Who answers, and how.
    documents : ipywidgets.Checkbox
        Whether documents are put before what is said; seen where a run learned with some.
    thumbs : ipywidgets.Box
        What rates the adapter's last answer or keeps a better one; seen once there is one.
    better : ipywidgets.Textarea
        What the answer should have been; begins with what it is.
    """

    def __init__(self, talk: Chat) -> None:
        self.talk = talk
        self._stopped = threading.Event()
        self._turn: Turn | None = None  # as far as it has grown
        self._taken = ""  # what is being answered
        self._rated: list[tuple[int, str]] = []  # the answer below which thumbs are shown
        self._cut = False  # whether it was said that not all is sent along
        names = self.talk.names
        self.adapter = ipywidgets.Dropdown(options=names, description="Adapter", style=LABEL, layout=FIELD)
        self.temperature = ipywidgets.BoundedFloatText(
            value=0.0, min=0.0, max=2.0, step=0.1, description="Temperature", style=LABEL, layout=NUMBER
        )
        self.seed = ipywidgets.BoundedIntText(
            value=0, min=0, max=2**31 - 1, description="Seed", style=LABEL, layout=NUMBER
        )
        self.longest = ipywidgets.BoundedIntText(
            value=128, min=1, max=4096, description="Max new tokens", style=LABEL, layout={"width": "240px"}
        )
        learned = [run for run in self.talk.runs.values() if run.spec.documents]
        self.documents = ipywidgets.Checkbox(
            value=True, description="Documents", indent=False, layout={"width": "auto"}, style=LABEL
        )
        self.documents.layout.display = None if learned else "none"
        # Turned round, so that the newest turn stays in sight while it grows.
        self._said = ipywidgets.HTML(
            layout={"max_height": "60vh", "overflow": "auto", "display": "flex", "flex_flow": "column-reverse"},
            tabbable=True,
        )
        self.message = ipywidgets.Text(
            description="Message",
            placeholder="Write something, then press Enter",
            continuous_update=False,
            style=LABEL,
            layout={"width": "auto", "flex": "1 1 300px"},
        )
        self.message.on_msg(self._hear)
        self.better = ipywidgets.Textarea(
            description="Better answer", rows=2, style=LABEL, layout={"width": "auto", "flex": "1 1 300px"}
        )
        self.thumbs = row(
            button(
                "👍 Good answer", lambda: self.attempt(lambda: self._rate(True)), help="Rate the adapter's answer good"
            ),
            button(
                "👎 Bad answer", lambda: self.attempt(lambda: self._rate(False)), help="Rate the adapter's answer bad"
            ),
            self.better,
            button("Keep better answer", lambda: self.attempt(self._edit), help="Keep what it should have answered"),
        )
        self.variable = ipywidgets.Text(
            value="conversation", description="Variable", style=LABEL, layout={"width": "240px"}
        )
        super().__init__(
            "chat panel",
            [
                row(self.adapter, self.temperature, self.seed, self.longest, self.documents),
                self._said,
                self.thumbs,
                row(self.message, button("Send", self._press, primary=True), button("Stop", self.stop)),
                row(
                    button("Clear", lambda: self.attempt(self._clear), help="Start a new conversation"),
                    self.variable,
                    button("Keep", lambda: self.attempt(self._keep), help="Put the messages into a variable"),
                ),
            ],
        )
        self._draw()

    def send(self) -> None:
        """Let what is written be answered, unless an answer is being written; focus stays where it is."""
        self.in_background("answering", self._answer, self._over, self._grow)

    def stop(self) -> None:
        """End the answer that is being written, and keep what there is of it."""
        self._stopped.set()

    def _hear(self, field: ipywidgets.Text, content: dict[str, Any], buffers: object) -> None:
        if content.get("event") == "submit":
            self.send()

    def _press(self) -> None:
        self.message.focus()
        self.send()

    def _answer(self, tell: Tell) -> str:
        self._stopped.clear()
        time.sleep(SETTLE_S)
        self._taken, began = self.message.value, time.monotonic()

        def heard(turn: Turn) -> bool:
            self._turn = turn
            tell(f"{BASE if turn.base else turn.run} answers …")
            return self._stopped.is_set()

        how: dict[str, Any] = {"temperature": self.temperature.value, "seed": self.seed.value}
        how |= {"max_new_tokens": self.longest.value, "documents": None if self.documents.value else False}
        if run := self.talk.runs.get(self.adapter.value):  # a router finds out first
            run.adapter.open(progress(tell))
        self.talk.ask(self._taken, run=self.adapter.value, listen=heard, **how)
        self._taken = ""
        word = "stopped" if self._stopped.is_set() else "answered"
        cut, self._cut = not self._cut and self.talk.forgotten > 0, self.talk.forgotten > 0
        lost = "; the oldest turns no longer fit into the model and are not sent along any more" if cut else ""
        return f"{word} after {wording.duration(time.monotonic() - began)}{lost}"

    def _grow(self) -> None:
        """Show the answers so far; what is being answered leaves the field, for what is said next."""
        if self._taken and self.message.value == self._taken:
            self.message.value = ""
        self._draw()

    def _over(self) -> None:
        """Show the answers; what got none goes back into the field."""
        self._turn = None
        if self._taken and not self.message.value:
            self.message.value = self._taken
        elif not self._taken and self.talk.turns and self.message.value == self.talk.turns[-1].prompt:
            self.message.value = ""
        self._taken = ""
        self._draw()

    def _draw(self) -> None:
        turn = self._turn
        growing = [replace(turn, answer=turn.answer or "…", base=turn.base or "…")] if turn else []
        drawn = html([*self.talk.turns, *growing]) or f'<span style="{MUTED}">No messages yet.</span>'
        self._said.value = f'<div role="region" aria-label="conversation">{drawn}</div>'
        answered = self.talk.turns[-1:] if not growing else []
        self.thumbs.layout.display = "flex" if any(last.answer for last in answered) else "none"
        told = [(len(self.talk.turns), last.answer) for last in answered]
        if told != self._rated:  # and not what is being written, when only a thumb was given
            self.better.value = "".join(last.answer for last in answered)
        self._rated = told

    def _rate(self, good: bool) -> str:
        turn = self.talk.rate(good)
        self._draw()
        self.keep()
        return f"the answer of {turn.run} is {turn.rating}; peft_nb.votes(rated=True) gives all ratings as rows"

    def _edit(self) -> str:
        turn = self.talk.edit(self.better.value)
        self._draw()
        self.keep()
        return f"the better answer of {turn.run} is kept; peft_nb.feedback() gives all feedback as rows"

    def _clear(self) -> str:
        self.talk.clear()
        self._draw()
        return "conversation cleared"

    def _keep(self) -> str:
        name = self.variable.value.strip()
        if not name.isidentifier() or iskeyword(name):
            raise CommandError(f"{name!r} is no name for a variable; write one such as conversation")
        messages = self.talk.messages()
        cast(MutableMapping[str, Any], variables())[name] = messages
        return f"{name} holds {wording.count(len(messages), 'message')}"
