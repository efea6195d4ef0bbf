"""Images and vision models for tests, so small that a run on them takes about a second."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

SHAPES = ("circle", "cross", "square")


def drawing(shape: str, seed: int, side: int = 40) -> Image.Image:
    """A shape somewhere on a noisy ground."""
    draw, colour = random.Random(f"{shape}/{seed}"), (230, 230, 230)
    image = Image.new("RGB", (side, side), tuple(draw.randrange(60) for _ in range(3)))
    for _ in range(side * 2):
        image.putpixel((draw.randrange(side), draw.randrange(side)), tuple(draw.randrange(256) for _ in range(3)))
    x, y, r = draw.randrange(side // 4, side // 2), draw.randrange(side // 4, side // 2), side // 4
    pen = ImageDraw.Draw(image)
    if shape == "circle":
        pen.ellipse((x, y, x + r, y + r), fill=colour)
    elif shape == "square":
        pen.rectangle((x, y, x + r, y + r), outline=colour)
    else:
        pen.line((x, y, x + r, y + r), fill=colour, width=3)
        pen.line((x + r, y, x, y + r), fill=colour, width=3)
    return image


def rows(count: int) -> list[dict[str, Any]]:
    """As many drawings, each with its shape."""
    return [{"image": drawing(SHAPES[n % 3], n), "label": SHAPES[n % 3]} for n in range(count)]


def folder(path: Path, count: int) -> Path:
    """The same as files in folders."""
    for number, row in enumerate(rows(count)):
        (path / row["label"]).mkdir(parents=True, exist_ok=True)
        row["image"].save(path / row["label"] / f"{number}.png")
    return path


def vision_model(path: Path, kind: str = "vit", side: int = 32) -> Path:
    """A random model of one family of two blocks, for images of 32 pixels, with how they are prepared."""
    import torch
    import transformers

    from peft_nb.data.images.preprocess import Preprocess

    small: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": side}
    small["initializer_range"] = 0.2
    patches = {**small, "patch_size": 8, "intermediate_size": 64}
    stages = {"initializer_range": 0.2, "image_size": side, "patch_size": 4, "embed_dim": 16, "window_size": 4}
    stages |= {"depths": [1, 1], "num_heads": [2, 2]}
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "vit": ("ViT", patches),
        "deit": ("DeiT", patches),
        "dinov2": ("Dinov2", {**small, "patch_size": 8, "mlp_ratio": 2}),
        "swin": ("Swin", stages),
        "convnext": (
            "ConvNext",
            {"hidden_sizes": [16, 32], "depths": [1, 1], "num_stages": 2, "image_size": side, "initializer_range": 0.2},
        ),
        "clip": ("CLIP", {"vision_config": patches, "text_config": {**small, "vocab_size": 9}, "projection_dim": 8}),
    }
    name, sizes = made[kind]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = getattr(transformers, f"{name}Config")(**sizes)
        model = getattr(transformers, f"{name}Model")(config)
    model.save_pretrained(path)
    Preprocess(0, side, side).save_pretrained(path)
    return path
