"""Fold an adapter into a base that was built for it: the original weights, or what a quantization has left of them.

The live model takes no part in this: its tensors may belong to other runs, its embeddings may be tied, and its 4-bit
weights are no longer what they seem once a CPU has repacked them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from peft_nb.errors import MethodError
from peft_nb.methods import REGISTRY
from peft_nb.models import quantize
from peft_nb.models.load import fresh, text_kind
from peft_nb.models.plain import bare, copied, dequantize
from peft_nb.models.quiet import first_line
from peft_nb.models.resolve import ModelSource
from peft_nb.spec import METHODS, RunSpec
from peft_nb.store import Facts
from peft_nb.system import adapter_weights
from peft_nb.tasks import TASKS

ORIGINAL = "original weights"
ROUND_TRIP = {"4bit": "NF4 round trip", "8bit": "int8 round trip"}


def bases(model: PeftModel, source: ModelSource, spec: RunSpec, facts: Facts) -> dict[str, Callable[[], Any]]:
    """Name the bases that an adapter could be merged into.

    Parameters
    ----------
    model : peft.PeftModel
        The live model.
    source : ModelSource
        Where the base's original weights are.
    spec, facts
        The run's.

    Returns
    -------
    dict
        What builds each of them in memory of its own; the one that is nearest as a rule comes last.
    """

    def live() -> Any:
        return copied(bare(model))

    def original() -> Any:
        task = TASKS[spec.task]
        base = fresh(source, device=model.device.type, kind=task.base or text_kind(model.get_base_model().config))
        return dequantize(task.build(base, dict(facts.task))[0])

    stored = quantize.stored(model.get_base_model())
    if source.pair:  # the files it may have come from can be others by now
        return {ROUND_TRIP.get(stored, ORIGINAL): live}
    return {ORIGINAL: original} | ({ROUND_TRIP[stored]: live} if stored != "none" else {})


def merged_into(make: Callable[[], Any], adapter: Path, dtype: torch.dtype, spec: RunSpec) -> Any:
    """Fold a saved adapter into a base that nobody else holds.

    Parameters
    ----------
    make : callable
        Builds the base.
    adapter : Path
        Folder of the adapter.
    dtype : torch.dtype
        Of the result; what is added up is added in float32 and rounded once.
    spec : RunSpec
        The run's, for messages.

    Returns
    -------
    transformers.PreTrainedModel
        A plain model. Embeddings that were tied and have become different are no longer tied.

    Raises
    ------
    MethodError
        If PEFT or the method cannot.
    """
    tree = make()
    tied = getattr(tree.config, "tie_word_embeddings", False)  # a vision model has no words
    adapted = adapter_weights.load(tree, adapter)
    held: dict[int, int] = {}
    for module in adapted.modules():
        for parameter in module.parameters(recurse=False):
            held[id(parameter)] = held.get(id(parameter), 0) + 1
    for layer in adapted.modules():
        if isinstance(layer, BaseTunerLayer) and hasattr(layer, "merge"):
            _part(layer.get_base_layer(), held)
            vars(layer)["merge"] = partial(_precisely, layer, layer.merge, dtype)
    try:
        plain: Any = adapted.merge_and_unload(safe_merge=True)
    except (AttributeError, NotImplementedError, TypeError, ValueError) as error:
        raise cannot(spec, first_line(error)) from error
    for module in plain.modules():
        module._forward_pre_hooks.clear()  # a classifier's head is kept in float32 by one of ours
    for parameter in plain.parameters():
        if parameter.is_floating_point():
            parameter.data = parameter.data.to(dtype)
    plain.config.dtype = dtype
    if tied:
        _tie(plain)
    return plain.requires_grad_(False).eval()


def _part(module: nn.Module, held: dict[int, int]) -> None:
    """Give a module weights of its own where it shares them: an update of one end must not reach the other."""
    for name, parameter in module.named_parameters(recurse=False):
        if held[id(parameter)] > 1:
            held[id(parameter)] -= 1
            setattr(module, name, nn.Parameter(parameter.data.clone(), requires_grad=False))


def _precisely(layer: Any, merge: Callable[..., None], dtype: torch.dtype, *args: Any, **kwargs: Any) -> None:
    """Add up in float32, layer by layer, and round once."""
    for parameter in layer.get_base_layer().parameters(recurse=False):
        parameter.data = parameter.data.to(torch.promote_types(parameter.dtype, torch.float32))
    merge(*args, **kwargs)
    for parameter in layer.get_base_layer().parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)


def _tie(plain: Any) -> None:
    """Keep embeddings tied that are still equal, and say of others that they are not."""
    inputs, outputs = plain.get_input_embeddings(), plain.get_output_embeddings()
    if outputs is None:
        return
    plain.config.tie_word_embeddings = torch.equal(inputs.weight, outputs.weight)
    if plain.config.tie_word_embeddings:
        outputs.weight = inputs.weight


def cannot(spec: RunSpec, why: str) -> MethodError:
    """Say that and why a method does not merge, and what works."""
    peft_type = TASKS[spec.task].peft_type
    able = [name for name in METHODS if REGISTRY[name].mergeable and REGISTRY[name].serves(peft_type)][:4]
    return MethodError(
        f"{spec.method} cannot be merged: {why}; save(path) keeps the adapter beside its base, and for a merged model "
        f"train with one that can, such as {', '.join(able)}"
    )
