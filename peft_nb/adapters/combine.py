"""Combine adapters of one base into a new one, through PEFT, and only where that is proven to be right.

PEFT combines without a word what it cannot combine: the magnitudes of DoRA and the biases of LoRA are left out, and the
scale of rsLoRA is applied twice. So every adapter is first put through the same arithmetic alone, at weight 1.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel

from peft_nb.errors import MethodError
from peft_nb.models.plain import bare
from peft_nb.models.quiet import first_line, quiet
from peft_nb.system import adapter_weights
from peft_nb.system.peft_private import combined_as_asked

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PRUNING = (
    "ties", "dare_linear", "dare_ties", "magnitude_prune",
    "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd",
)  # fmt: skip
HOWS = ("cat", "linear", "svd", *PRUNING)
COMBINED = "default"
NEAR = 1e-3  # of what an adapter changes: far above rounding, far below a wrong scale
TEXT = "The quick brown fox jumps over the lazy dog. What is 17 plus 26? Where is the station?"
SUPPORTED = "lora, qlora, rslora, pissa, olora, lora-plus and ia3 can be"


def combine(
    live: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folders: Mapping[str, Path],
    weights: Sequence[float],
    how: str,
    density: float,
    seed: int,
) -> PeftModel:
    """Combine saved adapters.

    Parameters
    ----------
    live : peft.PeftModel
        Any adapted model with their base; it stays as it is, and shares the base's memory with the result.
    tokenizer : transformers.PreTrainedTokenizerBase
        The base's tokenizer.
    folders : mapping
        The adapters by the names to call them in messages.
    weights : sequence of float
        One an adapter.
    how : str
        One of `HOWS`.
    density : float
        Share of the values that the methods which prune keep.
    seed : int
        Fixes what DARE drops.

    Returns
    -------
    peft.PeftModel
        With one adapter, in evaluation mode.

    Raises
    ------
    MethodError
        If an adapter alone, at weight 1 and with nothing pruned, does not come out as it went in; or if PEFT refuses.
    """
    names = [f"from{number}" for number in range(len(folders))]  # what PEFT takes as a name is narrower than ours
    with quiet(), torch.random.fork_rng():
        model = _loaded(live, dict(zip(names, folders.values(), strict=True)))
        ids = torch.tensor([tokenizer(TEXT)["input_ids"]], device=model.device)
        for name, called in zip(names, folders, strict=True):
            if (apart := _apart(model, ids, name, how)) is not None:
                able = [other for other in HOWS if other != how and _apart(model, ids, name, other) is None]
                fix = f"how={' or '.join(map(repr, able))} does" if able else f"no other how does; {SUPPORTED} combined"
                raise MethodError(f"{how!r} cannot combine {called}: {apart}; {fix}")
        torch.manual_seed(seed)
        try:
            _add(model.base_model, names, weights, COMBINED, how, density)
        except (TypeError, ValueError) as error:
            raise MethodError(f"{how!r} cannot combine {' and '.join(folders)}: {first_line(error)}") from error
        model.set_adapter(COMBINED)
        for name in names:
            model.delete_adapter(name)
        model.peft_config[COMBINED].inference_mode = True
        return model.requires_grad_(False).eval()


def same(model: PeftModel, folder: Path, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Tell whether what was saved in a folder does the same as the live adapter."""
    with quiet():
        again = adapter_weights.load(bare(model), folder)
        ids = torch.tensor([tokenizer(TEXT)["input_ids"]], device=model.device)
        return _near(_logits(again, ids), _logits(model, ids), _logits(bare(model), ids)) is None


def _loaded(live: PeftModel, folders: Mapping[str, Path]) -> Any:
    (first, folder), *others = folders.items()
    try:
        model: Any = adapter_weights.load(bare(live), folder, first)
        for name, folder in others:
            adapter_weights.load(model, folder, name)
    except (RuntimeError, TypeError, ValueError) as error:
        raise MethodError(f"these adapters do not fit on one base together: {first_line(error)}") from error
    able = getattr(model.base_model, "add_weighted_adapter", None)
    if able is None or "weights" not in inspect.signature(able).parameters:
        kind = model.peft_config[first].peft_type.value.lower()
        raise MethodError(f"PEFT cannot combine adapters of the kind {kind}; {SUPPORTED}")
    for config in model.peft_config.values():
        # The scale of rsLoRA is in the layers by now; the result is plain LoRA of scale 1, whose values are all given.
        for option, plain in (("use_rslora", False), ("init_lora_weights", True)):
            if hasattr(config, option):
                setattr(config, option, plain)
    return model.eval()


def _add(tuner: Any, names: list[str], weights: Sequence[float], new: str, how: str, density: float) -> None:
    if "combination_type" not in inspect.signature(tuner.add_weighted_adapter).parameters:
        if how != "linear":
            raise ValueError("adapters of this kind have no factors; 'linear' alone is for them")
        tuner.add_weighted_adapter(names, list(weights), new)
        return
    pruned = density if how in PRUNING else None
    with combined_as_asked(tuner, how):
        tuner.add_weighted_adapter(names, list(weights), new, how, density=pruned, svd_full_matrices=False)


def _apart(model: Any, ids: torch.Tensor, name: str, how: str) -> str | None:
    """Put one adapter through the arithmetic alone, at weight 1 with nothing pruned; say how it differs, if it does."""
    with model.disable_adapter():
        base = _logits(model, ids)
    model.set_adapter(name)
    alone = _logits(model, ids)
    try:
        _add(model.base_model, [name], [1.0], "probe", how, 1.0)
        model.set_adapter("probe")
        return _near(_logits(model, ids), alone, base)
    except (RuntimeError, TypeError, ValueError) as error:
        return first_line(error)
    finally:
        model.set_adapter(name)
        if "probe" in model.peft_config:
            model.delete_adapter("probe")


def _near(found: torch.Tensor, wanted: torch.Tensor, base: torch.Tensor) -> str | None:
    off, change = (found - wanted).norm(), (wanted - base).norm()
    rounding = 4 * torch.finfo(wanted.dtype).eps * wanted.norm()
    if off <= max(NEAR * change, rounding):
        return None
    return f"at weight 1.0 alone its outputs are off by {float(off / change):.0%} of what it changes"


def _logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=ids).logits
    return logits
