"""Another method's adapter as a LoRA: PEFT decomposes what it adds to each weight and keeps the largest parts."""

from __future__ import annotations

import json
import warnings
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import RunError
from peft_nb.methods.registry import Method

if TYPE_CHECKING:
    from collections.abc import Sequence

    from peft import PeftModel


def convertible(method: Method) -> bool:
    """Whether PEFT can convert a method's adapters to LoRA, as its layers say; no model is needed."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = f"{method.config_class().__module__.rpartition('.')[0]}.layer"
    if not find_spec(layers):
        return False
    usual = BaseTunerLayer.supports_lora_conversion
    return any(
        isinstance(one, type) and one.__module__ == layers and getattr(one, usual.__name__, usual) is not usual
        for one in vars(import_module(layers)).values()
    )


def rank_of(text: str | float) -> int | float:
    """Read a rank, or a share below 1 of the squared singular values; RunError for anything else."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if value >= 1 and value.is_integer():
        return int(value)
    if 0 < value < 1:
        return value
    raise RunError(f"rank: {text!r} is neither a whole number nor a share below 1; write one such as 16 or 0.99")


def convert(model: PeftModel, folder: Path, rank: int | float) -> int:
    """Replace a saved adapter by the LoRA that is nearest to it, of one rank in all modules.

    Parameters
    ----------
    model : peft.PeftModel
        The live model with the adapter; it stays as it is.
    folder : Path
        Where the adapter was saved; its config and its weights are replaced.
    rank : int or float
        The rank, or the share of the squared singular values of each update that is kept at least.

    Returns
    -------
    int
        The largest rank of a module, to which all are widened.

    Raises
    ------
    RunError
        If PEFT cannot.
    """
    from peft.tuners.lora.conversion import convert_to_lora
    from safetensors.torch import save_file

    from peft_nb.adapters.uniform import CONFIG, uniform
    from peft_nb.models.live import WEIGHTS
    from peft_nb.models.quiet import first_line

    adapter = model.active_adapter
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config, weights = convert_to_lora(model, rank, adapter)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise RunError(f"PEFT cannot convert it to LoRA: {first_line(error)}") from error
    modules = sorted({name.rpartition(".lora_")[0] for name in weights if ".lora_" in name})
    weights, widest = uniform(weights, dict.fromkeys(modules, 1.0))
    save_file({name: one.contiguous() for name, one in weights.items()}, folder / WEIGHTS, {"format": "pt"})
    saved: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config.task_type, config.revision, config.inference_mode = saved["task_type"], saved.get("revision"), True
    config.r = config.lora_alpha = widest
    config.rank_pattern, config.alpha_pattern, config.exclude_modules = {}, {}, None
    config.target_modules = {name.removeprefix("base_model.model.") for name in modules}
    config.save_pretrained(str(folder))
    return widest


def logit_error(candidate: PeftModel, model: PeftModel, examples: Sequence[Any]) -> float:
    """Tell how much of what an adapter does to the logits another one lacks.

    Parameters
    ----------
    candidate : peft.PeftModel
        With the other adapter.
    model : peft.PeftModel
        With the adapter.
    examples : sequence of Answered or Example
        Texts as token ids.

    Returns
    -------
    float
        The norm of the difference of their logits over the norm of what the adapter changes in the base's: 0 where
        they are equal, 1 as far away as the base.
    """
    from peft_nb.evaluation.agreement import logits

    off = changed = 0.0
    for one in examples:
        wanted = logits(model, one.ids)
        off += float((logits(candidate, one.ids) - wanted).double().square().sum())
        with candidate.disable_adapter():
            changed += float((logits(candidate, one.ids) - wanted).double().square().sum())
    return (off / changed) ** 0.5 if changed else 0.0
