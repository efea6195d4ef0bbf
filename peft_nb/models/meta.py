"""A base without its weights: the shapes of all its tensors, and one layer of them filled at random."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

from peft_nb.data.images.preprocess import Preprocess
from peft_nb.events import Progress
from peft_nb.models import quantize
from peft_nb.models.aliases import Kind
from peft_nb.models.load import (
    _LOCAL,
    HEADS,
    Base,
    _cannot_load,
    _check_kind,
    _config,
    _reader,
    auto_class,
    dtype_of,
    listener,
    located,
    sized_by,
    text_kind,
    with_pad_token,
)
from peft_nb.models.quiet import quiet
from peft_nb.models.resolve import ModelSource

VOCABULARY = 1024  # tokens of a single layer's model, whose embeddings nobody needs


def load_meta(
    source: ModelSource,
    *,
    dtype: Any = "float32",
    quantization: quantize.Quantization = "none",
    kind: Kind | None = "causal",
    progress: Progress | None = None,
) -> Base:
    """Read a base's configuration and tokenizer, and nothing of its weights.

    Parameters
    ----------
    source, dtype, quantization, kind, progress
        As for :func:`peft_nb.models.load.load`. A live model keeps its own quantization.

    Returns
    -------
    Base
        Its model lies on the meta device: tensors with shapes and no memory. Nothing is quantized in it.

    Raises
    ------
    ModelError
        The model cannot be fetched, read or used as asked.
    """
    folder = features = None
    if source.pair:
        model, tokenizer = source.pair
        config, quantization = copy.deepcopy(model.config), quantize.stored(model)
        if kind == "vision":
            tokenizer = Preprocess.of(tokenizer.to_dict(), source.name)
        elif kind == "speech":
            tokenizer, features = tokenizer.tokenizer, tokenizer.feature_extractor
        dtype = dtype_of(model) if callable(dtype) or quantization != "none" else dtype
    else:
        folder = located(source, progress or (lambda share, text: None), [])
        config = _config(folder, source.name)
        kind = kind or text_kind(config)
        _check_kind(config, source.name, kind)  # before what it does not read is read
        dtype = dtype(config) if callable(dtype) else dtype
        try:
            tokenizer = _reader(folder, source.name, config, kind)
            features = listener(folder) if kind == "speech" else None
        except Exception as error:
            raise _cannot_load(source.name, error) from error
    kind = kind or text_kind(config)
    _check_kind(config, source.name, kind)
    if kind not in ("vision", "diffusion") and tokenizer.pad_token is None:
        tokenizer = with_pad_token(copy.deepcopy(tokenizer))
    if kind == "diffusion":
        from peft_nb.models import diffusion

        assert folder  # of a pipeline, whose parts have configurations of their own
        model = diffusion.assembled(folder, config, "meta", dtype)
    else:
        model = _from_config(config, kind, dtype, "meta")
    return Base(model, tokenizer, source, dtype, quantization, "meta", "", folder=folder, features=features)


def shapes_alone() -> AbstractContextManager[Any]:
    """Make tensors without memory in a block, and let PEFT read numbers out of them, which it does for permutations."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Blank(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
                return 0
            if func is torch.ops.aten._to_copy.default and args[0].is_meta:
                kwargs = {**kwargs, "device": torch.device("meta")}
            return func(*args, **kwargs)

    def blank(layer: Any, indices: Any) -> Any:
        return torch.empty(len(indices), len(indices))

    from peft.tuners.boft import layer as boft

    block = ExitStack()
    for kind in (boft.Linear, boft.Conv2d):  # which write their permutations number by number
        block.enter_context(patch.object(kind, "perm2mat", blank))
    block.enter_context(torch.device("meta"))
    block.enter_context(Blank())
    return block


def single_layer(base: Base, layers: int = 1) -> Base:
    """Make a base of one layer of real size, filled at random and quantized as the whole one would be.

    A model in stages, each of another size, is made whole.

    Parameters
    ----------
    base : Base
        What :func:`load_meta` returned.
    layers : int, default 1
        Layers instead.

    Returns
    -------
    Base
        On the CPU, with a vocabulary of `VOCABULARY` tokens at most.
    """
    if base.model.config.model_type == "diffusion":  # whose layer is all of its denoiser
        from peft_nb.models import diffusion

        assert base.folder
        return replace(base, model=diffusion.assembled(base.folder, base.model.config, "cpu", base.dtype), device="cpu")
    config = base.model.config if staged(base.model.config) else shallow(base.model.config, layers)
    text = config.get_text_config()
    kind: Kind = "vision" if isinstance(base.tokenizer, Preprocess) else "encoder"
    if kind != "vision":
        text.vocab_size = min(text.vocab_size, VOCABULARY)
        text.pad_token_id = text.bos_token_id = text.eos_token_id = 0
        kind = "causal" if base.model.get_output_embeddings() is not None else "encoder"
    model = _from_config(config, kind, base.dtype, "cpu")
    if base.quantization != "none":
        model = _quantized(model, base)
    return replace(base, model=model, device="cpu")


def staged(config: Any) -> bool:
    """Whether a model has stages of layers, each of another size, by its configuration."""
    return bool(getattr(config, "depths", None))


def of_stacks(base: Base, encoder: int, decoder: int) -> Base:
    """Make a base of two stacks with so many layers of real size in each, otherwise as :func:`single_layer` does."""
    config = copy.deepcopy(base.model.config)
    config.encoder_layers, config.decoder_layers = encoder, decoder
    model = _from_config(config, "speech", base.dtype, "cpu")
    return replace(base, model=_quantized(model, base) if base.quantization != "none" else model, device="cpu")


def shallow(config: Any, layers: int) -> Any:
    """Copy a model's configuration with its first layers alone."""
    config = copy.deepcopy(config)
    own = sized_by(config)
    for name, value in vars(own).items():
        if isinstance(value, list) and len(value) == own.num_hidden_layers:
            setattr(own, name, value[:layers])
    own.num_hidden_layers = layers
    return config


def _quantized(model: Any, base: Base) -> Any:
    """Send a model through a file: quantizing while it loads is the only way that transformers has."""
    import torch

    from peft_nb.models.share import keep_unpacked

    settings = quantize.config(
        base.quantization, getattr(torch, base.dtype), HEADS if isinstance(base.tokenizer, Preprocess) else None
    )
    with TemporaryDirectory() as folder, quiet():
        model.save_pretrained(folder)
        options = {"quantization_config": settings, "device_map": {"": "cpu"}, "dtype": getattr(torch, base.dtype)}
        model = keep_unpacked(type(model).from_pretrained(folder, **options, **_LOCAL))
    quantize.stored(model)
    return model.requires_grad_(False).eval()


def _from_config(config: Any, kind: Kind, dtype: str, device: str) -> Any:
    import torch

    with quiet(), torch.device(device):
        return auto_class(kind).from_config(config, dtype=getattr(torch, dtype)).requires_grad_(False).eval()
