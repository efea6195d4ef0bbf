"""Families of models in transformers on which the padding-free path gives the padded one's loss and gradients.

    python benchmarks/families.py [--only NAME,NAME] [--kind causal|texts]

Each family is built from its config class with tiny sizes and random weights, with local attention and without, and
given LoRA. The check at the start of a run chooses its path, on a single example; then odd batches, which the check has
not seen, are compared: many lengths, shared prefixes, equal rows, segments longer than the window. A family is `exact`,
`padded` with the reason, or could not be built here. `WRONG` is what must not be: the check passed, the batches differ.
The table goes to benchmarks/results/families.md, line by line.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)
from transformers.utils import logging

from peft_nb.data.examples import Example
from peft_nb.training import objectives, text_objective

CPU = torch.device("cpu")
EXACT = 1e-4  # of the loss; gradients are a sum of many such, and their measure is a norm
EXACT_GRADIENT = 1e-3
WINDOW, FAR, LARGEST = 6, 256, 20_000_000
VOCABULARY, PAD = 96, 1

# Small values for whatever a config calls its sizes; what it does not have is left out.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size"), 24),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "encoder_layers", "decoder_layers", "num_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads",), 4),
    **dict.fromkeys(("num_key_value_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_group", "topk_group", "n_shared_experts", "first_k_dense_replace"), 1),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "hidden_size_per_layer_input", "time_step_rank"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 256),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads", "linear_num_key_heads", "linear_num_value_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("bos_token_id", "decoder_start_token_id"), 0),
    "eos_token_id": 2,
    "pad_token_id": PAD,
    "initializer_range": 0.2,
    "init_std": 0.2,
}
RANDOM = ("dropout", "pdrop", "layerdrop", "drop_rate", "dropout_prob", "dropout_rate")
LORA = re.compile(
    r".*(q|k|v|o|c|qkv|gate|up|down|in|out|x)_(proj|attn|fc)"
    r"|.*(query|key|value|dense|fc1|fc2|[a-z]+_lin|lin[12]|Wqkv|Wo|Wi|query_key_value)"
)


@dataclass(frozen=True)
class Row:
    """What was found of one family."""

    family: str
    kind: str
    window: bool
    found: str
    loss: float | None = None
    gradient: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        numbers = ("" if number is None else f"{number:.0e}" for number in (self.loss, self.gradient))
        window = "window" if self.window else ""
        return "| " + " | ".join((self.family, self.kind, window, self.found, *numbers, self.reason)) + " |"


HEADER = "| family | kind | local attention | path | loss | gradients | reason |\n|" + " --- |" * 7


def small(config: Any, window: bool) -> dict[str, Any]:
    """Tiny values for the fields that a config has, without what is random in training."""
    fields = config.to_dict()
    values = {name: value for name, value in SMALL.items() if name in fields or settable(config, name)}
    rates = [name for name, value in fields.items() if isinstance(value, float) and name.endswith(RANDOM)]
    values |= dict.fromkeys(rates, 0.0)
    if "kv_lora_rank" in fields:  # latent attention has as many key heads as query heads
        values["num_key_value_heads"] = 4
    kinds = set(fields.get("layer_types") or ())
    if kinds and kinds <= {"full_attention", "sliding_attention"}:
        values["layer_types"] = ["sliding_attention" if window else "full_attention", "full_attention"]
    if window or fields.get("sliding_window") is not None:
        values["sliding_window"] = WINDOW if window else FAR
    if "use_sliding_window" in fields:
        values["use_sliding_window"] = window
    if window and "local_attention" in fields:
        values["local_attention"] = WINDOW
    nested = {
        name: getattr(config, name, None) for name in ("text_config", "decoder", "encoder_config", "decoder_config")
    }
    return {**values, **{name: small(one, window) for name, one in nested.items() if hasattr(one, "to_dict")}}


def settable(config: Any, name: str) -> bool:
    """Whether a config takes a value under a name that is not among its fields, such as an alias."""
    return hasattr(config, name) and not isinstance(getattr(type(config), name, None), property)


def has_window(model_type: str) -> bool:
    """Whether a family may attend locally."""
    fields = CONFIG_MAPPING[model_type]().get_text_config().to_dict()
    return any(name in fields for name in ("sliding_window", "local_attention"))


def build(model_type: str, kind: str, window: bool) -> Any:
    """Make a tiny random model of a family with LoRA whose B is not zero."""
    default = CONFIG_MAPPING[model_type]()
    config = type(default)(**small(default, window))
    if kind == "causal" and hasattr(config, "is_decoder"):
        config.is_decoder = True
    if kind == "texts":
        config.num_labels = 3
    auto = AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification
    with torch.device("meta"):
        if (count := sum(one.numel() for one in auto.from_config(config).parameters())) > LARGEST:
            raise ValueError(f"{count / 1e6:,.0f} M parameters")
    torch.manual_seed(0)
    bare = auto.from_config(config).float().requires_grad_(False).eval()
    if targets := all_linear(bare):
        task = "CAUSAL_LM" if kind == "causal" else "SEQ_CLS"
        lora = LoraConfig(r=4, target_modules=targets, task_type=task, init_lora_weights=False)
        return get_peft_model(bare, lora).eval()
    raise ValueError("no linear layer has a name that is known here")


def all_linear(model: Any) -> list[str]:
    """Linear layers by the usual names, none of them a router, which may be called in other ways."""
    return [
        name
        for name, module in model.named_modules()
        if type(module).__name__.endswith(("Linear", "Conv1D")) and LORA.fullmatch(name) and "router" not in name
    ]


def batches() -> Iterator[list[Example]]:
    """Batches that the check has not seen, nor any that look like them."""
    draw = random.Random(1)

    def text(length: int, before: list[int] | None = None) -> Example:
        ids = [*(before or []), *(draw.randrange(3, VOCABULARY) for _ in range(length))]
        first = max(1, len(ids) - max(1, length // 2))
        row = Example.whole(ids, (draw.randrange(3),))
        return replace(row, supervised=bytes(place >= first for place in range(len(ids))))

    shared = [draw.randrange(3, VOCABULARY) for _ in range(13)]
    yield [text(length) for length in (2, 31, 7, 1, 17)]
    yield [text(length, shared) for length in (1, 9, 26)]
    same = text(12, shared)
    yield [same, same, text(3, shared), same]
    yield [text(40), text(3)]


def case(model_type: str, kind: str, window: bool) -> Row:
    """Try one family."""
    row = Row(model_type, kind, window, "not built")
    try:
        model = build(model_type, kind, window)
        one = next(batches())[1:2]
        wanted: dict[str, Any] = {"fast": True, "supported": True}
        if kind == "causal":
            objective: Any = objectives.choose(model, one, PAD, CPU, **wanted)
            padded: Any = objectives.Padded(PAD, short=objective.short)
        else:
            objective = text_objective.choose(model, one, PAD, CPU, _loss, **wanted)
            padded = replace(objective, padded=True)
        padded.loss(model, one, CPU)
    except Exception as error:
        return replace(row, reason=" ".join(f"{type(error).__name__}: {error}".split())[:120].replace("|", "/"))
    if objective.padded:
        row = replace(row, found="padded", reason=" ".join(objective.reason.split())[:120].replace("|", "/"))
        if not getattr(objective, "chunked", False):
            return row
    try:
        found = [objectives.disagreement(model, objective, padded, batch, CPU) for batch in batches()]
    except Exception as error:
        return replace(row, found="WRONG", reason=" ".join(f"{type(error).__name__}: {error}".split())[:120])
    loss, gradient = (max(column) for column in zip(*found, strict=True))
    right = loss <= EXACT and gradient <= EXACT_GRADIENT
    if objective.padded and right:  # its loss by the chunk is exact
        return replace(row, loss=loss, gradient=gradient)
    return replace(row, found="exact" if right else "WRONG", loss=loss, gradient=gradient, reason=_shares(objective))


def _shares(objective: Any) -> str:
    return "" if objective.share_prefix or not isinstance(objective, objectives.PaddingFree) else "prefixes not shared"


def _loss(logits: torch.Tensor, examples: Any) -> torch.Tensor:
    wanted = torch.tensor([one.labels[0] for one in examples])
    return torch.nn.functional.cross_entropy(logits, wanted, reduction="sum")


def cases(kinds: list[str], only: list[str]) -> Iterator[Row]:
    """Try families, each with local attention and without where it has it."""
    names = {"causal": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "texts": MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES}
    for kind in kinds:
        for name in names[kind]:
            if only and name not in only:
                continue
            try:
                windows = (False, True) if has_window(name) else (False,)
            except Exception as error:
                yield Row(name, kind, False, "not built", reason=str(error)[:80])
                continue
            yield from (case(name, kind, window) for window in windows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="families, with commas between them")
    parser.add_argument("--kind", choices=("causal", "texts"), action="append")
    given = parser.parse_args()
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    path = Path(__file__).parent / "results" / "families.md"
    path.parent.mkdir(exist_ok=True)
    rows = []
    with path.open("w", encoding="utf-8") as file:
        for target in (sys.stdout, file):
            print(HEADER, file=target)
        for row in cases(given.kind or ["causal", "texts"], [one for one in given.only.split(",") if one]):
            rows.append(row)
            for target in (sys.stdout, file):
                print(row, file=target, flush=True)
    print(*(f"{count} {found}" for found, count in Counter(row.found for row in rows).most_common()), sep=", ")


if __name__ == "__main__":
    main()
