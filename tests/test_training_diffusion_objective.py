"""The loss of a denoiser: of each prediction, weighed, exact whatever the cut, and with its class beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from peft_nb.data.detection import detect
from peft_nb.data.images import captioned
from peft_nb.data.images.captioned import parts
from peft_nb.data.images.preprocess import Preprocess
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.training.diffusion_objective import DiffusionObjective, Noise, Seeded
from tests import images
from tests.diffusion import pipeline

CPU = torch.device("cpu")
ROWS = [{"image": row["image"], "text": f"a {row['label']}"} for row in images.rows(6)]
PREPARE = Preprocess(8, 8, 8)


@pytest.fixture(scope="module")
def model(drawing: Path) -> Any:
    return share(load(resolve(drawing), kind="diffusion").model)


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    where = tmp_path_factory.mktemp("class")
    for number in range(3):
        images.drawing("circle", number + 50).save(where / f"{number}.png")
    return list(captioned.encode(ROWS, detect(ROWS), PREPARE, cost=4, class_data=str(where)).examples)


def objective(model: Any, gamma: float | None = None, **fields: Any) -> DiffusionObjective:
    return DiffusionObjective(Noise(model.pipeline.scheduler.config, gamma), **fields)


@pytest.mark.parametrize("predicts", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("gamma", [None, 5.0])
def test_noise_targets_and_weights_are_those_of_diffusers(predicts: str, gamma: float | None) -> None:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import compute_snr

    scheduler = DDPMScheduler(prediction_type=predicts, beta_schedule="scaled_linear")
    latents, noise = torch.randn(2, 4, 1, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    times = torch.tensor([0, 10, 500, 999])
    noisy, timesteps, wanted, weights = Noise(scheduler.config, gamma).added(latents, noise, times)
    torch.testing.assert_close(noisy, scheduler.add_noise(latents, noise, times))
    velocity = scheduler.get_velocity(latents, noise, times)
    torch.testing.assert_close(wanted, {"epsilon": noise, "v_prediction": velocity, "sample": latents}[predicts])
    assert torch.equal(timesteps, times)
    snr = compute_snr(scheduler, times)  # and as in diffusers' own training scripts
    most = torch.stack([snr, torch.full_like(snr, gamma or 0)], 1).min(1).values
    own = {"epsilon": most / snr, "v_prediction": most / (snr + 1), "sample": most}[predicts]
    torch.testing.assert_close(weights, own if gamma else torch.ones(4), rtol=1e-4, atol=1e-6)


def test_a_flow_is_that_of_its_scheduler() -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    noise = Noise(scheduler.config)
    assert noise.predicts == "flow"
    torch.testing.assert_close(noise.sigmas, scheduler.sigmas[: noise.times], rtol=1e-4, atol=1e-5)
    latents, more = torch.randn(2, 2, 1, 8, 8, generator=torch.Generator().manual_seed(0)).unbind()
    noisy, timesteps, wanted, _ = noise.added(latents, more, torch.tensor([0, 600]))
    torch.testing.assert_close(timesteps, scheduler.timesteps[[0, 600]], rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(noisy - timesteps.view(-1, 1, 1, 1) / 1000 * wanted, latents, rtol=1e-4, atol=1e-5)
    drawn = [noise.drawn(torch.Generator().manual_seed(seed)) for seed in range(300)]
    assert 0 <= min(drawn) <= max(drawn) < 1000
    assert 400 < sum(drawn) / 300 < 600


def test_the_loss_is_that_of_the_plain_recipe(model: Any, some: list[Any]) -> None:
    found = objective(model, class_prompt="a shape", prior_weight=0.5)
    seeded = [Seeded(one, seed) for seed, one in enumerate(some[:3])]
    loss = found.loss(model, seeded, CPU)
    wanted = torch.zeros(())
    noise = found.noise
    for one in seeded:
        held = parts(one.signal)
        for which, (text, weight) in enumerate([(held.caption, 1.0), ("a shape", 0.5)]):
            generator = torch.Generator().manual_seed(one.seed + 7919 * which)
            time = torch.tensor([noise.drawn(generator)])
            drawn = torch.randn(1, 1, 8, 8, generator=generator)
            pixels = (torch.tensor(held.images[which]).float() / 127.5 - 1).permute(2, 0, 1).mean(0, keepdim=True)[None]
            noisy, _, target, _ = noise.added(pixels, drawn, time)
            hidden = model.pipeline.encode_prompt([text], CPU, 1, False)[0]
            predicted = model.pipeline.unet(noisy, time, hidden).sample
            wanted = wanted + weight * torch.nn.functional.mse_loss(predicted, target)
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=1e-5)
    assert found.targets(seeded) == 3


def test_a_step_is_the_same_however_it_is_cut(model: Any, some: list[Any]) -> None:
    found = objective(model, class_prompt="a shape")
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        begun = found.begin(model, some, 8, CPU)
        again = found.begin(model, some, 8, CPU)
    model.eval()
    assert [one.seed for one in begun] != [one.seed for one in again]
    assert [len(micro) for micro in found.cut(begun, 8)] == [1] * 6
    assert [len(micro) for micro in found.cut(begun, 25)] == [3, 3]
    assert found.cut([], 8) == []
    whole = found.loss(model, begun, CPU)
    torch.testing.assert_close(sum(found.loss(model, micro, CPU) for micro in found.cut(begun, 25)), whole)


def test_an_evaluation_is_measured_alike_each_time(model: Any, some: list[Any]) -> None:
    found = objective(model)
    scores = found.scores(model, found.begin(model, some, 8, CPU), CPU)
    assert scores.shape == (6, 3)
    assert scores[:, 2].tolist() == [1.0] * 6
    turned = found.scores(model, list(reversed(some)), CPU).flip(0)
    torch.testing.assert_close(scores[:, 0], turned[:, 0], rtol=1e-4, atol=1e-6)


def test_latents_and_texts_are_computed_once_and_forgotten(some: list[Any], tmp_path: Path) -> None:
    model = share(load(resolve(pipeline(tmp_path / "p", latents=True)), kind="diffusion").model)
    prepare = Preprocess(16, 16, 16)
    examples = list(captioned.encode(ROWS, detect(ROWS), prepare, cost=16).examples)
    calls = {"images": 0, "texts": 0}
    encoded, conditions = model.encoded, model.conditions
    model.encoded = lambda pixels: calls.update(images=calls["images"] + len(pixels)) or encoded(pixels)
    model.conditions = lambda texts: calls.update(texts=calls["texts"] + len(texts)) or conditions(texts)

    class Adapted(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = model

        def get_base_model(self) -> Any:
            return self.inside

        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return self.inside(*args, **kwargs)

    found = objective(model)
    with found.installed(Adapted()):
        first = found.scores(Adapted(), examples, CPU)
        again = found.scores(Adapted(), examples, CPU)
        torch.testing.assert_close(again, first, rtol=1e-4, atol=1e-6, equal_nan=True)
        assert calls == {"images": 6, "texts": 3}
    assert not found.latents
    assert not found.prompts
    texts = replace(found, trains_text=True)
    texts.loss(Adapted(), examples, CPU)
    texts.loss(Adapted(), examples, CPU)
    assert calls["texts"] == 9
