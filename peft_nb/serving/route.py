"""Which adapter a prompt is for: the nearest of all runs' own training prompts vote. Nothing is trained for it.

Adapters of any method can be told apart so, as long as the rows that they learned from are known.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

import numpy as np

from peft_nb.data.examples import Examples
from peft_nb.data.prompts import Prompt
from peft_nb.data.rendering import Renderer
from peft_nb.documents.embedding import Embedder
from peft_nb.errors import RunError, StoreError, nearest
from peft_nb.evaluation import regression
from peft_nb.events import Progress, silent
from peft_nb.system import files

if TYPE_CHECKING:
    import pandas

BASE = "base"
ENCODER = "minilm-l6"
EACH, IN_ALL, LEAST_EACH = 200, 20_000, 8  # training prompts of a run, of all together, and of a run at least
NEIGHBOURS = 10
SHARP = 0.1  # of similarity, by which a vote weighs e times less than that of the nearest row
FAR = 0.01  # of a run's own prompts lie that far from its others: what lies further is for none
LONGEST = 128  # tokens of a plain text that are taken for its prompt

Policy = Callable[[str, str | None], str | None]
"""Given a prompt and who asks; gives the adapter to take instead, ``"base"``, or None to leave it as it is."""


@dataclass(frozen=True)
class Neighbour:
    """A training prompt near to what was asked, whose run has a vote; ``similarity`` is the cosine."""

    adapter: str
    prompt: str
    similarity: float


@dataclass(frozen=True)
class Route:
    """Which adapter a prompt is for, and why.

    Attributes
    ----------
    prompt : str
        What was asked.
    name : str
        The adapter, or ``"base"`` for the base model.
    confidence : float
        From 0 to 1: its share of the votes; 0.99 where no row is near enough, 1 where a policy decided.
    votes : dict of str to float
        The share of each adapter that has one of the nearest rows, the highest first.
    neighbours : tuple of Neighbour
        The training rows that voted, the nearest first.
    why : str
        ``"nearest rows"``, ``"no row near enough"`` or ``"policy"``.
    weights : dict of str to float
        Who answers, and with what weight where adapters are blended; empty for one alone.
    """

    prompt: str
    name: str
    confidence: float
    votes: dict[str, float]
    neighbours: tuple[Neighbour, ...]
    why: str = "nearest rows"
    weights: dict[str, float] = field(default_factory=dict)

    @property
    def rows(self) -> pandas.DataFrame:
        """The training rows that decided, the nearest first: ``adapter``, ``prompt``, ``similarity``."""
        import pandas

        rows = [(one.adapter, one.prompt, one.similarity) for one in self.neighbours]
        return pandas.DataFrame(rows, columns=["adapter", "prompt", "similarity"])

    def __repr__(self) -> str:
        return f"<Route to {self.name}, {self.confidence:.0%}: {self.why}>"


class NearestRows:
    """Training prompts of several adapters, which vote on whom a new prompt is for.

    The ten nearest rows vote (Cover and Hart, 1967), each by ``exp(similarity / 0.1)``: those of the base model, and of
    the adapters that the prompt is near enough to. It is near enough where its nearest row of an adapter is no further
    than all but a hundredth of that adapter's rows are from the nearest other one of them: an adapter for narrow
    prompts wants them nearer than one for many kinds, and no labels are needed to find that out. What is near enough to
    no adapter is for the base model, or where that is no choice for whoever is nearest.

    Parameters
    ----------
    rows : mapping of str to sequence of str
        Prompts that each adapter learned from; those of the base model, if it is a choice, as ``"base"``.
    embedder : Embedder
        The encoder.
    cache : Path, optional
        Folder where vectors are kept by what they are of.
    progress : callable
        Told how far it is.
    """

    def __init__(
        self,
        rows: Mapping[str, Sequence[str]],
        embedder: Embedder,
        cache: Path | None = None,
        progress: Progress = silent,
    ) -> None:
        most = max(LEAST_EACH, min(EACH, IN_ALL // max(1, len(rows))))
        chosen = {name: some(prompts, most) for name, prompts in rows.items()}
        vectors = [_embedded(prompts, embedder, cache, progress) for prompts in chosen.values()]
        told = {name: _least(found) for name, found in zip(chosen, vectors, strict=True)}
        self._set(chosen, np.concatenate(vectors), told, embedder)

    def _set(
        self, rows: Mapping[str, Sequence[str]], vectors: np.ndarray, least: Mapping[str, float], embedder: Embedder
    ) -> None:
        self.names, self.least, self.embedder = list(rows), dict(least), embedder
        self._prompts = [prompt for prompts in rows.values() for prompt in prompts]
        counts = [len(prompts) for prompts in rows.values()]
        self._of, self._starts = np.repeat(np.arange(len(rows)), counts), np.cumsum([0, *counts])[:-1]
        self._least = np.array([-1.0 if name == BASE else least[name] for name in self.names])
        self._vectors = vectors
        self._lock = threading.Lock()

    def routes(self, prompts: Sequence[str]) -> list[Route]:
        """Route prompts, all in one batch."""
        with self._lock:
            asked = self.embedder.embed(prompts)
        return [self.vote(prompt, vector) for prompt, vector in zip(prompts, asked, strict=True)]

    def vote(self, prompt: str, vector: np.ndarray) -> Route:
        """Route a prompt that is embedded."""
        similar = self._vectors @ vector
        near = np.maximum.reduceat(similar, self._starts) >= self._least
        if not near.any():  # the base is near to everything, if it is a choice
            near[:] = True
        if [self.names[number] for number in np.flatnonzero(near)] == [BASE]:
            votes, rows = self._ballot(similar, np.ones(len(similar), dtype=bool))
            return Route(prompt, BASE, 1 - FAR, votes, rows, "no row near enough")
        votes, rows = self._ballot(similar, near[self._of])
        name = next(iter(votes))
        return Route(prompt, name, votes[name], votes, rows)

    def _ballot(self, similar: np.ndarray, allowed: np.ndarray) -> tuple[dict[str, float], tuple[Neighbour, ...]]:
        """Let the nearest of some rows vote: the shares, the highest first, and the rows, the nearest first."""
        similar = np.where(allowed, similar, -np.inf)
        few = np.arange(len(similar))
        if len(similar) > NEIGHBOURS:
            few = np.argpartition(-similar, NEIGHBOURS)[:NEIGHBOURS]
        few = few[np.argsort(-similar[few], kind="stable")]
        few = few[allowed[few]]
        weights = np.exp((similar[few] - similar[few[0]]) / SHARP)
        shares: defaultdict[str, float] = defaultdict(float)
        for place, weight in zip(few, weights / weights.sum(), strict=True):
            shares[self.names[self._of[place]]] += float(weight)
        rows = tuple(Neighbour(self.names[self._of[at]], self._prompts[at], float(similar[at])) for at in few)
        return dict(sorted(shares.items(), key=lambda one: -one[1])), rows

    def save(self, folder: Path, **more: Any) -> None:
        """Write it down for another process, in place of what was there, with what else that shall know."""
        rows: dict[str, list[str]] = {name: [] for name in self.names}
        for prompt, number in zip(self._prompts, self._of, strict=True):
            rows[self.names[number]].append(prompt)
        with files.atomic_folder(folder, overwrite=True) as staging:
            np.save(staging / "vectors.npy", self._vectors, allow_pickle=False)
            told = {"encoder": self.embedder.model, "rows": rows, "least": self.least, **more}
            (staging / "rows.json").write_text(json.dumps(told, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> NearestRows:
        """Read what was written down.

        Raises
        ------
        StoreError
            If it is not there or damaged.
        """
        found = cls.__new__(cls)
        try:
            told = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
            vectors = np.load(folder / "vectors.npy")
            found._set(told["rows"], vectors, told["least"], Embedder(told["encoder"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StoreError(f"the router in {folder} cannot be read ({error}); serve it again") from error
        return found


@dataclass(frozen=True)
class Gate:
    """What a server routes by.

    Attributes
    ----------
    nearest : NearestRows
        The rows that vote.
    blend : int
        How many adapters answer a prompt at most.
    policy : callable or None
        What may veto or force a route.
    """

    nearest: NearestRows
    blend: int = 1
    policy: Policy | None = None

    def route(self, prompt: str, user: str | None) -> Route:
        """Route a prompt; RunError as of :func:`ruled`."""
        (found,) = self.nearest.routes([prompt])
        return blended(ruled(found, self.policy, user, [*self.nearest.names, BASE]), self.blend)

    @classmethod
    def load(cls, folder: Path) -> Gate:
        """Read what was written down.

        Raises
        ------
        RunError
            If its policy cannot be imported.
        StoreError
            If it is not there or damaged.
        """
        nearest = NearestRows.load(folder)
        told = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
        name = told.get("policy", "")
        try:
            policy = resolve_name(name) if name else None
        except (ImportError, AttributeError) as error:
            fix = "serve from the folder of its module"
            raise RunError(f"the policy {name} cannot be imported ({error}); {fix}") from error
        return cls(nearest, told.get("blend", 1), policy)


def written(policy: Policy | None) -> str:
    """Write a policy as another process can import it, ``module:function``; nothing for none.

    Raises
    ------
    RunError
        If it is a function of the notebook.
    """
    if policy is None:
        return ""
    name = f"{getattr(policy, '__module__', '')}:{getattr(policy, '__qualname__', '')}"
    try:
        if not name.startswith("__main__") and resolve_name(name) is policy:
            return name
    except (ImportError, AttributeError, ValueError):
        pass
    raise RunError("a server has to import the policy: put the function into a module of its own, and import it here")


def ruled(route: Route, policy: Policy | None, user: str | None, known: Sequence[str]) -> Route:
    """Let a policy veto or force a route.

    Parameters
    ----------
    route : Route
        As the rows have it.
    policy : callable or None
        ``policy(prompt, user)`` gives a name, ``"base"``, or None to leave it as it is.
    user : str or None
        Who asks.
    known : sequence of str
        What it may name.

    Raises
    ------
    RunError
        If it fails or names something else.
    """
    if policy is None:
        return route
    try:
        name = policy(route.prompt, user)
    except Exception as error:
        raise RunError(f"the policy failed: {type(error).__name__}: {error}; it is given (prompt, user)") from error
    if name is None:
        return route
    if name not in known:
        raise RunError(f"the policy named {name!r}{nearest(str(name), known)}; give one of {', '.join(known)}, or None")
    return replace(route, name=name, confidence=1.0, why="policy")


def blended(route: Route, most: int) -> Route:
    """Weigh the adapters with most votes, in tenths; the base and what a policy decides stay alone.

    Parameters
    ----------
    route : Route
        As the rows have it.
    most : int
        How many adapters take part at most.
    """
    if most == 1 or route.name == BASE or route.why == "policy":
        return route
    best = [(name, share) for name, share in route.votes.items() if name != BASE][:most]
    tenths = {name: round(share / sum(share for _, share in best), 1) for name, share in best}
    weights = {name: weight for name, weight in tenths.items() if weight}
    return replace(route, weights=weights if len(weights) > 1 else {})


def base_prompts() -> list[str]:
    """What the base model is for: the questions that it must still be able to answer after it is fine-tuned."""
    return [one.question for one in regression.questions()]


def prompts_of(examples: Examples, tokenizer: Any, system: str | None, chat: bool, most: int = EACH) -> list[str]:
    """Read off encoded rows what was asked in them.

    Parameters
    ----------
    examples : Examples
        Of a run that learned to write texts.
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's.
    system : str or None
        The system prompt that they were trained with.
    chat : bool
        Whether they are conversations.
    most : int, default 200
        How many rows are read, drawn with a fixed seed; all where there are fewer.

    Returns
    -------
    list of str
        Of each row the prompt without the template's marks, in the order of the rows; of plain texts the beginning.
    """
    read = partial(tokenizer.decode, skip_special_tokens=False)
    marks = re.compile("|".join(map(re.escape, tokenizer.all_special_tokens)) or "(?!)")
    before, after = _frame(Renderer(tokenizer), system) if chat else ("", "")
    found = []
    for example in examples.take(places_of(len(examples), most)):
        begun = example.supervised.find(1)
        ids = example.ids[:begun] if begun > 1 else example.ids  # a text is learned from its beginning on
        text = str(read(ids if chat else ids[:LONGEST]))
        found.append(marks.sub(" ", text.removeprefix(before).removesuffix(after)).strip())
    return found


def places_of(count: int, most: int) -> list[int]:
    """Draw at most so many places of rows with a fixed seed, in order."""
    return sorted(random.Random(0).sample(range(count), min(count, most)))


def text_of(prompt: Prompt) -> str:
    """What of a prompt is compared with rows: the last turn of a conversation."""
    if isinstance(prompt, str):
        return prompt
    said = [turn.get("content") or "" for turn in prompt if turn.get("role") == "user"] or [""]
    return said[-1] if isinstance(said[-1], str) else " ".join(str(part.get("text", "")) for part in said[-1])


def some(prompts: Sequence[str], most: int) -> list[str]:
    """Different ones of some prompts, drawn with a fixed seed, at most so many."""
    different = list(dict.fromkeys(prompts))
    return random.Random(0).sample(different, most) if len(different) > most else different


def _frame(renderer: Renderer, system: str | None) -> tuple[str, str]:
    """What the template writes around a single question."""
    mark = "zyzzyva"
    ids = renderer.render([{"role": "user", "content": mark}], system=system, generation=True)
    before, _, after = str(renderer.tokenizer.decode(ids)).partition(mark)
    return before, after


def _least(vectors: np.ndarray) -> float:
    """How near a new prompt has to be: nearer than all but a hundredth of the rows are to the nearest other one."""
    if len(vectors) < 2:
        return 0.0
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -1)
    return float(np.quantile(similar.max(1), FAR))


def _embedded(prompts: Sequence[str], embedder: Embedder, cache: Path | None, progress: Progress) -> np.ndarray:
    if cache is None:
        return embedder.embed(prompts, progress)
    about = json.dumps([embedder.load(progress).identity, *prompts])
    file = cache / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.npy"
    with suppress(OSError, ValueError):
        found = np.load(file)
        if len(found) == len(prompts):
            return found
    found = embedder.embed(prompts, progress)
    with suppress(StoreError), files.atomic_file(file) as staging, staging.open("wb") as out:
        np.save(out, found, allow_pickle=False)
    return found
