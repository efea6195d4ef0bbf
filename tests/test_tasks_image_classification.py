"""A run on images from the first row to the saved adapter: told, measured, stopped, resumed, merged, asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pandas
import pytest
import torch

import peft_nb
from peft_nb.errors import DataError, MethodError, ModelError, RunError, SpecError
from peft_nb.events import Mistaken, Notice, Sampled
from peft_nb.models.load import load
from peft_nb.models.resolve import resolve
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.tasks import TASKS, proposed
from peft_nb.ui import status, summary
from peft_nb.ui.live import view_of
from tests import images
from tests.conftest import few, stop_at

ROWS = images.rows(96)
METHODS = (
    "lora",
    "dora",
    "rslora",
    "pissa",
    "full",
    "bitfit",
    "ia3",
    "bottleneck",
    "loha",
    "lokr",
    "vera",
    "oft",
    "qlora",
    "ln-tuning",
)


@pytest.fixture(scope="module")
def train(vision: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    store = Store(tmp_path_factory.mktemp("store"))

    def train(*listeners: Any, data: Any = ROWS, **fields: Any) -> Run:
        small = {"data": "(in memory)", "model": str(vision), "dtype": "float32", "device": "cpu", "batch_size": 8}
        usual = {"task": "image-classification", "learning_rate": 5e-3, "max_steps": 8, "eval_steps": 4}
        return begin(RunSpec(**{**small, **usual, **fields}), data=data, store=store, listeners=listeners).wait()

    return train


@pytest.fixture(scope="module")
def finished(train: Callable[..., Run]) -> Run:
    return train(max_steps=60, eval_steps=20, eval_fraction=0.2, accept={"accuracy": "> 0.5"})


def test_a_run_learns_and_is_measured_and_told(finished: Run) -> None:
    metrics = finished.metrics
    assert metrics["eval_loss"] < metrics["base_eval_loss"]
    assert metrics["accuracy"] > 0.5
    assert metrics["path"] == "images of one size, fused layers"
    assert len(metrics["score_interval"]) == 2
    assert metrics["latency_ms"] > 0
    assert metrics["forecast_seconds"] > 0
    assert metrics["verdict"].startswith("passed")
    sampled = [event for event in finished.events() if isinstance(event, Sampled)]
    assert {event.step for event in sampled} == {0, 20, 40, 60}
    assert all(event.image.startswith("data:image/jpeg;base64,") for event in sampled)
    assert "(confusion.png)" in (finished.folder / "adapter" / "README.md").read_text()
    assert (finished.folder / "adapter" / "confusion.png").stat().st_size > 1000
    mistakes = [event for event in finished.events() if isinstance(event, Mistaken)]
    assert len(mistakes) == min(12, sum(count for true, given, count in metrics["confusion"] if true != given))
    view = view_of(finished)
    assert view.model == Path(finished.spec.model).name  # and not where it is
    page = summary.html(view, {**metrics, "classes": finished.facts.task["classes"]}) + status.samples(view)
    assert page.count("data:image/jpeg;base64,") == len(mistakes) + 6
    assert "eval images</th>" in page
    assert len(page) < 200_000


def test_images_in_any_container_are_asked_about(finished: Run, tmp_path: Path) -> None:
    some = [row["image"] for row in ROWS[:3]]
    some[1].save(tmp_path / "one.png")
    found = finished.predict([some[0], str(tmp_path / "one.png"), numpy.asarray(some[2])])
    assert list(found.columns) == ["image", "label", "probability", "circle", "cross", "square"]
    assert found.image.tolist() == ["image 0", str(tmp_path / "one.png"), "image 2"]
    alone = pandas.concat(
        [finished.predict(one) for one in (some[0], str(tmp_path / "one.png"), numpy.asarray(some[2]))]
    )
    pandas.testing.assert_frame_equal(found.iloc[:, 1:], alone.iloc[:, 1:].reset_index(drop=True), rtol=1e-4)
    assert len(finished.predict([])) == 0
    with pytest.raises(RunError, match=r"^an image there is no file 'none.png'; correct the path"):
        finished.predict("none.png")
    with pytest.raises(RunError, match="gives images labels and writes no texts; call predict"):
        finished.generate("What is it?")


def test_two_runs_are_compared_on_images(finished: Run, train: Callable[..., Run]) -> None:
    other = train(max_steps=60, eval_steps=60, eval_fraction=0.2, method="bitfit")
    compared = peft_nb.compare(finished, other)
    assert compared.answers.shape[0] == 6
    assert "%" in compared.answers.iloc[0, -1]
    assert compared._repr_html_().count('<img src="data:image/jpeg;base64,') >= 6


def test_plain_peft_loads_what_was_saved(finished: Run, vision: Path, tmp_path: Path) -> None:
    folder = finished.save(tmp_path / "adapter")
    lines = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    ROWS[0]["image"].save(tmp_path / "one.png")
    lines = lines.replace("path/to/this/folder", str(folder)).replace("path/to/an/image.jpg", str(tmp_path / "one.png"))
    lines = lines.replace(f'"path/to/{vision.name}"', repr(str(vision)))
    seen: dict[str, Any] = {}
    exec(lines, seen)
    wanted = finished.predict(ROWS[0]["image"])
    found = seen["logits"].softmax(-1)[0].tolist()
    assert found == pytest.approx(wanted.iloc[0, 3:].tolist(), abs=1e-4)


def test_a_merged_model_says_the_same(finished: Run, tmp_path: Path) -> None:
    merged = finished.merge(tmp_path / "merged")
    assert merged.table.KL.max() < 1e-6
    import transformers

    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "merged")
    assert model.config.id2label == {0: "circle", 1: "cross", 2: "square"}
    assert json.loads((tmp_path / "merged" / "preprocessor_config.json").read_text())["size"] == {
        "height": 32,
        "width": 32,
    }


def test_a_run_goes_on_where_it_stopped_without_its_images(train: Callable[..., Run]) -> None:
    whole = train(augment="light", max_steps=6)
    part = train(stop_at(3), augment="light", max_steps=6)
    assert part.status == "stopped"
    again = peft_nb.load(part.id, store=part.store).resume()
    assert again.status == "finished"
    assert again.metrics["eval_loss"] == pytest.approx(whole.metrics["eval_loss"], rel=1e-5)
    losses, wanted = (one.history.loss.dropna().tolist() for one in (again, whole))
    assert len(losses) == 6
    assert losses == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("method", few(METHODS, "lora", "full"))
def test_every_method_that_fits_trains_and_opens_again(method: str, train: Callable[..., Run]) -> None:
    run = train(method=method, max_steps=4)
    assert run.metrics["eval_loss"] != run.metrics["base_eval_loss"]
    again = peft_nb.load(run.id, store=run.store)
    one, other = (each.predict(ROWS[0]["image"]).iloc[0, 3:].tolist() for each in (run, again))
    assert one == pytest.approx(other, abs=1e-4)


@pytest.mark.parametrize("family", few(("deit", "dinov2", "swin", "convnext", "clip"), "dinov2"))
def test_every_family_trains(family: str, train: Callable[..., Run], tmp_path: Path) -> None:
    run = train(model=str(images.vision_model(tmp_path / family, family)), max_steps=4)
    assert run.metrics["eval_loss"] != run.metrics["base_eval_loss"]


def test_several_labels_an_image(train: Callable[..., Run]) -> None:
    rows = [{"image": row["image"], "label": [row["label"], *["even"] * (n % 2)]} for n, row in enumerate(ROWS[:40])]
    run = train(data=rows, max_steps=4)
    assert run.facts.task["multi_label"]
    assert {"accuracy", "macro_f1", "micro_f1"} <= run.metrics.keys()
    assert isinstance(run.predict(ROWS[0]["image"]).label[0], list)


def test_another_size_of_images_costs_another_number_of_patches(
    train: Callable[..., Run], vision: Path, tmp_path: Path
) -> None:
    model = images.vision_model(tmp_path / "dinov2", "dinov2")
    run = train(model=str(model), image_size=16, max_steps=2)
    assert (run.facts.task["patches"], run.facts.task["prepare"]["height"]) == (5, 16)
    larger = train(image_size=48, max_steps=2)  # a ViT, which has to be told
    assert (larger.facts.task["patches"], larger.facts.task["interpolate"]) == (37, True)
    assert len(larger.predict(ROWS[0]["image"])) == 1
    assert larger.metrics["latency_ms"] > 0
    base = load(resolve(vision), kind="vision")
    with pytest.raises(ModelError, match=r"^image_size: 4 is less than a patch of .*, 8 pixels$"):
        TASKS["image-classification"].limit(base, RunSpec(data="x").model_copy(update={"image_size": 4}), {})


def test_chosen_layers_alone_are_adapted_and_those_below_run_once(train: Callable[..., Run]) -> None:
    run = train(method_options={"layers_to_transform": [1]}, max_steps=4)
    names = json.loads((run.folder / "adapter" / "adapter_config.json").read_text())["target_modules"]
    assert names
    assert all(".1." in name for name in names)
    slow = train(method_options={"layers_to_transform": [1]}, max_steps=4, fast=False)
    assert slow.metrics["path"] == "images of one size, plain layers (fast is off)"
    assert slow.metrics["eval_loss"] == pytest.approx(run.metrics["eval_loss"], rel=1e-4)
    with pytest.raises(MethodError, match=r"layers_to_transform: \[7\] are no layers; there are 0 to 1"):
        train(method_options={"layers_to_transform": [7]}, max_steps=4)


def test_images_choose_their_task_and_its_model(tmp_path: Path) -> None:
    from peft_nb.data.detection import detect

    spec = proposed(RunSpec(data="x"), detect(ROWS))
    assert (spec.task, spec.model) == ("image-classification", "dinov2-small")
    assert proposed(RunSpec(data="x", model="other"), detect(ROWS)).model == "other"
    with pytest.raises(DataError, match=r"learns an image's label; say which columns hold images and labels"):
        TASKS["image-classification"].validate(detect([{"text": "x", "label": "a"}]), RunSpec(data="x"))
    with pytest.raises(SpecError, match="augment: task classification has no use for it; image-classification has"):
        begin(RunSpec(data="x", task="classification", augment="light"), data=[{"text": "x", "label": "a"}] * 3)


def test_near_copies_stay_on_one_side(train: Callable[..., Run]) -> None:
    rows = [row for n in range(12) for row in [ROWS[n], {**ROWS[n], "image": ROWS[n]["image"].resize((64, 64))}]]
    run = train(data=rows, max_steps=1, eval_fraction=0.25)
    held = json.loads((run.folder / "examples.json").read_text())["held_out"]
    assert len(held) == 6
    assert {number ^ 1 for number in held} == {*held}
    assert any("near-duplicate" in event.text for event in run.events() if isinstance(event, Notice))


def test_methods_of_tokens_are_refused_in_one_line(train: Callable[..., Run]) -> None:
    with pytest.raises(SpecError, match=r"method: prompt serves .*, not image-classification; take lora"):
        train(method="prompt")


def test_logits_are_those_of_transformers_own_way(finished: Run) -> None:
    prepare = finished.facts.task["prepare"]
    image = ROWS[5]["image"].resize((prepare["width"], prepare["height"]), prepare["resample"])
    pixels = (torch.tensor(numpy.asarray(image)).float() / 255 - torch.tensor(prepare["mean"])) / torch.tensor(
        prepare["std"]
    )
    with torch.no_grad():
        wanted = finished.model(pixel_values=pixels.permute(2, 0, 1)[None]).logits.softmax(-1)[0]
    assert finished.predict(ROWS[5]["image"]).iloc[0, 3:].tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
