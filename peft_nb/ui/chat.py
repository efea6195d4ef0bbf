"""``%peft chat`` and ``peft_nb.chat``: a conversation with runs and their base model, each with its own history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

from peft_nb.data.conversations import Message
from peft_nb.data.prompts import Prompt
from peft_nb.documents.passages import Passage
from peft_nb.errors import RunError, nearest
from peft_nb.runs.compare import BASE, named
from peft_nb.runs.run import Run, load
from peft_nb.store import Store
from peft_nb.store.votes import EDIT
from peft_nb.system.display import Displayed, panel_of
from peft_nb.ui import side_by_side, wording
from peft_nb.ui.differences import clean
from peft_nb.ui.router import Router
from peft_nb.ui.style import MUTED
from peft_nb.ui.transcription import Transcription, listener
from peft_nb.ui.trial import Trial, only


@dataclass(frozen=True)
class Turn:
    """One prompt and its answers.

    Attributes
    ----------
    prompt : str
        What was said.
    run : str
        The name of the run that answered.
    answer, base : str
        What the run and the base model said; empty where they were stopped before.
    good : bool or None
        How the run's answer was rated, if it was.
    edited : str
        What the run should have answered, if somebody wrote that.
    documents : tuple of Passage
        What was put before the prompt, in the order of the numbers by which answers cite it.
    routed : str
        By whom it was found that this run should answer, and how sure that is; empty where it was chosen.
    """

    prompt: str
    run: str
    answer: str = ""
    base: str = ""
    good: bool | None = None
    edited: str = ""
    documents: tuple[Passage, ...] = ()
    routed: str = ""

    @property
    def rating(self) -> str:
        """Say how the run's answer was rated; nothing where it was not."""
        return "" if self.good is None else "rated good" if self.good else "rated bad"

    @property
    def note(self) -> str:
        """Say how the run was found, how its answer was rated and whether it was edited."""
        return ", ".join(filter(None, (self.routed, self.rating, "edited" if self.edited else "")))


def chat(*runs: Run | Router | str, store: Store | None = None) -> Chat | Trial | Transcription:
    """Talk to runs on one base, and to the base model beside them; try one run that gives labels or hears clips.

    Parameters
    ----------
    *runs : Run, Router or str
        Runs, or their ids or names in the store. The first answers until another is chosen. A router alone lets each
        prompt be answered by the run that it is for.
    store : Store, optional
        Where ids and names are looked up; default ``peft_runs`` in the working folder.

    Returns
    -------
    Chat, Trial or Transcription
        Shown by a notebook; ``.ask("…")``, of a chat ``.rate(…)``, ``.messages()``, ``.clear()``. A trial, for one run
        whose task writes no texts, tells the probability of each class. A transcription, for one run that writes down
        speech, takes clips, and its panel one's own voice.

    Raises
    ------
    RunError
        If there is no run, the runs are on different bases, or one of several gives labels instead of texts.
    StoreError
        If there is no such run.
    """
    found: dict[Path, Run] = {}
    for one in runs:
        if isinstance(one, Router):
            if len(runs) > 1:
                raise RunError("a router takes part alone; its runs can be chosen there too")
            return Chat(one.runs, one)
        run = one if isinstance(one, Run) else load(one, store=store)
        found.setdefault(run.folder, run)
    return conversation({name: run for name, run in named(list(found.values())).items() if run})


def conversation(runs: dict[str, Run]) -> Chat | Trial | Transcription:
    """Begin a chat with what names stand for, or the trial of one run that writes no texts; see :func:`chat`."""
    if hears := listener(runs):
        return Transcription(hears)
    return Trial(labels) if (labels := only(runs)) else Chat(runs)


class Chat(Displayed):
    """A conversation; each side gets its own answers to the earlier prompts along with the next one.

    Attributes
    ----------
    runs : dict of str to Run
        Who can answer, by name; each is loaded when it first does, and stays.
    router : Router or None
        What finds the run that a prompt is for; it can be asked by its name, and is asked unless a run is chosen.
    turns : list of Turn
        What was said so far.
    forgotten : int
        How many of the oldest turns did not fit into the model when it was last asked, and were not sent along.
    """

    panel = cached_property(panel_of)  # always the same one, which may be writing an answer

    def __init__(self, runs: dict[str, Run], router: Router | None = None) -> None:
        self.runs, self.router = dict(runs), router
        self.turns: list[Turn] = []
        self.forgotten = 0
        self._asked: Prompt = ""  # what the run whose answer is the last was given
        if not runs:
            raise RunError("there is nobody to talk to; name a run")
        bases = {name: run.facts.base or run.spec.model for name, run in runs.items()}
        for name, run in runs.items():
            if not run.adapter.task.generates:
                raise RunError(f"{name} {run.adapter.task.instead}")
            if bases[name] != bases[first := next(iter(runs))]:
                raise RunError(f"{first} is on {bases[first]} and {name} is on {bases[name]}: chat with one at a time")

    def ask(
        self,
        prompt: str,
        *,
        run: str | None = None,
        max_new_tokens: int = 128,
        temperature: float = 0.0,
        seed: int = 0,
        documents: Any = None,
        listen: Callable[[Turn], bool | None] | None = None,
    ) -> Turn:
        """Say something, and let first a run and then the base model answer.

        Parameters
        ----------
        prompt : str
            What to say. A run that was taught plain texts continues it, without what was said before.
        run : str, optional
            Who answers; default the router, else the first of :attr:`runs`.
        max_new_tokens : int
            Most tokens of an answer; default 128.
        temperature : float
            0 is greedy decoding; above, tokens are sampled with this temperature.
        seed : int
            Fixes the draw, alike for both.
        documents : bool or Index, optional
            Whether what an index holds on the prompt is put before it, for both; by default if the run learned with
            documents, from the index that it learned with.
        listen : callable, optional
            Gets the turn so far after every token; once it returns True nothing more is said.

        Returns
        -------
        Turn
            Also the last of :attr:`turns`.

        Raises
        ------
        RunError
            If the prompt is empty, or there is no such run or it cannot be asked now.
        DataError, StoreError
            If no index is meant by ``documents``, or it is gone.
        """
        name = self.names[0] if run is None else run
        if name not in self.names:
            raise RunError(
                f"{name} does not take part{nearest(name, self.names) or '; choose ' + ', '.join(self.names)}"
            )
        if not prompt.strip():
            raise RunError("nothing was said; write something to be answered")
        name, routed = self._routed(name, prompt)
        asked, turn, ended = (
            self.runs.get(name, next(iter(self.runs.values()))),
            Turn(prompt, name, routed=routed),
            False,
        )
        self.forgotten = 0
        given: Prompt = prompt
        question: Message = {"role": "user", "content": prompt}
        plain = not asked.facts.chat
        (laid,), (passages,) = asked.adapter.retrieve([prompt if plain else [question]], documents)
        turn = replace(turn, documents=tuple(passages))
        for side in ("answer", "base"):

            def heard(answers: Sequence[str], side: str = side, turn: Turn = turn) -> bool:
                nonlocal ended
                ended = bool(listen and listen(_said(turn, side, answers[0])))
                return ended

            before = [] if plain else self.messages(base=side == "base")
            kept = [] if plain else fitting(asked, [*before, *laid], max_new_tokens)
            self.forgotten = max(self.forgotten, 0 if plain else (len(before) + 1 - len(kept)) // 2)
            said: Prompt = prompt if plain else kept
            if side == "answer":  # what is voted on is what was asked
                given = prompt if plain else [*kept[:-1], question]
            options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
            options["documents"] = False  # they are there already
            adapter = side == "answer" and name != BASE
            answer = asked.generate([said], adapter=adapter, listen=heard, **options)[0]
            turn = _said(turn, side, answer)
            if ended:
                break
        self.turns.append(turn)
        self._asked = given
        return turn

    @property
    def names(self) -> list[str]:
        """Who can be asked: the router first, then the runs."""
        return [*([self.router.name] if self.router else []), *self.runs]

    def _routed(self, name: str, prompt: str) -> tuple[str, str]:
        """Whom a prompt is for, and how that was found."""
        if not self.router or name != self.router.name:
            return name, ""
        found = self.router.route(prompt)
        return found.name, f"by {self.router.name}, {found.confidence:.0%}"

    def rate(self, good: bool) -> Turn:
        """Keep in the store whether the run's last answer is good; :func:`peft_nb.votes` gives the ratings as rows.

        Parameters
        ----------
        good : bool
            A thumb up or down; a later one on the same answer replaces it.

        Returns
        -------
        Turn
            The last of :attr:`turns`, rated.

        Raises
        ------
        RunError
            If there is no answer yet.
        StoreError
            If the store refuses.
        """
        turn, run, prompt = self._answered()
        run.store.vote(prompt, {run.id: turn.answer}, run.id if good else None)
        self.turns[-1] = turn = replace(turn, good=good)
        return turn

    def edit(self, text: str) -> Turn:
        """Keep in the store what the run's last answer should have been; :func:`peft_nb.feedback` gives it as rows.

        Parameters
        ----------
        text : str
            The better answer. A later one for the same answer counts instead of it.

        Returns
        -------
        Turn
            The last of :attr:`turns`, with what was written.

        Raises
        ------
        RunError
            If there is no answer yet, or what is written is empty or the answer itself.
        StoreError
            If the store refuses.
        """
        turn, run, prompt = self._answered()
        if text.strip() in ("", turn.answer.strip()):
            raise RunError("nothing was edited; write what the answer should have been")
        run.store.vote(prompt, {run.id: turn.answer, EDIT: text}, EDIT)
        self.turns[-1] = turn = replace(turn, edited=text)
        return turn

    def _answered(self) -> tuple[Turn, Run, Prompt]:
        """The last turn, whose answer it is and what that run was asked."""
        turn = self.turns[-1] if self.turns else None
        if not turn or not turn.answer:
            raise RunError("there is no answer to rate yet; say something first")
        if turn.run not in self.runs:
            raise RunError("the base model answered alone, and only answers of runs are rated")
        asked = self._asked
        prompt = asked[0]["content"] if len(asked) == 1 and not isinstance(asked, str) else asked
        return turn, self.runs[turn.run], prompt

    def messages(self, *, base: bool = False) -> list[Message]:
        """Give the conversation as a list of messages, such as ``run.generate([messages])`` takes.

        Parameters
        ----------
        base : bool, default False
            The base model's side of it, instead of the runs'.

        Returns
        -------
        list of dict
            ``role`` and ``content``, the user's and the assistant's in turn; without what this side left unanswered.
        """
        sides = [(turn.prompt, turn.base if base else turn.answer) for turn in self.turns]
        roles = ("user", "assistant")
        return [
            {"role": role, "content": text}
            for prompt, answer in sides
            if answer
            for role, text in zip(roles, (prompt, answer), strict=True)
        ]

    def clear(self) -> None:
        """Forget what was said."""
        self.turns.clear()
        self.forgotten = 0

    def __repr__(self) -> str:
        lines = [f'chat with {", ".join(self.runs)} beside the base model; ask("…") says something']
        for turn in self.turns:
            rated = f" ({turn.note})" if turn.note else ""
            lines += ["", turn.prompt, f"  {turn.run}{rated}: {turn.answer}", f"  {BASE}: {turn.base}"]
            lines += [f"  [{n}] {one.source}, {one.place}" for n, one in enumerate(turn.documents, start=1)]
        return clean("\n".join(lines))

    def _repr_html_(self) -> str:
        return html(self.turns) or f"<p>{escape(repr(self))}</p>"


def _said(turn: Turn, side: str, text: str) -> Turn:
    return replace(turn, answer=text) if side == "answer" else replace(turn, base=text)


def fitting(run: Run, messages: list[Message], longest: int) -> list[Message]:
    """Leave the oldest turns out of a conversation that is too long for the model.

    Parameters
    ----------
    run : Run
        Who is asked; its system prompt always stays.
    messages : list of dict
        The user's and the assistant's in turn, the user's last, which always stays as well.
    longest : int
        Most tokens of an answer, for which room is kept; at most half of what the model can hold.

    Returns
    -------
    list of dict
        What fits into as many tokens as the model has positions for.
    """
    from peft_nb.data.rendering import Renderer

    places = getattr(run.model.config.get_text_config(), "max_position_embeddings", None)
    renderer, room = Renderer(run.tokenizer), places and places - min(longest, places // 2)
    while room and len(messages) > 2 and len(renderer.render(messages, system=run.spec.system, generation=True)) > room:
        messages = messages[2:]
    return messages


def passages(found: Sequence[Passage]) -> str:
    """Draw the documents behind an answer, folded; all of them are escaped."""
    if not found:
        return ""
    shown = "".join(
        f'<li style="margin:4px 0"><div style="{MUTED}">{escape(one.source)}, {escape(one.place)}'
        f' · score {one.score:.4f}</div><div style="white-space:pre-wrap;overflow-wrap:anywhere" dir="auto">'
        f"{escape(one.text)}</div></li>"
        for one in found
    )
    told = wording.count(len(found), "document")
    return f'<details><summary style="{MUTED}">{told} behind the answers</summary><ol>{shown}</ol></details>'


def html(turns: Sequence[Turn]) -> str:
    """Draw a conversation: each prompt, and below it the answers beside each other.

    Parameters
    ----------
    turns : sequence of Turn
        What was said; all of it is escaped, and its line breaks are kept.

    Returns
    -------
    str
        HTML, empty where nothing was said.
    """
    drawn = [
        side_by_side.turn(turn.prompt, {turn.run: turn.answer, BASE: turn.base}, {turn.run: turn.note})
        + passages(turn.documents)
        for turn in turns
    ]
    return clean("".join(drawn))
