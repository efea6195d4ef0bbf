"""A PEFT LoRA adapter as a LoRA GGUF file.

llama.cpp multiplies B A by ``adapter.lora.alpha`` divided by the rank of each tensor; whatever else PEFT's scaling is,
such as that of rsLoRA or of a rank pattern, is put into B.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from peft_nb.adapters.gguf.model import Tensor, known, named, stored, write
from peft_nb.errors import ModelError
from peft_nb.events import silent

PREFIX = "base_model.model."
# Starts that leave the base's weights as they are; the others need a changed base, which a LoRA file has not.
STARTS = (True, False, "gaussian", "eva", "orthogonal")
INSTEAD = "export it as_='gguf'"


def lacking(config: Mapping[str, Any]) -> str:
    """Name what an adapter has and a LoRA GGUF cannot hold, or nothing.

    Parameters
    ----------
    config : mapping
        What is in ``adapter_config.json``.

    Returns
    -------
    str
        Such as ``DoRA``.
    """
    return next(_unlike(config), "")


def _unlike(config: Mapping[str, Any]) -> Iterator[str]:
    if config.get("peft_type") != "LORA":
        yield f"adapter of PEFT's type {config.get('peft_type')}"
    names = {"use_dora": "DoRA", "use_qalora": "QALoRA", "lora_bias": "LoRA biases", "alora_invocation_tokens": "aLoRA"}
    names |= {"modules_to_save": "modules_to_save", "trainable_token_indices": "trained embeddings"}
    names |= {"layer_replication": "replicated layers", "target_parameters": "target_parameters"}
    yield from (words for key, words in names.items() if config.get(key))
    if config.get("bias", "none") != "none":
        yield "trained biases"
    if config.get("init_lora_weights", True) not in STARTS:
        yield f"base changed by init_lora_weights: {config['init_lora_weights']}"


def write_lora(adapter: Path, base: Path, out: Path) -> Path:
    """Write a PEFT LoRA folder as a LoRA GGUF file, its numbers in float32.

    Parameters
    ----------
    adapter : Path
        A folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
    base : Path
        The folder of its base.
    out : Path
        The file to write.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ModelError
        llama.cpp would apply it otherwise; one line.
    """
    from gguf import GGMLQuantizationType

    architecture, config = known(base)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if lacks := lacking(settings):
        raise ModelError(f"llama.cpp's LoRA files hold no {lacks}; {INSTEAD}")
    alpha = float(settings["lora_alpha"])
    metadata = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    tensors = []
    for key, shape, read in stored(adapter / "adapter_model.safetensors"):
        if key.endswith(".base_layer.weight"):  # the base's own, which PEFT writes beside its embeddings and head
            continue
        module, _, part = key.removeprefix(PREFIX).rpartition(".lora_")
        if part not in ("A.weight", "B.weight"):
            raise ModelError(f"llama.cpp's LoRA files hold no {key}; {INSTEAD}")
        if module == "lm_head" and config.get("tie_word_embeddings"):
            raise ModelError(f"llama.cpp has no lm_head beside tied embeddings; {INSTEAD}")
        name = f"{module}.weight"
        if part == "B.weight":
            factor = scaling(settings, module) * shape[1] / alpha
            read = partial(_scaled, read, factor, partial(architecture.rows, config, name))
        place = f"{named(architecture, config, name)}.lora_{part[0].lower()}"
        tensors.append(Tensor(place, shape, GGMLQuantizationType.F32, read))
    write(out, architecture.name, metadata, tensors, silent)
    return out


def scaling(settings: Mapping[str, Any], module: str) -> float:
    """By what PEFT multiplies B A in a module: alpha over the rank, or over its root with rsLoRA."""
    rank = _of(settings.get("rank_pattern"), module, settings["r"])
    alpha = _of(settings.get("alpha_pattern"), module, settings["lora_alpha"])
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _of(pattern: Mapping[str, float] | None, module: str, usual: float) -> float:
    """The value of the first key that a module's name ends with, as PEFT looks it up."""
    found = (value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", module))
    return next(found, usual)


def _scaled(read: Callable[[], Any], factor: float, rows: Callable[[Any], Any]) -> Any:
    return rows(read()) * factor
