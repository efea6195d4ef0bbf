"""Plain module trees: an adapted model without its adapters, and quantized weights as ordinary numbers."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn

from peft_nb.models.share import share

# What transformers leaves on a model that it has quantized, and on its configuration.
MARKS = ("hf_quantizer", "is_loaded_in_4bit", "is_loaded_in_8bit", "is_quantized", "quantization_method")


def bare(model: Any) -> Any:
    """Give the base of an adapted model as a tree of its own, over the same tensors.

    PEFT's own ``unload`` changes the model it is asked of, and gives trained modules in place of saved originals.

    Parameters
    ----------
    model : peft.PeftModel
        It stays as it is.

    Returns
    -------
    transformers.PreTrainedModel
        Frozen, without a trace of an adapter.
    """
    tree = share(model).get_base_model()
    _unwrap(tree)
    vars(tree).pop("peft_config", None)
    return tree


def inner(module: nn.Module) -> Any:
    """Give the base's own module inside the wrappers that an adapter has put around it."""
    from peft.tuners.adaption_prompt.layer import AdaptedAttention, AdaptedAttentionGPT
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import AuxiliaryTrainingWrapper

    found: Any = module
    while isinstance(found, BaseTunerLayer | AuxiliaryTrainingWrapper | AdaptedAttention | AdaptedAttentionGPT):
        if isinstance(found, BaseTunerLayer):
            found = found.get_base_layer()
        else:
            found = found.original_module if isinstance(found, AuxiliaryTrainingWrapper) else found.model
    return found


def _unwrap(parent: nn.Module) -> None:
    for name, child in parent.named_children():
        if (own := inner(child)) is not child:
            setattr(parent, name, own)
        _unwrap(own)


def copied(tree: Any) -> Any:
    """Give a tree memory of its own, with quantized weights as the numbers that they stand for.

    For a base that was quantized when it was loaded these are its original weights, sent once through the
    quantization and back.

    Parameters
    ----------
    tree : transformers.PreTrainedModel
        Changed in place; the tensors it had are only read.

    Returns
    -------
    transformers.PreTrainedModel
        The same tree, ready to be changed and saved.
    """
    dequantize(tree)
    for parameter in tree.parameters():
        parameter.data = parameter.data.clone()
    for module in tree.modules():
        module._buffers.update({name: None if one is None else one.clone() for name, one in module._buffers.items()})
    return tree


def dequantize(tree: Any) -> Any:
    """Replace quantized layers by plain ones with the numbers that their weights stand for.

    Parameters
    ----------
    tree : transformers.PreTrainedModel
        Changed in place. Its 4-bit weights must not have been repacked for the CPU, see :func:`.share.keep_unpacked`:
        ``model.dequantize()`` and PEFT's merge make garbage of those.

    Returns
    -------
    transformers.PreTrainedModel
        The same tree, no longer marked as quantized.
    """
    bitsandbytes: Any = sys.modules.get("bitsandbytes")
    kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt) if bitsandbytes else ()
    for name, module in list(tree.named_modules()):
        if isinstance(module, kinds):
            parent, _, own = name.rpartition(".")
            setattr(tree.get_submodule(parent), own, _plain(module))
    for mark in MARKS:
        vars(tree).pop(mark, None)
    vars(tree.config).pop("quantization_config", None)
    return tree


def _plain(layer: Any) -> nn.Linear:
    from peft.utils.integrations import dequantize_bnb_weight

    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    with torch.no_grad():
        weight = dequantize_bnb_weight(layer.weight, state=getattr(layer, "state", None))
    plain.weight = nn.Parameter(weight.to(layer.weight.device), requires_grad=False)
    plain.bias = layer.bias
    return plain.eval()
