"""A base with a head for whole texts: pooled as the base was trained where that is known, else transformers' own."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

from peft_nb.errors import ModelError
from peft_nb.models.load import Base
from peft_nb.models.plain import MARKS
from peft_nb.models.share import share
from peft_nb.system.transformers_private import initialize

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]


class MeanPooled(PreTrainedModel):
    """An encoder and a linear head on the mean of a text's hidden states.

    The pooling of Sentence-BERT (Reimers and Gurevych, 2019, arXiv:1908.10084).

    Parameters
    ----------
    config : transformers.PreTrainedConfig
        The encoder's, with the number of outputs.

    Attributes
    ----------
    encoder : transformers.PreTrainedModel
        Set by whoever makes the head, as it has been loaded already.
    """

    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    _supports_attention_backend = _supports_flash_attn = _supports_flex_attn = _supports_sdpa = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, **ignored: Any
    ) -> SequenceClassifierOutput:
        """Compute the logits of padded texts, shape ``(texts, classes)``."""
        hidden = self.encoder(input_ids, attention_mask=attention_mask).last_hidden_state
        seen = attention_mask[..., None].to(hidden.dtype)
        return SequenceClassifierOutput(logits=self.classifier((hidden * seen).sum(1) / seen.sum(1)))


def pooling(base: Base) -> str:
    """Say how a base pools: ``mean`` where sentence-transformers' own file beside it says so, else ``""``."""
    file = (base.folder or Path()) / "1_Pooling" / "config.json"
    if base.folder is None or not file.is_file():
        return ""
    told = json.loads(file.read_text(encoding="utf-8"))
    modes = {key.removeprefix("pooling_mode_") for key, on in told.items() if key.startswith("pooling_mode_") and on}
    return "mean" if (modes or {told.get("pooling_mode")}) in ({"mean_tokens"}, {"mean"}) else ""


def build(base: Base, names: Sequence[str], problem_type: ProblemType) -> tuple[PreTrainedModel, list[str]]:
    """Put a fresh head on a base.

    Parameters
    ----------
    base : Base
        Any encoder or causal model; it stays as it is.
    names : sequence of str
        What the head's outputs are called, kept in the configuration.
    problem_type : {"single_label_classification", "multi_label_classification", "regression"}
        What transformers calls it, kept there too.

    Returns
    -------
    tuple of transformers.PreTrainedModel and list of str
        The model, a module tree of its own that shares the base's tensors, and the names of its parts that are
        new: they are in float32, have to be trained in full and saved with the adapter.

    Raises
    ------
    ModelError
        When transformers has no head for this kind of model.
    """
    twin = share(base.model)
    body = twin.base_model
    config = copy.deepcopy(body.config)
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}
    config.problem_type = problem_type
    config.get_text_config().pad_token_id = config.pad_token_id = base.tokenizer.pad_token_id
    with torch.device("meta"):  # only what is new gets memory
        model: Any = MeanPooled(config) if pooling(base) == "mean" else _stock(config, base.source.name)
    new = [name for name, part in model.named_children() if part is not model.base_model and list(part.parameters())]
    for name in new:
        part = model.get_submodule(name).to_empty(device=base.device).float()
        initialize(model, part)
        part.register_forward_pre_hook(in_float32)
    if getattr(model.base_model, "pooler", None) is None:
        body.pooler = None
    elif base.drawn:
        new.append("pooler")  # its values are random, and another process would draw others
    setattr(model, model.base_model_prefix, body)
    for mark in MARKS:  # PEFT and Trainer look for them
        if hasattr(twin, mark):
            setattr(model, mark, getattr(twin, mark))
    return model.requires_grad_(False).eval(), new


def _stock(config: Any, name: str) -> Any:
    try:
        return AutoModelForSequenceClassification.from_config(config)
    except ValueError:
        raise ModelError(
            f"{name} is a {config.model_type} model, for which transformers has no classifier; take another, such as "
            "minilm-l6"
        ) from None


def in_float32(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A head is trained in full, for which 16 bits are too few, whatever its base computes in."""
    return tuple(one.float() if torch.is_tensor(one) and one.is_floating_point() else one for one in inputs)
