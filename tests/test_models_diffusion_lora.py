"""An adapter as diffusers keeps it does in plain diffusers what it does here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from peft_nb.errors import MethodError
from peft_nb.models.diffusion_lora import FILE, LoraFile, require
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.spec import recipes
from peft_nb.tasks import TASKS
from tests.diffusion import pipeline


@pytest.mark.parametrize(
    ("kind", "texts", "options"),
    [
        ("sd", True, {"use_rslora": True}),
        ("sd", False, {"target_modules": recipes.get("text-to-image")["target_modules"]}),  # convolutions too
        ("sdxl", False, {"use_dora": True}),
        ("sd3", True, {}),
    ],
)
def test_plain_diffusers_draws_the_same(kind: str, texts: bool, options: dict[str, Any], tmp_path: Path) -> None:
    import diffusers

    where = pipeline(tmp_path / kind, kind)
    model = share(load(resolve(where), kind="diffusion").model)
    if texts:
        model.train_text_encoders()
    layers = list(TASKS["text-to-image"].target_modules)
    config = LoraConfig(**{"r": 4, "lora_alpha": 6, "target_modules": layers, **options})
    adapted = get_peft_model(model, config).eval()
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    assert any("text_encoder" in name and "lora_" in name for name, _ in adapted.named_parameters()) == texts
    LoraFile(adapted).save_pretrained(tmp_path / "adapter")
    assert (tmp_path / "adapter" / FILE).is_file()

    absent = {"vae": None} | ({"text_encoder_3": None, "tokenizer_3": None} if kind == "sd3" else {})
    plain = diffusers.DiffusionPipeline.from_pretrained(where, local_files_only=True, **absent)
    how = {"height": 64, "width": 64, "num_inference_steps": 3, "output_type": "latent"}

    def drawn(pipe: diffusers.DiffusionPipeline) -> torch.Tensor:
        return pipe("a three", generator=torch.Generator().manual_seed(1), **how).images

    before = drawn(plain)
    plain.load_lora_weights(tmp_path / "adapter")
    after, ours = drawn(plain), drawn(adapted.get_base_model().pipeline)
    assert (after - before).abs().max() > 1e-2
    torch.testing.assert_close(after, ours, rtol=1e-4, atol=1e-4)


def test_only_lora_is_what_diffusers_loads() -> None:
    from peft import IA3Config

    require(LoraConfig(), "lora")
    with pytest.raises(MethodError, match=r"^method: ia3: pipelines of diffusers take adapters of LoRA alone"):
        require(IA3Config(), "ia3")
