"""Saved adapters put on a model: whatever was saved is loaded, or it is an error."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import ModelError
from peft_nb.system import peft_private

if TYPE_CHECKING:
    from peft import PeftModel


def load(model: Any, folder: str | Path, name: str = "default") -> PeftModel:
    """Put a saved adapter on a model, frozen.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        The base, whose modules are replaced in place, or one that has adapters already.
    folder : str or Path
        Where the adapter was saved.
    name : str, default "default"
        What to call it.

    Returns
    -------
    peft.PeftModel
        In evaluation mode.

    Raises
    ------
    ModelError
        If a weight in the file is not in the adapter afterwards, or one of the adapter's is not in the file.
    """
    from peft import PeftModel, load_peft_weights

    try:
        if isinstance(model, PeftModel):
            model.load_adapter(str(folder), name)
        else:
            model = PeftModel.from_pretrained(model, str(folder), adapter_name=name)
    except KeyError as error:
        if not str(error.args[0]).startswith("base_model."):
            raise
        # PEFT looks up the parts that were trained whole.
        raise ModelError(f"{folder}: its file lacks {error}, a weight of the adapter; save the adapter again") from None
    _check(model, folder, name, load_peft_weights(str(folder), device="cpu"))
    return model.eval()


def restore(model: PeftModel, folder: str | Path) -> None:
    """Give an adapter that is on a model the weights that were saved of it.

    Parameters
    ----------
    model : peft.PeftModel
        With the adapter ``default``.
    folder : str or Path
        Where it was saved.

    Raises
    ------
    ModelError
        As :func:`load`.
    """
    from peft import load_peft_weights, set_peft_model_state_dict

    saved = load_peft_weights(str(folder), device="cpu")
    set_peft_model_state_dict(model, dict(saved))
    _check(model, folder, "default", saved)


def difference(model: PeftModel, folder: str | Path) -> str:
    """Say how an adapter that was saved differs in shape from the one on a model, or nothing.

    Parameters
    ----------
    model : peft.PeftModel
        With the adapter ``default``.
    folder : str or Path
        Where the other was saved.

    Returns
    -------
    str
        The first weight that one has and the other has not, or not in this size.
    """
    from peft import load_peft_weights

    saved = peft_private.converted(model, load_peft_weights(str(folder), device="cpu"), "default")
    kept, whole = peft_private.saved_state(model, "default"), model.state_dict().keys()
    for name in sorted(kept.keys() | saved.keys() - whole):
        theirs, mine = (tuple(one[name].shape) if name in one else None for one in (saved, kept))
        if theirs != mine:
            said = ["has none" if one is None else f"has {' × '.join(map(str, one))}" for one in (theirs, mine)]
            return f"of {name} it {said[0]}, this run {said[1]}"
    return ""


def _check(model: Any, folder: str | Path, name: str, saved: dict[str, Any]) -> None:
    """PEFT tells of some weights that it could not place, and drops others without a word."""
    saved = peft_private.converted(model, saved, name)
    kept = peft_private.saved_state(model, name)
    if lacking := sorted(kept.keys() - saved.keys()):
        raise ModelError(
            f"{folder}: its file lacks {len(lacking)} of the adapter's {len(kept)} weights, such as {lacking[0]}; "
            "save the adapter again"
        )
    if saved.keys() - kept.keys():  # of the base, such as embeddings that were resized
        kept = {**model.state_dict(), **kept}
    lost = sorted(key for key, one in saved.items() if key not in kept or not equal(one, kept[key]))
    if lost:
        raise ModelError(
            f"{folder}: {len(lost)} of {len(saved)} saved weights were not loaded, such as {lost[0]}; "
            "the adapter was made for another model, or by another version of its method"
        )


def equal(saved: Any, loaded: Any) -> bool:
    """Tell whether a weight of a file is one in memory, in whose dtype they are compared."""
    import torch

    if saved.shape != loaded.shape:
        return False
    loaded = loaded.full_tensor() if hasattr(loaded, "full_tensor") else loaded  # sharded between processes
    return torch.allclose(saved.to(loaded.device, loaded.dtype), loaded, rtol=0, atol=0, equal_nan=True)
