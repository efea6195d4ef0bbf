"""What is measured of a model that draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, get_peft_model

from peft_nb.data.detection import detect
from peft_nb.data.images import captioned
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.evaluation.drawing import DrawingEvaluator
from peft_nb.evaluation.evaluators import Unmeasured
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.spec import RunSpec
from peft_nb.training.diffusion_objective import DiffusionObjective, Noise
from tests import images


def test_a_step_of_drawing_is_timed_and_no_image_scored(drawing: Path) -> None:
    model = share(load(resolve(drawing), kind="diffusion").model)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["to_q"])).eval()
    rows = [{"image": row["image"], "text": "a"} for row in images.rows(2)]
    held = captioned.encode(rows, detect(rows), Preprocess(8, 8, 8), cost=4).examples
    objective, metrics = DiffusionObjective(Noise(model.pipeline.scheduler.config)), dict[str, Any]()
    found = DrawingEvaluator(adapted, None, objective, RunSpec(data="x"), held, metrics)
    assert DrawingEvaluator.parts(RunSpec(data="x")) == ["latency"]
    found.latency()
    assert metrics["latency_ms"] > 0
    assert metrics["base_latency_ms"] > 0
    with pytest.raises(Unmeasured, match="shown, and not scored"):
        found.answers()
    with pytest.raises(Unmeasured, match="there is no evaluation set"):
        DrawingEvaluator(adapted, None, objective, RunSpec(data="x"), [], metrics).latency()
