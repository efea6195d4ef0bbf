"""A live pair that is not the base it names: what others need beside its adapter, and how that is put back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from peft_nb.models.load import Base

WEIGHTS = "adapter_model.safetensors"
ROWS = 4096  # of an embedding, compared at a time
SHOWN = 5  # new tokens named in a message


@dataclass(frozen=True)
class Changes:
    """How a live model and its tokenizer differ from the base that they name.

    What cannot be compared, because the base is not on this machine, is taken to differ.

    Attributes
    ----------
    tokenizer : bool
        Whether the vocabulary, a special token or the chat template does.
    weights : dict of str to torch.Tensor
        The embeddings and the head of which a row does, by their names in the adapted model.
    rows : int
        Rows of the embedding if they are not as many as the base's, else 0.
    untrained : dict of str to int
        Ids of tokens that the base's tokenizer lacks and of which the adapter does not train all embeddings.
    ends : tuple of str
        What the embedding and, where it is another, the head are called.
    """

    tokenizer: bool = False
    weights: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: int = 0
    untrained: dict[str, int] = field(default_factory=dict)
    ends: tuple[str, ...] = ()

    @property
    def loaded_from(self) -> str:
        """The variable in a card's lines that names where the tokenizer is."""
        return "folder" if self.tokenizer else "base"

    def resized(self, model: str) -> str:
        """Write the line that gives the model in a variable as many embeddings as the pair has."""
        return f"{model}.resize_token_embeddings({self.rows}, mean_resizing=False)"

    @property
    def warning(self) -> str:
        """What to do about new tokens that are not trained, or nothing."""
        if not self.untrained:
            return ""
        more = ", …" * (len(self.untrained) > SHOWN)
        names, ids = (", ".join(map(str, [*some][:SHOWN])) + more for some in (self.untrained, self.untrained.values()))
        rows, whole = f"[{ids}]", ""
        if len(self.ends) > 1:
            rows = f"{{{', '.join(f'{end}: [{ids}]' for end in self.ends)}}}"
            whole = f"target_modules: [{', '.join(self.ends)}], "
        return (
            f"{len(self.untrained):,} new tokens have embeddings that this run does not train: {names}; unless they "
            f"have been trained before, add method_options: {{trainable_token_indices: {rows}}} to lora, or train them "
            f"alone with method: trainable-tokens, {whole}method_options: {{token_indices: [{ids}]}}"
        )


UNCHANGED = Changes()


def changes(model: Any, tokenizer: Any, name: str) -> Changes:
    """Compare a live pair with the base that it names.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        The live model, mostly with an adapter.
    tokenizer : transformers.PreTrainedTokenizerBase
        Its tokenizer, with a pad token.
    name : str
        The base: a folder, or a name on the hub, of which the hub's own cache may hold a copy.

    Returns
    -------
    Changes
        Empty for a pair that is as it was loaded.
    """
    if not hasattr(tokenizer, "get_vocab"):  # of images, whose preparation every adapter keeps
        return UNCHANGED
    folder = _folder(name)
    theirs = _tokenizer(folder) if folder else None
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    weights: dict[str, torch.Tensor] = {}
    rows = 0
    new = {id: token for token, id in tokenizer.get_vocab().items() - (theirs or tokenizer).get_vocab().items()}
    trained: Set[int] = new.keys()
    ends: list[str] = []
    places = {id(part): path for path, part in model.named_modules()}
    files = _files(folder) if folder else {}
    for path, part, around in _ends(inside):
        for own, parameter in part.named_parameters(recurse=False):
            count, equal = _compared(parameter, files, plain_name(f"{path}.{own}"))
            if not equal:
                weights[f"{places[id(part)]}.{own}"] = parameter
            if not ends and count != len(parameter):
                rows = len(parameter)
        ends.append(plain_name(path).rpartition(".")[2])
        trained = trained & _trained(around, new.keys())
    untrained = {new[id]: id for id in sorted(new.keys() - trained)}
    return Changes(theirs is None or _told(tokenizer) != _told(theirs), weights, rows, untrained, tuple(ends))


def restored(base: Base, folder: Path) -> Base:
    """Give a live base what an adapter's folder holds of the one that the adapter was trained on.

    Parameters
    ----------
    base : Base
        A live pair: the very one, or the base that it named.
    folder : Path
        Of the adapter, or none.

    Returns
    -------
    Base
        With the saved tokenizer and, in memory of their own, the saved embeddings. The same base where nothing was
        saved.
    """
    from safetensors import safe_open

    from peft_nb.models.share import share

    if not hasattr(base.tokenizer, "get_vocab"):
        return base
    if tokenizer := _tokenizer(folder):
        base = replace(base, tokenizer=tokenizer)
    if not (folder / WEIGHTS).is_file():
        return base
    model = share(base.model)
    names = [f"{path}.{own}" for path, part, _ in _ends(model) for own, _ in part.named_parameters(recurse=False)]
    with safe_open(str(folder / WEIGHTS), "pt") as file:
        keys = {name: key for name in names for key in file.keys() if plain_name(key).endswith(f".{name}")}  # noqa: SIM118
        brought = {name: file.get_tensor(key) for name, key in keys.items()}
    if not brought:
        return base
    if names[0] in brought:
        model.resize_token_embeddings(len(brought[names[0]]), mean_resizing=False)
    for name, weight in brought.items():
        parameter = model.get_parameter(name)
        parameter.data = weight.to(parameter.device, parameter.dtype)  # not written into memory that others share
    return replace(base, model=model.requires_grad_(False))


def _folder(name: str) -> Path | None:
    from peft_nb.models import hub
    from peft_nb.models.resolve import HUB_NAME

    if Path(name).is_dir():
        return Path(name)
    return hub.on_disk(name) if HUB_NAME.fullmatch(name) else None


def _tokenizer(folder: Path) -> Any:
    """The tokenizer in a folder, or None."""
    from transformers import AutoTokenizer

    from peft_nb.models.load import _LOCAL, with_pad_token

    if not (folder / "tokenizer_config.json").is_file():
        return None
    try:
        return with_pad_token(AutoTokenizer.from_pretrained(folder, **_LOCAL))
    except Exception:  # the libraries below raise whatever they like at files they cannot use
        return None


def _told(tokenizer: Any) -> Any:
    """All that decides what a tokenizer makes of texts and conversations."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    written = json.loads(core.to_str()) if core else {"vocabulary": tokenizer.get_vocab()}
    added = {id: repr(token) for id, token in tokenizer.added_tokens_decoder.items()}
    return written | {"truncation": None, "padding": None}, added, tokenizer.special_tokens_map, tokenizer.chat_template


def _ends(model: Any) -> Iterator[tuple[str, Any, Any]]:
    """The embedding and, where it is another, the head: path, the base's own module, and what is around that."""
    from peft_nb.models.plain import inner

    paths = {id(part): path for path, part in model.named_modules()}
    seen = set()
    for around in (model.get_input_embeddings(), model.get_output_embeddings()):
        part = None if around is None else inner(around)
        if part is not None and id(part.weight) not in seen:
            seen.add(id(part.weight))
            yield paths[id(part)], part, around


def plain_name(name: str) -> str:
    """The name of a base's weight without the wrappers that an adapter puts around it."""
    return name.replace(".base_layer", "").replace(".original_module", "").replace(".token_adapter", "")


def _files(folder: Path) -> dict[str, Path]:
    """In which of a folder's files each weight is; one that cannot be read costs no run its adapter."""
    from safetensors import SafetensorError, safe_open

    found: dict[str, Path] = {}
    for path in sorted(folder.glob("*.safetensors")):
        with suppress(OSError, SafetensorError), safe_open(str(path), "pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _compared(live: torch.Tensor, files: dict[str, Path], name: str) -> tuple[int, bool]:
    """How many rows the file has of a weight, and whether those of the live one are all among them."""
    import torch
    from safetensors import safe_open

    # Classes of one family differ in what they put before a name.
    alike = [key for key in files if f".{key}".endswith(f".{name}") or f".{name}".endswith(f".{key}")]
    if not alike:
        return 0, False
    roundings = torch.float32, torch.bfloat16, torch.float16
    with safe_open(str(files[alike[0]]), "pt") as file:
        stored = file.get_slice(alike[0])
        count = stored.get_shape()[0]
        if count < len(live):
            return count, False
        for start in range(0, len(live), ROWS):
            ours = live[start : start + ROWS].detach().cpu()
            kept = stored[start : start + len(ours)]
            # It may have been loaded in 16 bits and computed with in 32.
            if not any(torch.equal(kept.to(one).to(ours.dtype), ours) for one in roundings):
                return count, False
    return count, True


def _trained(around: Any, tokens: Set[int]) -> Set[int]:
    """Of which tokens an adapter trains the rows, given an embedding or a head with what is around it."""
    from peft_nb.models.plain import inner

    if inner(around) is around:
        return set()
    chosen = [part.token_indices for part in around.modules() if hasattr(part, "token_indices")]
    return {id for indices in chosen for ids in indices.values() for id in ids} if chosen else tokens
