"""A run on captioned images from the first row to the adapter in plain diffusers: told, drawn, stopped, resumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

import peft_nb
from peft_nb.errors import DataError, MethodError, ModelError, RunError, SpecError
from peft_nb.events import Notice, Sampled
from peft_nb.models.diffusion_lora import FILE
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.ui import status
from peft_nb.ui.live import view_of
from tests import images
from tests.conftest import stop_at
from tests.diffusion import pipeline

ROWS = [{"image": row["image"], "text": f"a {row['label']}"} for row in images.rows(24)]


@pytest.fixture(scope="module")
def train(drawing: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    store = Store(tmp_path_factory.mktemp("store"))

    def train(*listeners: Any, data: Any = ROWS, **fields: Any) -> Run:
        small = {"data": "(in memory)", "model": str(drawing), "dtype": "float32", "device": "cpu", "batch_size": 4}
        usual = {"task": "text-to-image", "learning_rate": 5e-3, "max_steps": 6, "num_inference_steps": 2}
        return begin(RunSpec(**{**small, **usual, **fields}), data=data, store=store, listeners=listeners).wait()

    return train


@pytest.fixture(scope="module")
def finished(train: Callable[..., Run]) -> Run:
    return train(max_steps=20, eval_steps=10, eval_fraction=0.25, sample_prompts=["a cross", "a <b>"], snr_gamma=5)


def test_a_run_learns_and_is_shown(finished: Run) -> None:
    metrics = finished.metrics
    assert metrics["eval_loss"] < metrics["base_eval_loss"]
    assert metrics["path"] == "noise of all times, epsilon predicted, min-SNR 5"
    assert metrics["forecast_seconds"] > 0
    assert metrics["latency_ms"] > 0
    names = (finished.folder / "adapter" / "adapter_config.json").read_text()
    assert "to_q" in names
    sampled = [event for event in finished.events() if isinstance(event, Sampled)]
    assert [(event.step, event.prompt) for event in sampled] == [
        (step, prompt) for step in (0, 10, 20) for prompt in ("a cross", "a <b>")
    ]
    assert len({event.image for event in sampled}) > 2  # they change
    view = view_of(finished)
    page = status.samples(view)
    assert page.count("data:image/jpeg;base64,") == 6
    assert "a &lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("base model") == 4  # below each image, and for who cannot see it
    assert "Losses: MSE per image" in (finished.folder / "adapter" / "README.md").read_text()


def test_it_draws_alike_once_it_is_opened_again(finished: Run) -> None:
    found = finished.predict(["a cross", "a circle"])
    assert list(found.columns) == ["prompt", "image"]
    assert found.image[0].size == (8, 8)
    again = peft_nb.load(finished.id, store=finished.store).predict("a cross")
    one, other = (numpy.asarray(each.image[0]).astype(int) for each in (again, found))
    assert abs(one - other).max() <= 1  # rounding in a batch
    with finished.model.disable_adapter():
        bare = finished.predict("a cross")
    assert abs(numpy.asarray(bare.image[0]).astype(int) - other).max() > 1
    assert len(finished.predict([])) == 0
    with pytest.raises(RunError, match="draws images and writes no texts; call predict"):
        finished.generate("a cross")


def drawn_by_card(run: Run, base: Path) -> dict[str, Any]:
    """What the lines of the model card find, with the steps and the seed of the run."""
    folder, seen = run.folder / "adapter", dict[str, Any]()
    lines = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    lines = lines.replace("path/to/this/folder", str(folder)).replace(f'"path/to/{base.name}"', repr(str(base)))
    lines = lines.replace("generator=", "num_inference_steps=2, generator=").replace("(0)", "(42)")
    exec(lines.replace('image.save("image.png")', ""), seen)
    return seen


def test_plain_diffusers_draws_the_same_by_the_lines_of_the_card(finished: Run, drawing: Path) -> None:
    assert (finished.folder / "adapter" / FILE).is_file()
    pixels = drawn_by_card(finished, drawing)["pixels"]
    ours = torch.tensor(numpy.asarray(finished.predict("a cross").image[0])).float()[:, :, 0] / 255
    torch.testing.assert_close(pixels[0], ours, atol=0.01, rtol=0)


def test_two_runs_are_compared_by_what_they_draw(finished: Run, train: Callable[..., Run]) -> None:
    other = train(max_steps=2, eval_fraction=0.25, method="dora")
    compared = peft_nb.compare(finished, other)
    assert compared._repr_html_().count('alt="the image drawn"') >= 2
    assert "(an image)" in str(compared)


def test_a_run_goes_on_where_it_stopped_without_its_images(train: Callable[..., Run]) -> None:
    whole = train()
    part = train(stop_at(3))
    assert part.status == "stopped"
    again = peft_nb.load(part.id, store=part.store).resume()
    assert again.status == "finished"
    losses, wanted = (one.history.loss.dropna().tolist() for one in (again, whole))
    assert len(losses) == 6
    assert losses == pytest.approx(wanted, rel=1e-5)
    assert again.metrics["eval_loss"] == pytest.approx(whole.metrics["eval_loss"], rel=1e-5)


def test_a_thing_is_learned_from_a_folder_without_texts_and_its_class_kept(
    train: Callable[..., Run], tmp_path: Path
) -> None:
    for name, count in (("thing", 4), ("class", 6)):
        (tmp_path / name).mkdir()
        for number in range(count):
            images.drawing("cross" if name == "thing" else "circle", number).save(tmp_path / name / f"{number}.png")
    fields = {"prompt": "sks", "class_prompt": "a shape", "class_data": str(tmp_path / "class"), "eval_fraction": 0}
    run = train(data=tmp_path / "thing", eval_steps=2, max_steps=4, **fields)
    assert run.metrics["examples"] == 6
    assert run.metrics["eval_loss"] is None
    sampled = [event for event in run.events() if isinstance(event, Sampled)]
    assert [(event.step, event.prompt) for event in sampled] == [(0, "sks"), (2, "sks"), (4, "sks")]
    alone = train(data=tmp_path / "thing", max_steps=1, prompt="sks", eval_fraction=0)
    both = train(data=tmp_path / "thing", max_steps=1, **fields)
    assert both.history.loss[0] > alone.history.loss[0] * 1.2  # the loss of the class is added


def test_images_of_the_class_are_drawn_by_the_base_where_none_are_given(train: Callable[..., Run]) -> None:
    fields = {"prompt": "sks", "class_prompt": "a shape", "class_images": 6, "eval_fraction": 0, "max_steps": 1}
    run = train(data=ROWS[:4], **fields)
    assert run.metrics["examples"] == 6
    assert run.metrics["forecast_seconds"] > 0
    drawn = Path(run.facts.task["class_images"])
    assert {one.name for one in drawn.iterdir()} == {f"{run.spec.seed + place}.png" for place in range(6)}
    with run.model.disable_adapter():
        first = run.predict("a shape").image[0]
    assert abs(numpy.asarray(first).astype(int) - numpy.asarray(Image.open(drawn / "42.png"))).max() <= 1
    alone = train(data=ROWS[:4], prompt="sks", eval_fraction=0, max_steps=1)
    assert run.history.loss[0] > alone.history.loss[0] * 1.2  # the loss of the class is added


def test_text_encoders_are_adapted_on_wish(train: Callable[..., Run]) -> None:
    run = train(train_text_encoder=True, max_steps=2)
    assert run.facts.task["trains_text"]
    changed = [
        name
        for name, one in run.model.named_parameters()
        if "lora_B" in name and "text_encoder" in name and bool(one.any())
    ]
    assert changed
    assert run.metrics["forecast_seconds"] > 0


@pytest.mark.parametrize("kind", ["sdxl", "sd3"])
def test_other_pipelines_train_with_their_autoencoders(kind: str, train: Callable[..., Run], tmp_path: Path) -> None:
    base = pipeline(tmp_path / kind, kind, latents=True)
    run = train(model=str(base), max_steps=4, gradient_checkpointing=True)
    assert run.metrics["eval_loss"] != run.metrics["base_eval_loss"]
    ours = run.predict("what the image shall show").image[0]
    assert ours.size == (16, 16)
    image = drawn_by_card(run, base)["image"]
    assert abs(numpy.asarray(image).astype(int) - numpy.asarray(ours)).max() <= 2


def test_a_folder_of_labels_takes_a_prompt_with_a_place_for_them(train: Callable[..., Run]) -> None:
    run = train(data=images.rows(8), prompt="a small {label}", max_steps=1)
    prompts = {event.prompt for event in run.events() if isinstance(event, Sampled)}
    assert prompts <= {f"a small {shape}" for shape in images.SHAPES}
    with pytest.raises(DataError, match=r"nothing says what the images show; .* set prompt: a photo of \{label\}"):
        train(data=images.rows(8))
    with pytest.raises(DataError, match=r"prompt: there is no column of labels to take the place of \{label\}"):
        train(prompt="a {label}")


def test_what_cannot_be_done_is_refused_in_one_line(train: Callable[..., Run], tmp_path: Path) -> None:
    for field in ({"prior_loss_weight": 0.5}, {"class_images": 4}, {"class_data": "dogs"}):
        with pytest.raises(SpecError, match=rf"{next(iter(field))}: needs class_prompt, what the images of the class"):
            train(**field)
    with pytest.raises(SpecError, match=r"class_images: class_data has images of the class, and none are drawn"):
        train(class_prompt="a dog", class_data="dogs", class_images=4)
    with pytest.raises(SpecError, match=r"snr_gamma: task classification has no use for it; text-to-image has"):
        begin(RunSpec(data="x", task="classification", snr_gamma=5), data=[{"text": "x", "label": "a"}] * 3)
    with pytest.raises(SpecError, match="model: name a pipeline as diffusers saves it"):
        begin(RunSpec(data="x", task="text-to-image"), data=ROWS)
    with pytest.raises(DataError, match=r"text-to-image learns from other rows; say which columns hold images"):
        train(data=[{"prompt": "a", "completion": "b"}] * 3)
    with pytest.raises(MethodError, match="method: lokr: pipelines of diffusers take adapters of LoRA alone"):
        train(method="lokr")
    with pytest.raises(ModelError, match="image_size: 9 is no multiple of 2"):
        train(image_size=9)
    with pytest.raises(ModelError, match="snr_gamma: .* is a flow, whose times are not weighed so; leave it out"):
        train(model=str(pipeline(tmp_path / "sd3", "sd3")), snr_gamma=5)


def test_what_is_wrong_with_images_is_said(train: Callable[..., Run]) -> None:
    run = train(data=[*ROWS[:6], ROWS[0]], max_steps=1)
    assert any("duplicate" in event.text for event in run.events() if isinstance(event, Notice))
