"""What the user means by a model: an alias, a folder, a GGUF file, a name on the hub or a pair from the notebook."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft_nb.errors import ModelError, nearest
from peft_nb.models import bundled, hub
from peft_nb.models.aliases import ALIASES, Alias

KINDS = "an alias, a folder, a .gguf file, a name on the hub or a (model, tokenizer) pair"


HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)


@dataclass(frozen=True)
class ModelSource:
    """Where a base comes from.

    Parameters
    ----------
    name : str
        As the user gave it.
    kind : {"alias", "folder", "gguf", "hub", "live"}
        What the name turned out to be.
    path : Path, optional
        Folder on disk, when it is there already.
    gguf_file : str, optional
        Name of the file inside ``path``.
    repo, revision : str, optional
        What to fetch from the hub.
    pair : tuple, optional
        Live ``(model, tokenizer)``.
    """

    name: str
    kind: Literal["alias", "folder", "gguf", "hub", "live"]
    path: Path | None = None
    gguf_file: str | None = None
    repo: str | None = None
    revision: str | None = None
    pair: tuple[Any, Any] | None = None

    @property
    def where(self) -> str:
        """Say in words where the weights are now."""
        if self.pair:
            return "in memory"
        if self.path:
            return "cached" if self.kind in ("alias", "hub") else "folder"
        return "hub" if self.repo else "bundled wheel"


def resolve(
    model: str | os.PathLike[str] | tuple[Any, Any],
    revision: str | None = None,
    namespace: Mapping[str, Any] | None = None,
) -> ModelSource:
    """Find out which base is meant, without loading or fetching it.

    Parameters
    ----------
    model : str, path or tuple
        An alias, a local folder, a ``.gguf`` file, a name on the hub, a live ``(model, tokenizer)`` pair, or
        the name of a variable that holds such a pair.
    revision : str, optional
        Branch, tag or commit on the hub.
    namespace : mapping, optional
        The notebook's variables.

    Returns
    -------
    ModelSource
        What was found. An alias is taken from the cache when it is there, else from the hub when that answers
        within 3 seconds, else from its wheel.

    Raises
    ------
    ModelError
        Nothing fits, or what fits cannot be trained.
    """
    if not isinstance(model, str | os.PathLike):
        return _live("(in memory)", model)
    name = os.fspath(model)
    if alias := ALIASES.get(name):
        return _alias(alias, revision)
    if holds_a_model(value := (namespace or {}).get(name)):
        return _live(name, value)
    path = Path(name).expanduser()
    if path.exists() or name.endswith(".gguf") or not HUB_NAME.fullmatch(name):
        return _local(name, path)
    return _hub(name, name, revision)


def _alias(alias: Alias, revision: str | None) -> ModelSource:
    ready = bundled.where(alias)
    if not alias.repo:
        if revision:
            raise ModelError(f"revision: {alias.name} comes from a package alone, in one version; leave it out")
        return ModelSource(alias.name, "alias", path=ready if ready.is_dir() else None)
    if revision not in (None, alias.revision):
        return _hub(alias.name, alias.repo, revision)
    path = ready if ready.is_dir() else hub.on_disk(alias.repo, alias.revision)
    if path is None and (hub.answer(alias.repo, alias.revision) or 400) < 400:
        return ModelSource(alias.name, "alias", repo=alias.repo, revision=alias.revision)
    return ModelSource(alias.name, "alias", path=path)


def _local(name: str, path: Path) -> ModelSource:
    close = nearest(name, ALIASES)
    if not path.exists():
        raise ModelError(f"no model at {name!r}: there is no such file or folder{close}")
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise ModelError(f"{name!r} is a file, but not a .gguf file; name the folder that holds the model")
        return ModelSource(name, "gguf", path=path.resolve().parent, gguf_file=path.name)
    if (path / "adapter_config.json").is_file() and hub.missing(path):
        raise ModelError(f"folder {name!r} holds an adapter; name the base model it was made for")
    if lacks := hub.missing(path):
        files = [file.name for file in sorted(path.glob("*.gguf"))]
        fix = f"name the file itself: {path / files[0]}" if files else f"a model is {KINDS}{close}"
        raise ModelError(f"folder {name!r} is no model that can be loaded: it has no {lacks}; {fix}")
    return ModelSource(name, "folder", path=path.resolve())


def _hub(name: str, repo: str, revision: str | None) -> ModelSource:
    if ".." in repo or "--" in repo:  # the hub allows neither
        raise ModelError(f"no model {name!r}: a model is {KINDS}{nearest(name, ALIASES)}")
    path = hub.on_disk(repo, revision)
    status = 200 if path else hub.answer(repo, revision)
    if status is None:
        raise ModelError(
            f"no model {name!r} on this machine, and no hub answers to fetch it; a model is {KINDS}"
            f"{nearest(name, ALIASES) or ', such as ' + ' or '.join(map(repr, ALIASES))}"
        )
    if status >= 400:
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(
            f"the hub shows no model {name!r}{at} (status {status}); check the name, or log in with "
            f"huggingface_hub.login() if it is private or gated{nearest(name, ALIASES)}"
        )
    return ModelSource(name, "hub", path=path, repo=repo, revision=revision)


def _live(name: str, pair: Any) -> ModelSource:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ModelError(f"{name}: a live base is the pair (model, tokenizer), not one {type(pair).__name__}")
    model, tokenizer = pair
    if _is_tokenizer(model) and _is_model(tokenizer):
        raise ModelError(f"{name}: the pair is the wrong way round; write (model, tokenizer)")
    if not _is_model(model) or not _is_tokenizer(tokenizer):
        kinds = f"({type(model).__name__}, {type(tokenizer).__name__})"
        raise ModelError(f"{name}: a live base is a transformers (model, tokenizer) pair, not {kinds}")
    if _adapted(model):
        raise ModelError(
            f"{name}: the model carries an adapter already, and a second would be stacked on it; "
            "take the adapter out with model.unload(), or name the base instead"
        )
    return ModelSource(name, "live", pair=(model, tokenizer))


def holds_a_model(value: Any) -> bool:
    """Whether a variable is what :func:`resolve` takes for a live base, right or wrong."""
    return _is_model(value) or (isinstance(value, tuple | list) and any(map(_is_model, value)))


def _is_model(value: Any) -> bool:
    return hasattr(value, "named_modules") and hasattr(value, "config")


def _is_tokenizer(value: Any) -> bool:
    """Whether it prepares what a model reads: a tokenizer, an image processor, or a processor of speech."""
    speech = hasattr(value, "feature_extractor") and hasattr(value, "tokenizer")
    return (hasattr(value, "encode") and hasattr(value, "eos_token_id")) or hasattr(value, "image_mean") or speech


def _adapted(model: Any) -> bool:
    # By the name of the package, because importing it only to find out would take seconds.
    classes = {base for module in model.modules() for base in type(module).__mro__}
    return any(base.__module__.split(".")[0] == "peft" for base in classes)
