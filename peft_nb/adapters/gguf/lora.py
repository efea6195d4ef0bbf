"""A PEFT LoRA adapter as a LoRA GGUF file.

llama.cpp multiplies B A by ``adapter.lora.alpha`` divided by the rank of each tensor; whatever else PEFT's scaling is,
such as that of rsLoRA or of a rank pattern, is put into B.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from peft_nb.adapters.gguf.model import Tensor, known, named, write
from peft_nb.errors import ModelError
from peft_nb.events import silent

PREFIX = "base_model.model."
# Starts that leave the base's weights as they are; the others need a changed base, which a LoRA file has not.
STARTS = (True, False, "gaussian", "eva", "orthogonal")
INSTEAD = "export it as_='gguf'"


def lora_obstacle(config: Mapping[str, Any]) -> str:
    """Say why an adapter cannot be a LoRA GGUF, in one line, or nothing.

    Parameters
    ----------
    config : mapping
        What is in ``adapter_config.json``.

    Returns
    -------
    str
        The reason, and what works instead.
    """
    why = next(_unlike(config), "")
    return f"llama.cpp's LoRA files hold no {why}; {INSTEAD}" if why else ""


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
    from safetensors import safe_open

    architecture, config = known(base)
    settings = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if why := lora_obstacle(settings):
        raise ModelError(why)
    alpha = float(settings["lora_alpha"])
    metadata = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": alpha}
    tensors = []
    file = adapter / "adapter_model.safetensors"
    with safe_open(file, "pt") as weights:
        for key in weights.keys():  # noqa: SIM118 - it is no mapping
            if key.endswith(".base_layer.weight"):  # the base's own, which PEFT writes beside its embeddings and head
                continue
            module, _, part = key.removeprefix(PREFIX).rpartition(".lora_")
            kind = {"A.weight": "a", "B.weight": "b"}.get(part)
            if not kind:
                raise ModelError(f"llama.cpp's LoRA files hold no {key}; {INSTEAD}")
            if module == "lm_head" and config.get("tie_word_embeddings"):
                raise ModelError(f"llama.cpp has no lm_head beside tied embeddings; {INSTEAD}")
            name, shape = f"{module}.weight", tuple(weights.get_slice(key).get_shape())
            rank = shape[0] if kind == "a" else shape[1]
            factor = scaling(settings, module) * rank / alpha if kind == "b" else 1.0
            values = partial(_values, file, key, kind, factor, partial(architecture.rows, config, name))
            place = f"{named(architecture, config, name)}.lora_{kind}"
            tensors.append(Tensor(place, shape, GGMLQuantizationType.F32, values))
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


def _values(file: Path, key: str, kind: str, factor: float, rows: Any) -> Any:
    from safetensors import safe_open

    with safe_open(file, "pt") as weights:
        tensor = weights.get_tensor(key).float()
    return rows(tensor) * factor if kind == "b" else tensor
