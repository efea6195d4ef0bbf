"""How an image becomes what a model takes: resized, cropped and normalised, as the model's own file says.

It does what transformers' image processors do with Pillow, to the last bit, and needs neither them nor torchvision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import ModelError
from peft_nb.system.files import atomic_text

if TYPE_CHECKING:
    from PIL.Image import Image

FILE = "preprocessor_config.json"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BILINEAR, BICUBIC = 2, 3  # Pillow's numbers
ROOM = 1.15  # times the crop's size, to which an image is resized where it is cropped at random


@dataclass(frozen=True)
class Preprocess:
    """How images are prepared for a model; it stands where a text model has its tokenizer.

    Attributes
    ----------
    edge : int
        Pixels of the shorter side after resizing; 0 resizes to `height` × `width` whatever the shape.
    height, width : int
        Pixels of what the model takes.
    resample : int
        Pillow's filter.
    mean, std : tuple of float
        Of each channel, taken off and divided by, after the division by 255.
    """

    edge: int
    height: int
    width: int
    resample: int = BICUBIC
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    pad_token_id: int = 0  # whoever asks a tokenizer for it pads nothing here

    @classmethod
    def of(cls, told: Mapping[str, Any], name: str, image_size: int = 224) -> Preprocess:
        """Read what transformers' image processors write.

        Parameters
        ----------
        told : mapping
            Of ``preprocessor_config.json``, or a processor's ``to_dict()``; an empty one gives ImageNet's usual.
        name : str
            Of the model, for errors.
        image_size : int, default 224
            What the model was made for, where the file says nothing.

        Returns
        -------
        Preprocess
            What it says.

        Raises
        ------
        ModelError
            It says what cannot be done here, such as channels that are not divided by 255.
        """
        told = {name: value for name, value in told.items() if value is not None}
        size, crop = told.get("size", image_size), told.get("crop_size", told.get("size", image_size))
        if told.get("do_rescale", True) and abs(told.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
            raise ModelError(f"{name}: {FILE} rescales by {told['rescale_factor']}; only 1/255 is known here")
        mean, std = tuple(told.get("image_mean", IMAGENET_MEAN)), tuple(told.get("image_std", IMAGENET_STD))
        if not told.get("do_normalize", True):
            mean, std = (0.0,) * 3, (1.0,) * 3
        resample = int(told.get("resample", BILINEAR if told else BICUBIC))
        edge = size.get("shortest_edge", 0) if isinstance(size, Mapping) else 0
        height, width = _sides(crop if told.get("do_center_crop") else size)
        if edge and not told.get("do_center_crop"):  # ConvNeXt: enlarged, then cropped; from 384 pixels on squeezed
            share = told.get("crop_pct", 224 / 256)
            edge = int(edge / share) if edge < 384 else 0
        return cls(edge, height, width, resample, mean, std)

    @classmethod
    def read(cls, folder: Path, name: str, image_size: int) -> Preprocess:
        """Read the file in a model's folder; without one it is ImageNet's usual way, at the model's size."""
        file = folder / FILE
        return cls.of(json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}, name, image_size)

    def at(self, size: int | None) -> Preprocess:
        """The same at another size of what the model takes."""
        if not size or (size, size) == (self.height, self.width):
            return self
        return replace(self, edge=round(self.edge * size / min(self.height, self.width)), height=size, width=size)

    def resized(self, image: Image, roomy: bool = False) -> Image:
        """Prepare an image but for its numbers.

        Parameters
        ----------
        image : PIL.Image.Image
            Of any size, in RGB.
        roomy : bool, default False
            Whether to leave room around, for crops that are drawn at random.

        Returns
        -------
        PIL.Image.Image
            Of `height` × `width`, or with the image's own shape and somewhat larger.
        """
        wide, high = image.size
        if roomy:
            scale = ROOM * max(self.height / high, self.width / wide)
            return image.resize(
                (max(self.width, round(wide * scale)), max(self.height, round(high * scale))), self.resample
            )
        if not self.edge:
            return image.resize((self.width, self.height), self.resample)
        short, long = sorted(image.size)
        longer = int(self.edge * long / short)
        image = image.resize((self.edge, longer) if wide <= high else (longer, self.edge), self.resample)
        left, top = (image.width - self.width) // 2, (image.height - self.height) // 2
        return image.crop((left, top, left + self.width, top + self.height))

    def to_dict(self) -> dict[str, Any]:
        """As plain values, from which the constructor makes it again."""
        return asdict(self) | {"mean": list(self.mean), "std": list(self.std)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Preprocess:
        """Make it of what :meth:`to_dict` gave."""
        return cls(**{**told, "mean": tuple(told["mean"]), "std": tuple(told["std"])})

    def save_pretrained(self, folder: str | Path) -> None:
        """Write it as transformers' image processors read it."""
        sides = {"height": self.height, "width": self.width}
        told = {
            "image_processor_type": "BitImageProcessor" if self.edge else "ViTImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": self.edge} if self.edge else sides,
            "resample": self.resample,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            "do_convert_rgb": True,
        }
        told |= {"do_center_crop": True, "crop_size": sides} if self.edge else {}
        atomic_text(Path(folder) / FILE, json.dumps(told, indent=1))


def _sides(size: Any) -> tuple[int, int]:
    if isinstance(size, Mapping):
        edge = size.get("shortest_edge")
        return int(size.get("height", edge)), int(size.get("width", edge))
    return int(size), int(size)
