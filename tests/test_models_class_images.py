"""Images of a class: drawn once by the base, the same as it draws them otherwise, and nothing where it was stopped."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image

from peft_nb.models.class_images import class_images
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.training.stop import Abandoned


def test_they_are_drawn_once_and_kept(drawing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PEFT_NB_CACHE", str(tmp_path))
    base, told = load(resolve(drawing), kind="diffusion"), list[float]()
    how = {"size": 8, "steps": 2, "guidance": None, "seed": 7}

    def stopped(share: float, what: str) -> None:
        if share:
            raise Abandoned("before the first step")

    with pytest.raises(Abandoned):
        class_images(base, "a three", 6, **how, progress=stopped)
    assert not list(tmp_path.glob("*/*class*/*.png"))
    folder = class_images(base, "a three", 6, **how, progress=lambda share, what: told.append(share))
    assert told == [0, 4 / 6]
    assert tmp_path in folder.parents
    assert {one.name for one in folder.iterdir()} == {f"{seed}.png" for seed in range(7, 13)}
    assert class_images(base, "a three", 6, **how, progress=stopped) == folder
    other = class_images(base, "a four", 1, **how, progress=lambda share, what: None)
    assert other != folder
    own = base.model.drawn(["a three"], [12], 8, 2, None)[0].numpy()
    assert abs(own.astype(int) - numpy.asarray(Image.open(folder / "12.png"))).max() <= 1  # rounding in a batch
