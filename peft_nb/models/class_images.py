"""Images of a class that a pipeline draws before it is adapted, kept in the user's cache."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from peft_nb.events import Progress
from peft_nb.models.cache import prepared
from peft_nb.models.load import Base
from peft_nb.models.weights import fingerprint

AT_ONCE = 4  # images drawn together


def class_images(
    base: Base,
    prompt: str,
    count: int,
    *,
    size: int,
    steps: int,
    guidance: float | None,
    seed: int,
    progress: Progress,
) -> Path:
    """Draw images of a class, or find those that the same pipeline drew before.

    Parameters
    ----------
    base : Base
        The pipeline, as it is without an adapter.
    prompt : str
        What all images show.
    count : int
        How many.
    size, steps, guidance
        As for :meth:`.diffusion.Diffusion.drawn`.
    seed : int
        Of the first image; each further one has the next.
    progress : callable
        Told how far it is; whatever it raises leaves nothing behind.

    Returns
    -------
    Path
        A folder of PNG files.

    Raises
    ------
    StoreError
        The cache cannot be written.
    """
    from PIL import Image

    told = json.dumps([fingerprint(base), base.dtype, prompt, count, size, steps, guidance, seed])

    def fill(folder: Path) -> None:
        for start in range(0, count, AT_ONCE):
            progress(start / count, "drawing images of the class")
            seeds = [seed + place for place in range(start, min(start + AT_ONCE, count))]
            images = base.model.drawn([prompt] * len(seeds), seeds, size, steps, guidance)
            for number, image in zip(seeds, images, strict=True):
                Image.fromarray(image.numpy()).save(folder / f"{number}.png")

    return prepared(f"class-images-{hashlib.sha256(told.encode()).hexdigest()[:16]}", fill, progress)
