"""Which run answers to which name: what the store says at this moment, and which of two versions a request gets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from peft_nb.adapters.exporters import vllm
from peft_nb.adapters.gguf.lora import lacking
from peft_nb.errors import MethodError, RunError
from peft_nb.methods import REGISTRY
from peft_nb.spec import RunSpec
from peft_nb.store import Record, Store
from peft_nb.store.records import NUMBER
from peft_nb.tasks import TASKS

BASE = "base"  # under which the base model itself answers


@dataclass(frozen=True)
class Version:
    """A run whose adapter can answer.

    Attributes
    ----------
    run : str
        Its id.
    label : str
        What answers say of themselves, such as ``tickets@v3``; the id of a run that is no version.
    folder : Path
        Its adapter.
    model : str
        Its base model, as its spec names it.
    identity : str or None
        What its base was, as far as that is known.
    system : str or None
        System prompt that it was trained with, for conversations that bring none.
    chat : bool
        Whether it was trained on conversations rather than plain texts.
    merged : str
        Why llama.cpp cannot put it on the base, so that it answers from a merged model of its own; empty for a LoRA.
    no_vllm : str
        Why vLLM cannot load it; empty where it can.
    index : Path or None
        Index whose chunks are put before questions, as it learned with them.
    chunks : int
        How many of them.
    """

    run: str
    label: str
    folder: Path
    model: str
    identity: str | None
    system: str | None
    chat: bool
    merged: str = ""
    no_vllm: str = ""
    index: Path | None = None
    chunks: int = 0


@dataclass(frozen=True)
class Target:
    """What a name stands for: one version, or two by share of the requests.

    Attributes
    ----------
    name : str
        As requests write it in ``model``.
    main : Version
        Who answers.
    other : Version or None
        Who answers the share.
    share : float
        From 0 to 1.
    """

    name: str
    main: Version
    other: Version | None = None
    share: float = 0.0

    @property
    def versions(self) -> tuple[Version, ...]:
        """One or two."""
        return (self.main, self.other) if self.other else (self.main,)

    def choose(self, user: str) -> Version:
        """Decide who answers a user: always the same version, as long as the share does not shrink.

        Parameters
        ----------
        user : str
            Id of a user, or of a request where no user is known.

        Returns
        -------
        Version
            The other one for that share of all users, whose SHA-256 with its label is lowest.
        """
        if self.other:
            digest = hashlib.sha256(f"{self.name}\n{self.other.label}\n{user}".encode()).digest()
            if int.from_bytes(digest[:8]) < self.share * 2**64:
                return self.other
        return self.main


def read(store: Store, name: str, word: str) -> Target:
    """Look up what a name stands for.

    Parameters
    ----------
    store : Store
        Where the runs are.
    name : str
        As requests write it.
    word : str
        What the store knows it by: an id, a name, ``name@v2`` or ``name@alias``.

    Raises
    ------
    MethodError
        If it gives labels instead of texts, or is neither a LoRA nor can be merged.
    RunError
        If a run has no adapter.
    StoreError
        If there is no such run.
    """
    (main, _), *others = store.split(word)
    target = Target(name, _version(main))
    for record, share in others:
        target = Target(name, target.main, _version(record), share)
    return target


def pinned(store: Store, words: Iterable[str]) -> dict[str, str]:
    """Give what to look up for each of some words: an alias is followed, all else stays the run that it is now."""
    return {word: word if _moves(word) else store.get(word).id for word in words}


def _moves(word: str) -> bool:
    _, at, which = word.partition("@")
    return bool(at) and not NUMBER.fullmatch(which)


def check(targets: Sequence[Target]) -> None:
    """Refuse what one server cannot answer to: nothing, or runs on different bases."""
    if not targets:
        raise RunError("name at least one run to serve, such as tickets@production")
    if BASE in {target.name for target in targets}:
        raise RunError(f"{BASE} is the base model's own name on a server; serve that run by its id")
    first = targets[0].main
    for version in versions(targets):
        if (version.model, version.identity) != (first.model, first.identity):
            theirs, other = (one.identity or one.model for one in (version, first))
            raise RunError(f"{version.label} stands on {theirs}, and {first.label} on {other}; serve it on its own")


def versions(targets: Iterable[Target]) -> list[Version]:
    """All that may have to answer, each once."""
    return list(dict.fromkeys(version for target in targets for version in target.versions))


def _version(record: Record) -> Version:
    spec = RunSpec.from_yaml(record.spec_yaml)
    label = f"{record.name}@v{record.version}" if record.version else record.id
    if not TASKS[spec.task].generates:
        raise MethodError(f"{label} {TASKS[spec.task].instead}; a server answers with texts")
    folder = record.folder / "adapter"
    if not (folder / "adapter_config.json").is_file():
        raise RunError(f"{label} has no adapter to serve; resume() it first")
    facts, why = record.facts, _merged(spec, label, folder)
    known = record.id, label, folder, spec.model, facts.base, spec.system, facts.chat, why, vllm.obstacle(spec)
    if not facts.documents:
        return Version(*known)
    from peft_nb.documents.retriever import folder_of

    return Version(*known, folder_of(facts.documents["index"], record.folder.parents[1]), spec.distractors + 1)


def _merged(spec: RunSpec, label: str, folder: Path) -> str:
    """Why an adapter has to be merged, or nothing."""
    method = REGISTRY[spec.method]
    if (held := method.quantization(spec)) != "none":
        return f"it was trained on the base in {held}"
    lacks = lacking(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")))
    if lacks and not method.mergeable:
        raise MethodError(
            f"{label}: llama.cpp loads no {lacks}, and {spec.method} cannot be merged; generate() or a Switchboard "
            "answers with it in the notebook, and what lora, dora or loha train can be served"
        )
    return f"llama.cpp loads no {lacks}" if lacks else ""
