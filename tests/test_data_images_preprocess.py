"""Images are prepared to the last bit as transformers' processors of Pillow do it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image

from peft_nb.data.images.preprocess import FILE, Preprocess
from peft_nb.errors import ModelError
from tests.images import drawing

PROCESSORS: dict[str, dict[str, Any]] = {
    "Bit": {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "resample": 3},
    "ViT": {"size": {"height": 24, "width": 32}, "resample": 2},
    "CLIP": {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
    "ConvNext": {"size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3},
}


@pytest.mark.parametrize("name", PROCESSORS)
def test_the_numbers_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    import transformers

    kind = getattr(transformers, f"{name}ImageProcessorPil", None) or getattr(transformers, f"{name}ImageProcessor")
    processor = kind(**PROCESSORS[name])
    ours = Preprocess.of(processor.to_dict(), name)
    ours.save_pretrained(tmp_path)
    again = Preprocess.read(tmp_path, name, 224)
    for size in ((40, 40), (61, 47), (33, 80), (20, 20)):
        image = drawing("cross", 3, 90).resize(size)
        wanted = numpy.asarray(processor(image, return_tensors="np")["pixel_values"][0])
        for prepare in (ours, again):
            pixels = numpy.asarray(prepare.resized(image), "float64")
            found = ((pixels / 255 - prepare.mean) / prepare.std).transpose(2, 0, 1)
            numpy.testing.assert_allclose(found, wanted, atol=1e-5)


def test_what_a_file_does_not_say_is_imagenets_way(tmp_path: Path) -> None:
    assert Preprocess.read(tmp_path, "m", 96) == Preprocess(0, 96, 96)
    (tmp_path / FILE).write_text(json.dumps({"rescale_factor": 1 / 127.5, "size": 32}))
    with pytest.raises(ModelError, match=r"^m: preprocessor_config.json rescales by 0.0078"):
        Preprocess.read(tmp_path, "m", 96)


def test_another_size_keeps_the_shape_of_the_crop() -> None:
    prepare = Preprocess(256, 224, 224)
    assert (prepare.at(112).edge, prepare.at(112).height) == (128, 112)
    assert prepare.at(None) is prepare.at(224) is prepare
    assert Preprocess.from_dict(json.loads(json.dumps(prepare.to_dict()))) == prepare


def test_room_is_left_for_crops_and_the_shape_is_kept() -> None:
    roomy = Preprocess(0, 32, 32).resized(Image.new("RGB", (200, 100)), roomy=True)
    assert roomy.size == (74, 37)
