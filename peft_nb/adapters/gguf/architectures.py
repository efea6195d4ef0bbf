"""What llama.cpp computes as transformers does: one entry an architecture.

An entry says how the hyperparameters are called and how weights differ. The names of tensors are those of the package
``gguf``. What llama.cpp would compute otherwise is refused by ``unlike``, one line each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Architecture:
    """One architecture of transformers, as llama.cpp knows it.

    Attributes
    ----------
    name : str
        llama.cpp's, such as ``llama``.
    parameters : callable
        From the config to hyperparameters, by their keys behind ``name.``.
    unlike : callable
        From the config to what llama.cpp would compute otherwise, one line each.
    rows : callable
        Puts the rows of a weight, a bias or a LoRA B in llama.cpp's order: config, name and tensor to tensor.
    weight : callable
        Whatever else is done to a weight and not to a LoRA: name and tensor to tensor.
    transposed : callable
        Whether the weight of a name is held the other way round.
    extra : callable
        From the config to tensors that only a GGUF file has, by their names.
    """

    name: str
    parameters: Callable[[Config], dict[str, Any]]
    unlike: Callable[[Config], Iterator[str]]
    rows: Callable[[Config, str, Any], Any] = lambda config, name, tensor: tensor
    weight: Callable[[str, Any], Any] = lambda name, tensor: tensor
    transposed: Callable[[str], bool] = lambda name: False
    extra: Callable[[Config], dict[str, Any]] = lambda config: {}


def head_size(config: Config) -> int:
    """Numbers in one attention head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def rope(config: Config) -> Mapping[str, Any]:
    """The settings of the rotary embedding, where there are several those of full attention."""
    settings: Mapping[str, Any] = config.get("rope_parameters") or {}
    return settings.get("full_attention", settings)


def context_length(config: Config) -> int:
    """Tokens for which llama.cpp computes the same: it attends to all, where some models attend to a window."""
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return min(config["max_position_embeddings"], window or config["max_position_embeddings"])


def _decoder(config: Config) -> dict[str, Any]:
    """Hyperparameters of decoders with RMS norm and rotary embeddings."""
    settings = rope(config)
    size = head_size(config)
    turned = int(size * (settings.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0))
    found = {
        "context_length": context_length(config),
        "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"],
        "feed_forward_length": config["intermediate_size"],
        "attention.head_count": config["num_attention_heads"],
        "attention.head_count_kv": config.get("num_key_value_heads") or config["num_attention_heads"],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        "rope.dimension_count": turned,
        "rope.freq_base": float(settings["rope_theta"]),
    }
    kind = settings.get("rope_type", "default")
    if kind in ("linear", "yarn"):
        found |= {"rope.scaling.type": kind, "rope.scaling.factor": float(settings["factor"])}
    if kind == "yarn":
        found["rope.scaling.original_context_length"] = int(_original(config))
    return found


def _original(config: Config) -> int:
    """The context that a model was trained with before it was stretched."""
    settings = rope(config)
    known = settings.get("original_max_position_embeddings") or config.get("original_max_position_embeddings")
    return known or config["max_position_embeddings"]


def _rope_unlike(config: Config, *kinds: str) -> Iterator[str]:
    settings = rope(config)
    kind = settings.get("rope_type", "default")
    if kind not in ("default", *kinds):
        yield f"rope_type: {kind}"
    if kind == "yarn":
        own = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")
        yield from (f"{name}: {settings[name]}" for name in own if settings.get(name) is not None)


def _gated_unlike(config: Config, *kinds: str, act: str = "silu") -> Iterator[str]:
    """What decoders of this kind can be set to that llama.cpp does not know."""
    name = "hidden_activation" if "hidden_activation" in config else "hidden_act"
    if (given := config.get(name)) != act:
        yield f"{name}: {given}"
    yield from _rope_unlike(config, *kinds)


def _windows_unlike(config: Config) -> Iterator[str]:
    """Qwen's windows in some layers, which llama.cpp does not know."""
    yield from _gated_unlike(config, "linear", "yarn")
    if config.get("use_sliding_window"):
        yield "use_sliding_window: true"


def _interleaved(config: Config, name: str, tensor: Any) -> Any:
    """Llama's query and key rows: halves of a head in transformers, pairs in llama.cpp."""
    kinds = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
    for part, key in kinds.items():
        if f".{part}." in name:
            heads = config.get(key) or config["num_attention_heads"]
            halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
            return halves.transpose(1, 2).reshape(tensor.shape)
    return tensor


def _llama3_frequencies(config: Config) -> dict[str, Any]:
    """By what each frequency is divided in Llama 3.1 and later, as in transformers' ``_compute_llama3_parameters``."""
    import torch

    settings = rope(config)
    if settings.get("rope_type") != "llama3":
        return {}
    size, factor, context = head_size(config), settings["factor"], _original(config)
    low, high = settings["low_freq_factor"], settings["high_freq_factor"]
    factors = []
    for place in range(0, size, 2):
        wave = 2 * math.pi * settings["rope_theta"] ** (place / size)
        smooth = min(1.0, max(0.0, (context / wave - low) / (high - low)))
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return {"rope_freqs.weight": torch.tensor(factors)}


def _phi3(config: Config) -> dict[str, Any]:
    return _decoder(config) | {"rope.scaling.original_context_length": _original(config), **_attention_factor(config)}


def _attention_factor(config: Config) -> dict[str, Any]:
    settings, context = rope(config), _original(config)
    if settings.get("rope_type") != "longrope":
        return {}
    scale = config["max_position_embeddings"] / context
    usual = math.sqrt(1 + math.log(scale) / math.log(context)) if scale > 1 else 1.0
    return {"rope.scaling.attn_factor": float(settings.get("attention_factor") or usual)}


def _phi3_frequencies(config: Config) -> dict[str, Any]:
    import torch

    settings = rope(config)
    if settings.get("rope_type") != "longrope":
        return {}
    return {f"rope_factors_{kind}.weight": torch.tensor(settings[f"{kind}_factor"]) for kind in ("long", "short")}


EVERY = 6  # of so many layers of Gemma 3 one attends to everything


def _gemma3(config: Config) -> dict[str, Any]:
    local = config["rope_parameters"]["sliding_attention"]
    capping = config.get("final_logit_softcapping")
    return (
        _decoder(config)
        | {
            "context_length": config["max_position_embeddings"],
            "attention.sliding_window": config["sliding_window"],
            "rope.freq_base_swa": float(local["rope_theta"]),
        }
        | ({"final_logit_softcapping": float(capping)} if capping else {})
    )


def _gemma3_unlike(config: Config) -> Iterator[str]:
    yield from _gated_unlike(config, "linear", act="gelu_pytorch_tanh")
    local = config["rope_parameters"]["sliding_attention"]
    if local.get("rope_type", "default") != "default":
        yield f"rope_type of sliding_attention: {local['rope_type']}"
    full = [place for place, kind in enumerate(config["layer_types"]) if kind == "full_attention"]
    if full != list(range(EVERY - 1, config["num_hidden_layers"], EVERY)):
        yield f"layer_types: full_attention not in every {EVERY}th layer"
    if config.get("query_pre_attn_scalar") != head_size(config):
        yield f"query_pre_attn_scalar: {config.get('query_pre_attn_scalar')}, not head_dim"
    if config.get("attn_logit_softcapping"):
        yield f"attn_logit_softcapping: {config['attn_logit_softcapping']}"
    if config.get("use_bidirectional_attention"):
        yield "use_bidirectional_attention: true"


def _gpt2(config: Config) -> dict[str, Any]:
    return {
        "context_length": config["n_positions"],
        "embedding_length": config["n_embd"],
        "block_count": config["n_layer"],
        "feed_forward_length": config.get("n_inner") or 4 * config["n_embd"],
        "attention.head_count": config["n_head"],
        "attention.layer_norm_epsilon": float(config["layer_norm_epsilon"]),
    }


def _gpt2_unlike(config: Config) -> Iterator[str]:
    usual = {"activation_function": "gelu_new", "scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False}
    for name, value in (usual | {"add_cross_attention": False}).items():
        if config.get(name, value) != value:
            yield f"{name}: {config[name]}"


_LLAMA = Architecture(
    "llama",
    _decoder,
    lambda config: _gated_unlike(config, "linear", "yarn", "llama3"),
    _interleaved,
    extra=_llama3_frequencies,
)

ARCHITECTURES = {
    "LlamaForCausalLM": _LLAMA,
    "MistralForCausalLM": _LLAMA,
    "Qwen2ForCausalLM": Architecture("qwen2", _decoder, _windows_unlike),
    "Qwen3ForCausalLM": Architecture("qwen3", _decoder, _windows_unlike),
    "Gemma3ForCausalLM": Architecture(
        "gemma3",
        _gemma3,
        _gemma3_unlike,
        weight=lambda name, tensor: tensor + 1 if name.endswith("norm.weight") else tensor,
    ),
    "GPT2LMHeadModel": Architecture(
        "gpt2",
        _gpt2,
        _gpt2_unlike,
        transposed=lambda name: name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")),  # Conv1D
    ),
    "Phi3ForCausalLM": Architecture(
        "phi3", _phi3, lambda config: _gated_unlike(config, "longrope"), extra=_phi3_frequencies
    ),
}
