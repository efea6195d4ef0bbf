"""Tiny randomly initialised models of the families people fine-tune, and examples to train them on."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from peft import LoraConfig, PeftModel, PromptLearningConfig, PromptTuningConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GemmaConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    PhiConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

VOCABULARY = 96
SIZES = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SIZES, "intermediate_size": 48}
GROUPED = {**WIDE, "num_key_value_heads": 2}

FAMILIES = {
    "llama": LlamaConfig(**GROUPED),
    "qwen2": Qwen2Config(**GROUPED),
    "qwen3": Qwen3Config(**GROUPED, head_dim=8),
    "mistral": MistralConfig(**GROUPED, sliding_window=None),
    "mistral-window": MistralConfig(**GROUPED, sliding_window=5),
    "gemma": GemmaConfig(**GROUPED, head_dim=8),
    "gemma2": Gemma2Config(**GROUPED, head_dim=8),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0, resid_pdrop=0, embd_pdrop=0
    ),
    "gpt-neox": GPTNeoXConfig(**WIDE, hidden_dropout=0, attention_dropout=0),
    "phi": PhiConfig(**WIDE),
}


@dataclass(frozen=True)
class Tokens:
    """An encoded example, as the engine sees one."""

    ids: list[int]
    supervised: list[bool]

    @property
    def cost(self) -> int:
        """Its tokens."""
        return len(self.ids)


def base(family: str, seed: int = 0, **changes: object) -> PreTrainedModel:
    """A frozen random model of a family, large weights so that differences would show."""
    torch.manual_seed(seed)
    config = FAMILIES[family].__class__(**{**FAMILIES[family].to_dict(), "initializer_range": 0.2, **changes})
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa" if family != "gemma2" else "eager")
    return model.requires_grad_(False).eval()


def with_lora(model: PreTrainedModel, dropout: float = 0.0, targets: str | list[str] = "all-linear") -> PeftModel:
    """LoRA on linear layers, with a B that is not zero, so that every gradient has something to say."""
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM", lora_dropout=dropout)
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2, generator=generator)
    return adapted


def with_prompt(model: PreTrainedModel, kind: type[PromptLearningConfig] = PromptTuningConfig) -> PeftModel:
    """Three virtual tokens before every text."""
    torch.manual_seed(3)
    return get_peft_model(model, kind(task_type="CAUSAL_LM", num_virtual_tokens=3))


def examples(count: int = 5, prefix: int = 0, seed: int = 0) -> list[Tokens]:
    """Examples of 4 to 20 tokens after ``prefix`` tokens that all share, the second half supervised."""
    draw = random.Random(seed)
    shared = [draw.randrange(3, VOCABULARY) for _ in range(prefix)]
    made = []
    for _ in range(count):
        own = [draw.randrange(3, VOCABULARY) for _ in range(draw.randrange(4, 21))]
        prompt = prefix + len(own) // 2
        ids = shared + own
        made.append(Tokens(ids, [place >= prompt for place in range(len(ids))]))
    return made
