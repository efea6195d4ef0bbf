"""Fresh heads on vision models of many families, beside the base they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from peft_nb.data.images.preprocess import Preprocess
from peft_nb.errors import ModelError
from peft_nb.models import image_head
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from tests.images import vision_model

FAMILIES = ("vit", "deit", "dinov2", "swin", "convnext", "clip")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_gets_a_head_and_keeps_its_weights(family: str, tmp_path: Path) -> None:
    base = load(resolve(vision_model(tmp_path / family, family)), kind="vision")
    before = {name: one.clone() for name, one in base.model.state_dict().items()}
    model, new = image_head.build(base, ["a", "b", "c"], "single_label_classification")
    assert new == ["classifier"]
    assert model.config.id2label == {0: "a", 1: "b", 2: "c"}
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert model(pixel_values=images).logits.shape == (2, 3)
        for name in new:
            for one in model.get_submodule(name).parameters():
                one.fill_(1.0)
    assert all(torch.equal(one, before[name]) for name, one in base.model.state_dict().items())


def test_a_live_pair_of_model_and_processor_is_a_base(tmp_path: Path) -> None:
    import transformers

    folder = vision_model(tmp_path, "vit")
    live: Any = transformers.ViTForImageClassification.from_pretrained(folder, num_labels=7)
    kind = getattr(transformers, "ViTImageProcessorPil", None) or transformers.ViTImageProcessor
    base = load(resolve((live, kind(size={"height": 32, "width": 32}))), kind="vision")
    assert base.tokenizer == Preprocess(0, 32, 32, 2, (0.5,) * 3, (0.5,) * 3)
    model, _ = image_head.build(base, ["a", "b"], "single_label_classification")
    assert model.classifier.out_features == 2
    assert live.classifier.out_features == 7
    bare = transformers.ViTModel.from_pretrained(folder)
    base = load(resolve((bare, kind(size={"height": 32, "width": 32}))), kind="vision")
    again, _ = image_head.build(base, ["a", "b"], "single_label_classification")
    images = torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        one, other = (each.vit(images).last_hidden_state for each in (model, again))
    torch.testing.assert_close(one, other)


def test_models_of_the_wrong_kind_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match=r"is a llama model, which reads no images; take another, such as dinov2-small"
    ):
        load(resolve(base), kind="vision")
    folder = vision_model(tmp_path, "vit")
    for kind in ("causal", None):
        with pytest.raises(ModelError, match=r"is a vit model, which reads images; set task: image-classification"):
            load(resolve(folder), kind=kind)  # type: ignore[arg-type]


def test_a_size_that_a_model_cannot_take_is_found_on_its_shapes(tmp_path: Path) -> None:
    base = load(resolve(vision_model(tmp_path / "swin", "swin")), kind="vision")  # windows of 4, of 8 and 4 places
    assert image_head.refuses(base, Preprocess(0, 48, 48), False) == ""
    assert "length 16" in image_head.refuses(base, Preprocess(0, 16, 16), False)
    plain = load(resolve(vision_model(tmp_path / "vit")), kind="vision")
    assert "doesn't match model" in image_head.refuses(plain, Preprocess(0, 48, 48), False)
    assert image_head.refuses(plain, Preprocess(0, 48, 48), True) == ""
