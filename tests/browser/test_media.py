"""Images, clips and pictures that are drawn, in a real JupyterLab: checked, learned, looked at, heard and tried."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from tests import images
from tests import speech as clips
from tests.browser.conftest import Open
from tests.browser.lab import SECONDS, SHOTS, go_to, run_next, still, themed, until, violations

pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

EVIL = '<img src=x onerror="document.title = 1">'
CELLS = [
    "%load_ext peft_nb",
    "%peft data {photos} --model {vision}",
    "%%peft lora --data {photos} --out shapes\ntask: image-classification\nmodel: {vision}\nmax_steps: 12\n"
    "batch_size: 8\nlearning_rate: 0.002\neval_steps: 4\neval_fraction: 0.4",
    "%peft chat shapes",
    "%peft data {clips} --model {speech}",
    "%%peft lora --data {clips} --out said\ntask: speech-recognition\nmodel: {speech}\nlanguage: en\nmax_steps: 60\n"
    "batch_size: 8\nlearning_rate: 0.01\neval_steps: 20\neval_fraction: 0.2\nfreeze_encoder: false",
    "%peft chat said",
    "drawings = [{'image': f'{photos}/{one}', 'text': f'a {one.split(\"/\")[0]}'} for one in {files}]",
    "%peft data drawings --task text-to-image --model {drawing}",
    "%%peft lora --data drawings --out drawn\ntask: text-to-image\nmodel: {drawing}\nmax_steps: 6\nbatch_size: 4\n"
    "learning_rate: 0.005\neval_steps: 2\nnum_inference_steps: 2\n"
    f"sample_prompts: [a cross, '{EVIL}', a circle beside a very long prompt that has to be wrapped, a square]",
    "%peft chat drawn",
    "1",
]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return images.folder(tmp_path_factory.mktemp("photos"), 60)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.folder(tmp_path_factory.mktemp("clips"), 48)


@pytest.fixture(scope="module")
def page(opened: Open, vision: Path, speech: Path, drawing: Path, photos: Path, recordings: Path) -> Page:
    said = {
        "{photos}": photos,
        "{clips}": recordings,
        "{files}": [str(one.relative_to(photos)) for one in sorted(photos.glob("*/*.png"))[:24]],
        **{"{vision}": vision, "{speech}": speech, "{drawing}": drawing},
    }
    cells = []
    for cell in CELLS:
        for name, value in said.items():
            cell = cell.replace(name, str(value))
        cells.append(cell)
    return opened(cells)


def run(page: Page, number: int) -> Locator:
    """Run a cell, wherever the focus is, and give its output area."""
    page.locator(".jp-Cell").nth(number).locator(".jp-InputPrompt").click()
    page.keyboard.press("Escape")
    return run_next(page, number)


def check(page: Page, output: Locator, name: str, theme: str) -> None:
    """Take pictures; nothing is beyond the edge of the narrowest, and axe finds nothing."""
    panel = output.locator(".peft-nb").first
    themed(page, theme)
    for width in (1280, 480):
        page.set_viewport_size({"width": width, "height": 3000})
        still(page)
        SHOTS.mkdir(exist_ok=True)
        output.screenshot(path=SHOTS / f"{name}-{theme.lower()}-{width}.png")
        until(page, lambda: panel.evaluate("panel => panel.scrollWidth <= panel.clientWidth"))
    page.set_viewport_size({"width": 1200, "height": 900})
    assert violations(page, ".peft-nb") == []


def seen(output: Locator) -> None:
    """Every image is there and drawn, and says what it is."""
    pictures = output.locator("img:visible")
    for place in range(pictures.count()):
        one = pictures.nth(place)
        assert one.evaluate("one => one.decode().then(() => one.naturalWidth > 0)")
        assert one.get_attribute("alt")


def test_a_folder_of_images_is_checked_learned_and_tried(page: Page, photos: Path) -> None:
    run_next(page, 0)
    report = run(page, 1)
    expect(report).to_contain_text("of 60 images", timeout=SECONDS)
    seen(report)
    check(page, report, "images-data", "Light")
    output = run(page, 2)
    panel = output.locator(".peft-nb").first
    expect(panel).to_contain_text("Worst mistakes on the eval set", timeout=SECONDS)
    seen(panel)
    check(page, output, "images-run", "Light")
    trial = run(page, 3)
    field = trial.get_by_role("textbox", name="Image")
    expect(field).to_be_visible(timeout=SECONDS)
    field.fill(str(photos / "cross" / "1.png"))
    go_to(page, trial.get_by_role("button", name="Try it"))
    page.keyboard.press("Enter")
    expect(trial.locator(".peft-nb section")).to_contain_text("%", timeout=SECONDS)
    with page.expect_file_chooser() as chosen:
        go_to(page, trial.get_by_role("button", name="Upload an image"))
        page.keyboard.press("Enter")
    chosen.value.set_files(photos / "square" / "2.png")
    expect(trial.locator(".peft-nb section")).to_have_count(2, timeout=SECONDS)
    seen(trial)
    check(page, trial, "images-trial", "Light")


def test_a_folder_of_clips_is_checked_learned_and_heard(page: Page, recordings: Path) -> None:
    report = run(page, 4)
    expect(report).to_contain_text("of 48 clips", timeout=SECONDS)
    check(page, report, "clips-data", "Light")
    output = run(page, 5)
    panel = output.locator(".peft-nb").first
    expect(panel).to_contain_text("Clips of the eval set with the most errors", timeout=SECONDS)
    check(page, output, "clips-run", "Dark")
    trial = run(page, 6)
    upload = trial.get_by_role("button", name="Upload a clip")
    expect(upload).to_be_enabled(timeout=SECONDS)
    with page.expect_file_chooser() as chosen:
        upload.press("Enter")  # go_to does not see the focus move inside a player
    chosen.value.set_files(recordings / "02.wav")
    expect(trial.locator(".peft-nb section audio")).to_be_visible(timeout=SECONDS)
    check(page, trial, "clips-trial", "Dark")


def test_pictures_are_drawn_from_the_same_seeds_while_a_style_is_learned(page: Page) -> None:
    run(page, 7)
    report = run(page, 8)
    expect(report).to_contain_text("of 24 images", timeout=SECONDS)
    check(page, report, "drawings-data", "Light")
    output = run(page, 9)
    panel = output.locator(".peft-nb").first
    expect(panel).to_contain_text("finished", timeout=SECONDS)
    seen(panel)
    check(page, output, "drawings-run", "Dark")
    trial = run(page, 10)
    trial.get_by_role("textbox", name="Prompt").fill(EVIL)
    go_to(page, trial.get_by_role("button", name="Try it"))
    page.keyboard.press("Enter")
    expect(trial.locator(".peft-nb section img")).to_be_visible(timeout=SECONDS)
    check(page, trial, "drawings-trial", "Dark")
    assert page.title().startswith("desk")
