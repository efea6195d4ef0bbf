"""Methods that leave the layers alone and train tokens: soft prompts, prefixes, and rows of the embedding."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from peft_nb.methods.config_source import ConfigClass
from peft_nb.methods.registry import Method, register
from peft_nb.training.hooks import Hooks

if TYPE_CHECKING:
    import torch
    from peft import PeftModel


class Written(Hooks):
    """Virtual tokens that a network may write: PEFT saves what it has written, and training goes on with itself."""

    def __init__(self, networked: bool) -> None:
        if networked:
            self.fresh = "what is saved is what its network wrote, not the network; train without init_adapter"

    def state(self, model: PeftModel) -> dict[str, torch.Tensor]:
        """The network's weights."""
        weights: dict[str, torch.Tensor] = model.prompt_encoder["default"].state_dict()
        return weights

    def restore(self, model: PeftModel, state: dict[str, torch.Tensor]) -> None:
        """Set them again."""
        model.prompt_encoder["default"].load_state_dict(state)


class Rounded(Hooks):
    """A prompt and a gate in float32 in the attention of a base in bfloat16: each is used in the base's dtype."""

    def begin(self, model: PeftModel, batches: Iterable[dict[str, Any]]) -> None:
        """Have every attention round them while it computes."""
        from peft.tuners.adaption_prompt.layer import AdaptedAttention

        for module in model.modules():
            if isinstance(module, AdaptedAttention):
                module.register_forward_pre_hook(_rounded, with_kwargs=True)
                module.register_forward_hook(_as_they_are, always_call=True)


def _rounded(module: torch.nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
    dtype = named["hidden_states"].dtype if "hidden_states" in named else given[0].dtype
    for name, parameter in module.named_parameters(recurse=False):
        vars(module)[name] = parameter.to(dtype)  # found before the parameter


def _as_they_are(module: torch.nn.Module, given: tuple[Any, ...], output: Any) -> None:
    for name, _ in module.named_parameters(recurse=False):
        vars(module).pop(name, None)


PROMPT = Method(
    name="prompt",
    help="Trains the embeddings of a few virtual tokens before every text and nothing else.",
    when="many customers on one base, each with one small file; large bases",
    source="Lester et al., 2021, arXiv:2104.08691",
    config_class=ConfigClass("PromptTuningConfig"),
    fields={"num_virtual_tokens": "num_virtual_tokens"},
    # 20 tokens from the vocabulary at 0.3 with Adafactor in the paper; with AdamW a tenth of that.
    defaults={"num_virtual_tokens": 20, "learning_rate": 3e-2},
    options={"prompt_tuning_init": "SAMPLE_VOCAB"},
    rows=200,  # soft prompts fall behind with few rows: Gu et al., 2021, arXiv:2109.04332
    quantizations=("none", "4bit", "8bit"),
    padding_free=False,  # what comes before a text breaks its bounds in a row of many
    mergeable=False,
    peft_types=("CAUSAL_LM",),  # PEFT gives a classifier embeddings in place of tokens, which one that pools refuses
)
register(PROMPT)
register(
    replace(
        PROMPT,
        name="p-tuning",
        help="Trains a small network that computes the embeddings of a few virtual tokens before every text.",
        when="prompt tuning is unstable",
        source="Liu et al., 2021, arXiv:2103.10385",
        config_class=ConfigClass("PromptEncoderConfig"),
        fields={**PROMPT.fields, "dropout": "encoder_dropout"},
        defaults={"num_virtual_tokens": 20, "learning_rate": 1e-3},
        options={"encoder_hidden_size": 128},
        hooks=lambda spec: Written(networked=True),
    )
)
register(
    replace(
        PROMPT,
        name="prefix",
        help="Trains keys and values that every layer sees before the text.",
        when="many customers on one base, and prompt tuning is too weak",
        source="Li and Liang, 2021, arXiv:2101.00190",
        config_class=ConfigClass("PrefixTuningConfig"),
        defaults={"num_virtual_tokens": 20, "learning_rate": 1e-2},
        options={},
        hooks=lambda spec: Written(networked=bool(spec.method_options.get("prefix_projection"))),
    )
)
register(
    replace(
        PROMPT,
        name="adaption-prompt",
        help="Trained tokens in the attention of the upper layers, behind a gate that starts at zero.",
        when="instruction tuning of a Llama with few parameters, starting exactly at the base model",
        source="Zhang et al., 2023, arXiv:2303.16199",
        config_class=ConfigClass("AdaptionPromptConfig"),
        fields={"num_virtual_tokens": "adapter_len"},
        defaults={"num_virtual_tokens": 10, "learning_rate": 9e-3},  # the paper's, section 4.1
        options={},
        # The paper's 30 of 32 layers.
        fitted=lambda spec, model_config, steps: {"adapter_layers": max(1, model_config.num_hidden_layers - 2)},
        rows=Method.rows,
        hooks=lambda spec: Rounded(),
    )
)
register(
    Method(
        name="trainable-tokens",
        help="Trains the embeddings of the tokens that you name, and nothing else.",
        when="new words or control tokens, usually combined with another method",
        source="PEFT, trainable tokens",
        config_class=ConfigClass("TrainableTokensConfig"),
        fields={"target_modules": "target_modules"},
        defaults={"learning_rate": 1e-2},
        quantizations=("none", "4bit", "8bit"),
        required=("token_indices",),
    )
)
