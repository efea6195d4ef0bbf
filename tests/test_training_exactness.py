"""On the default model and real text: fast, prefix-shared and padded agree, and so do the fused layers."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from peft_nb.data import detection, encoding, support_desk
from peft_nb.data.rendered import RenderedRows
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.training import fused, objectives
from peft_nb.training.objectives import Padded, PaddingFree

CPU = torch.device("cpu")

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="module")
def trained() -> tuple[PeftModel, list[encoding.Example]]:
    base = load(resolve("smollm2-135m"))
    model = get_peft_model(share(base.model), LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    rows = support_desk.load()["train"][:4]
    return model, encoding.encode(RenderedRows(rows, detection.detect(rows), base.tokenizer), max_length=256).examples


@pytest.mark.parametrize("share_prefix", [False, True])
def test_losses_and_gradients_agree(trained: tuple[PeftModel, list[encoding.Example]], share_prefix: bool) -> None:
    model, examples = trained
    assert max(objectives.disagreement(model, PaddingFree(share_prefix), Padded(2), examples, CPU)) < 1e-4


def test_every_adapted_layer_runs_as_one_function(trained: tuple[PeftModel, list[encoding.Example]]) -> None:
    model, _ = trained
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert len(layers) == 7 * 30
    assert all(map(fused.fits, layers))
