"""A vision backbone out of an ONNX file as a plain model folder, under transformers' names.

An exporter writes a linear layer's weight transposed under a number of its own; its bias keeps its name, by which the
weight is found again. The position embeddings of the class token and of the patches lie apart, without names.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from peft_nb.data.images.preprocess import Preprocess
from peft_nb.errors import ModelError
from peft_nb.events import Progress
from peft_nb.models import onnx_file
from peft_nb.models.quiet import first_line, quiet

if TYPE_CHECKING:
    import numpy

PREFIX = "backbone."
PATCH = 14


def convert_onnx(file: Path, folder: Path, progress: Progress) -> None:
    """Write a DINOv2 backbone as float32 safetensors, with how images are prepared for it.

    Parameters
    ----------
    file : Path
        An ONNX file whose backbone bears transformers' names below ``backbone.``.
    folder : Path
        Where to write; it must exist.
    progress : callable
        Told how far the conversion is.

    Raises
    ------
    ModelError
        The file cannot be read, or lacks a weight.
    """
    import numpy
    from safetensors.numpy import save_file
    from transformers import Dinov2Config, Dinov2Model

    progress(0.0, f"reading {file.name}")
    try:
        weights = _named(onnx_file.read(file))
        _, places, hidden = weights["embeddings.position_embeddings"].shape
        layers = 1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer."))
    except (LookupError, ValueError) as error:
        raise ModelError(f"cannot read {file.name} as a vision backbone: {first_line(error)}") from error
    side = round((places - 1) ** 0.5) * PATCH
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 64,
        patch_size=PATCH,
        image_size=side,
    )
    progress(0.5, "saving")
    state = {name: numpy.ascontiguousarray(one) for name, one in weights.items()}
    state["embeddings.mask_token"] = numpy.zeros(
        (1, hidden), "float32"
    )  # of its pretraining alone, and not in the file
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    config.architectures = ["Dinov2Model"]
    config.save_pretrained(folder)
    with quiet():
        _, info = Dinov2Model.from_pretrained(folder, output_loading_info=True, local_files_only=True)
    if wrong := [*info["missing_keys"], *info["unexpected_keys"], *info["mismatched_keys"]]:
        raise ModelError(f"cannot use {file.name}: it is no whole DINOv2 backbone, by {wrong[0]}")
    Preprocess(edge=256, height=224, width=224).save_pretrained(folder)  # as of DINOv2
    progress(1.0, f"converted {file.name}")


def _named(graph: onnx_file.Graph) -> dict[str, numpy.ndarray]:
    """The backbone's weights under transformers' names."""
    import numpy

    takes: dict[str, list[onnx_file.Node]] = defaultdict(list)
    for node in graph.nodes:
        for name in node.inputs:
            takes[name].append(node)
    found = {name: one for name, one in graph.weights.items() if name.startswith(PREFIX)}
    for node in graph.nodes:
        if node.kind == "MatMul" and node.inputs[1] in graph.weights:
            adds = [one for one in takes[node.outputs[0]] if one.kind == "Add"]
            (bias,) = {name for one in adds for name in one.inputs if name in graph.weights}
            found[f"{bias.removesuffix('.bias')}.weight"] = graph.weights[node.inputs[1]].T
    tables = [one for name, one in graph.weights.items() if one.ndim == 3 and "::" in name]
    grids = [one for one in graph.weights.values() if one.ndim == 3 and one.shape[0] == 1 < one.shape[1]]
    tokens = [one for one in tables if grids and one.shape == (1, 1, grids[0].shape[2])]
    if len(grids) != 1 or len(tokens) != 1:
        raise ValueError("its position embeddings cannot be told apart")
    found[f"{PREFIX}embeddings.position_embeddings"] = numpy.concatenate([tokens[0], grids[0]], 1)
    return {name.removeprefix(PREFIX): one for name, one in found.items() if name.startswith(PREFIX)}
