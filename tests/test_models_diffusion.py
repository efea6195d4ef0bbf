"""A pipeline of diffusers as a base: found, loaded, shared, laid out on shapes, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from peft_nb.errors import ModelError
from peft_nb.models import diffusion, hub
from peft_nb.models.load import load
from peft_nb.models.meta import load_meta, single_layer
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.models.weights import fingerprint
from peft_nb.planning import memory
from tests.diffusion import pipeline


def test_a_pipeline_is_a_base_whose_twin_draws_by_itself(drawing: Path) -> None:
    base = load(resolve(drawing), kind="diffusion")
    assert load(resolve(drawing), kind="diffusion") is base
    assert (base.tokenizer.height, base.model.shrinks, base.model.config.image_size) == (8, 1, 8)
    twin = share(base.model)
    assert twin.network is twin.pipeline.unet is not base.model.network
    assert twin.network.conv_in.weight.data_ptr() == base.model.network.conv_in.weight.data_ptr()
    images = twin.drawn(["a three", "a three"], [1, 2], 8, 2, None)
    assert (images.shape, images.dtype) == ((2, 8, 8, 3), torch.uint8)
    assert torch.equal(images, base.model.drawn(["a three", "a three"], [1, 2], 8, 2, None))
    assert not torch.equal(images[0], images[1])
    assert len(fingerprint(base)) == 64


def test_an_autoencoder_shrinks_images_and_its_latents_are_scaled(tmp_path: Path) -> None:
    where = pipeline(tmp_path / "p", latents=True)
    model = load(resolve(where), kind="diffusion").model
    assert (model.shrinks, model.config.image_size) == (2, 16)
    pixels = torch.rand(2, 3, 16, 16) * 2 - 1
    mean, deviation = model.encoded(pixels)
    own = model.pipeline.vae.encode(pixels).latent_dist
    torch.testing.assert_close(mean, own.mean * model.pipeline.vae.config.scaling_factor)
    assert mean.shape == deviation.shape == (2, 4, 8, 8)
    assert model.drawn(["a"], [1], 16, 2, None).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("kind", ["sd", "sdxl", "sd3"])
def test_shapes_without_weights_count_everything(kind: str, tmp_path: Path) -> None:
    where = pipeline(tmp_path / kind, kind, latents=True)
    base, meta = load(resolve(where), kind="diffusion"), load_meta(resolve(where), kind="diffusion")
    assert {one.device.type for one in meta.model.parameters()} == {"meta"}
    parts = [one for one in base.model.pipeline.components.values() if isinstance(one, torch.nn.Module)]
    count = sum(one.numel() for part in parts for one in part.parameters())
    assert memory.sizes(base.model)[0] == memory.sizes(meta.model)[0] == count
    filled = single_layer(meta).model
    given = filled.given(filled.conditions(["a", "b"]), (16, 16))
    latents = torch.zeros(2, 4, 8, 8)
    assert filled(latents, torch.tensor([1, 9]), **given).shape == latents.shape


def test_what_is_no_pipeline_that_can_be_trained_is_refused_in_one_line(
    drawing: Path, vision: Path, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="draws images; set task: text-to-image"):
        load(resolve(drawing), kind="causal")
    with pytest.raises(ModelError, match="is a vit model, which draws no images; take another, such as a pipeline"):
        load(resolve(vision), kind="diffusion")
    with pytest.raises(ModelError, match="quantization: 4bit is not tried with pipelines"):
        load(resolve(drawing), kind="diffusion", quantization="4bit")
    other = shutil.copytree(drawing, tmp_path / "other")
    index = json.loads((other / hub.INDEX).read_text())
    (other / hub.INDEX).write_text(json.dumps({**index, "_class_name": "FluxPipeline"}))
    with pytest.raises(ModelError, match=r"is a FluxPipeline, which is not trained here; StableDiffusionPipeline, "):
        diffusion.config(other, "other")
    shutil.rmtree(other / "unet")
    (other / hub.INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"it has no unet/config\.json"):
        diffusion.config(other, "other")
    next((other / "text_encoder").glob("*.safetensors")).unlink()
    with pytest.raises(ModelError, match=r"it has no text_encoder/\*\.safetensors"):
        resolve(other)
