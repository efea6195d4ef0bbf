"""The backbone of the alias dinov2-small, converted from its package."""

from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.data.images.preprocess import Preprocess
from peft_nb.errors import ModelError
from peft_nb.models import ALIASES, bundled
from peft_nb.models.convert_onnx import convert_onnx
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve


def nothing(share: float, text: str) -> None:
    pass


@pytest.mark.exhaustive
def test_the_alias_is_a_whole_backbone_that_sees_the_same_in_a_mirrored_plain_image() -> None:
    import torch

    alias = ALIASES["dinov2-small"]
    bundled.fetch(alias, nothing)
    base = load(resolve("dinov2-small"), kind="vision")
    assert base.drawn == ("classifier.bias", "classifier.weight")
    body = base.model.dinov2
    assert sum(one.numel() for one in body.parameters()) == alias.parameters
    assert base.tokenizer == Preprocess(256, 224, 224)
    ramp = torch.linspace(-1, 1, 224).expand(1, 3, 224, 224)
    with torch.no_grad():
        hidden = body(ramp).last_hidden_state[0]
        flat = body(torch.zeros(1, 3, 224, 224)).last_hidden_state[0]
    assert torch.isfinite(hidden).all()
    assert hidden.std() > 0.5
    assert torch.cosine_similarity(hidden[0], flat[0], dim=0) < 0.99  # it tells images apart


def test_another_file_is_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "other.onnx"
    file.write_bytes(b"hello")
    with pytest.raises(ModelError, match=r"^cannot read other.onnx as a vision backbone: ") as caught:
        convert_onnx(file, tmp_path, nothing)
    assert "\n" not in str(caught.value)
