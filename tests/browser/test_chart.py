"""The chart by itself in a real Chromium: its numbers, its crosshair, its keys, its zoom and its colours."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from peft_nb.ui.panels import curves
from peft_nb.ui.panels.chart import Chart, Line
from peft_nb.ui.view import Curve, RunView
from tests.browser.lab import violations

pytestmark = pytest.mark.browser

EVIL = '<img src=x onerror="document.title = 1">'
# What anywidget gives to a view: the state of the model, which a front end keeps also while the kernel is busy.
RENDER = """async ([code, state]) => {
    const bytes = (text) => new DataView(Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0)).buffer);
    const decoded = ({ lines, ...rest }) =>
        ({ ...rest, lines: lines.map((one) => ({ ...one, x: bytes(one.x), y: one.y.map(bytes) })) });
    const known = decoded(state), heard = {};
    window.model = {
        get: (key) => known[key],
        set: (key, value) => { known[key] = value; (heard[`change:${key}`] ?? []).forEach((act) => act()); },
        on: (sign, act) => (heard[sign] ??= []).push(act),
        off: () => {},
        save_changes: () => {},
    };
    window.renew = (state) => { for (const [key, value] of Object.entries(decoded(state))) model.set(key, value); };
    window.chart = await import(URL.createObjectURL(new Blob([code], { type: "text/javascript" })));
    chart.default.render({ model, el: document.querySelector("main") });
}"""

Draw = Callable[..., Page]


def state(lines: Sequence[Line], total: int = 0, **traits: Any) -> dict[str, Any]:
    """What the kernel sends of a chart, with bytes as text."""
    chart = Chart(**traits)
    chart.draw(lines, total)
    sent = {
        name: getattr(chart, name) for name in ("end", "view", "smoothing", "log_scale", "hidden", "others", "behind")
    }

    def text(numbers: bytes) -> str:
        return base64.b64encode(numbers).decode()

    return sent | {"lines": [{**one, "x": text(one["x"]), "y": list(map(text, one["y"]))} for one in chart.lines]}


def run(steps: int, every: int = 10) -> RunView:
    losses, evals, accuracy = Curve(), Curve().add(0, 4.0), Curve()
    for step in range(1, steps + 1):
        losses = losses.add(step, 4 / (1 + step / 10) + 0.1 * (step % 2))
        if step % every == 0:
            evals, accuracy = evals.add(step, 5 / (1 + step / 10)), accuracy.add(step, step / steps)
    return RunView(losses=losses, evals=evals, scores={"accuracy": accuracy})


@pytest.fixture
def draw(browser: Browser) -> Iterator[Draw]:
    pages: list[Page] = []

    def draw(lines: Sequence[Line], total: int = 0, width: int = 900, **traits: Any) -> Page:
        page = browser.new_page(viewport={"width": width, "height": 700})
        pages.append(page)
        page.set_content(f"<html lang=en><title>desk</title><style>{Chart._css}</style><main class=peft-nb></main>")
        page.evaluate(RENDER, [Chart._esm, state(lines, total, **traits)])
        return page

    yield draw
    for page in pages:
        page.close()


def entry(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


def hover(page: Page, share: float, plot: int = 0) -> None:
    """Put the pointer on a share of the width of a plot."""
    box = page.locator(".u-over").nth(plot).bounding_box()
    assert box
    page.mouse.move(box["x"] + share * box["width"], box["y"] + box["height"] / 2)


def test_ticks_are_round_each_once_and_their_labels_have_equal_decimals(draw: Draw) -> None:
    page = draw([])

    def labels(call: str) -> list[str]:
        return page.evaluate(f"chart.labels(chart.{call})")

    assert labels("ticks(0, 3, 7, 1)") == ["0", "1", "2", "3"]
    assert labels("ticks(0, 1, 9, 1)") == ["0", "1"]
    assert labels("ticks(0, 126, 7, 1)") == ["0", "20", "40", "60", "80", "100", "120"]
    assert labels("ticks(0, 100000, 3, 1)") == ["0", "50,000", "100,000"]
    assert labels("ticks(1, 1.02, 5)") == ["1.000", "1.005", "1.010", "1.015", "1.020"]
    assert labels("ticks(0.9, 2.1, 4)") == ["1.0", "1.5", "2.0"]
    assert labels("logTicks(0.1, 4, 7)") == ["0.1", "0.2", "0.5", "1.0", "2.0"]
    assert labels("logTicks(1.2, 1.5, 4)") == ["1.2", "1.3", "1.4", "1.5"]
    assert len(labels("logTicks(1e-9, 4, 5)")) == 5
    assert page.evaluate("[0.3, 1.2344, 0.00012, 0, 1234.5].map(chart.told)") == [
        *("0.300", "1.234", "0.00012", "0.000", "1,234.500")
    ]


def test_nothing_is_drawn_before_there_are_values(draw: Draw) -> None:
    page = draw([], 100)
    expect(page.locator("canvas")).to_have_count(0)
    expect(page.get_by_role("button", name="Log scale")).to_be_hidden()
    page.evaluate("renew", state(curves.of_run(run(1)), 100))
    expect(page.locator("canvas")).to_have_count(1)
    expect(page.get_by_role("button", name="Log scale")).to_be_visible()


def test_the_pointer_shows_the_values_of_all_curves_in_all_plots(draw: Draw) -> None:
    page = draw(curves.of_run(run(100)))
    expect(entry(page, "train loss")).to_have_text(re.compile(r"train loss0\.\d{3}$"))  # the newest
    hover(page, 0.253)
    expect(page.locator(".peft-nb-step")).to_have_text("step 25")
    expect(entry(page, "train loss")).to_have_text(re.compile(r"train loss1\.\d{3} \(logged 1\.243\)$"))
    expect(entry(page, "eval loss")).to_have_text("eval loss1.667 (step 20)")  # the nearest that was measured
    expect(entry(page, "accuracy")).to_have_text("accuracy0.200 (step 20)")
    for line in page.locator(".u-cursor-x").all():
        expect(line).to_be_visible()
    hover(page, 0.5, plot=1)
    expect(entry(page, "eval loss")).to_have_text("eval loss0.833")
    page.evaluate("renew", state(curves.of_run(run(200)), 200))  # while the pointer rests there, the run goes on
    expect(page.locator(".peft-nb-step")).to_have_text("step 50")
    expect(entry(page, "eval loss")).to_have_text("eval loss0.833")
    page.mouse.move(0, 0)
    expect(entry(page, "eval loss")).to_have_text("eval loss0.238")
    expect(page.locator(".peft-nb-step")).to_have_text("")


def test_the_keys_move_the_crosshair_and_the_values_are_said(draw: Draw) -> None:
    page = draw(curves.of_run(run(100)))
    plot = page.get_by_role("slider", name="loss")
    plot.focus()

    def said(key: str) -> str:
        page.keyboard.press(key)
        return plot.get_attribute("aria-valuetext") or ""

    assert said("Home").endswith("eval loss 4.000")
    assert said("ArrowRight").startswith("step 1, train loss ")
    assert said("End").startswith("step 100, train loss ")
    assert said("ArrowLeft").startswith("step 99, ")
    assert said("PageDown").startswith("step 89, ")
    told = plot.get_attribute("aria-valuetext")
    page.evaluate("renew", state(curves.of_run(run(110))))
    hover(page, 0.2)
    assert plot.get_attribute("aria-valuetext") == told  # what moves by itself or by pointer is not announced
    said("Home")
    said("+")
    assert page.evaluate("model.get('view')") == [0, 55]
    said("-")
    assert page.evaluate("model.get('view')") == []


def test_dragging_zooms_and_a_double_click_or_the_button_goes_back(draw: Draw) -> None:
    page = draw(curves.of_run(run(100)))
    back = page.get_by_role("button", name="Reset view")
    expect(back).to_be_disabled()
    for reset in (back.click, lambda: page.locator(".u-over").first.dblclick()):
        hover(page, 0.2)
        page.mouse.down()
        hover(page, 0.6)
        page.mouse.up()
        assert page.evaluate("model.get('view').map(Math.round)") == [20, 60]
        hover(page, 0.5)
        expect(page.locator(".peft-nb-step")).to_have_text("step 40")
        expect(back).to_be_enabled()
        reset()
        assert page.evaluate("model.get('view')") == []
        expect(back).to_be_disabled()


def ink(page: Page, plot: int = 0) -> str:
    """What a plot looks like."""
    return page.locator("canvas").nth(plot).evaluate("canvas => canvas.toDataURL()")


def test_every_control_changes_what_is_drawn(draw: Draw) -> None:
    page = draw(curves.of_run(run(100)), others=["calm v1"])
    seen = {ink(page)}
    scores = ink(page, 1)
    page.get_by_role("combobox", name="Smoothing").select_option("strong")
    seen.add(ink(page))
    page.get_by_role("button", name="Log scale").click()
    expect(page.get_by_role("button", name="Log scale")).to_have_attribute("aria-pressed", "true")
    seen.add(ink(page))
    assert ink(page, 1) == scores  # shares are on no logarithmic scale
    entry(page, "train loss").click()
    expect(entry(page, "train loss")).to_have_attribute("aria-pressed", "false")
    seen.add(ink(page))
    assert len(seen) == 4
    page.get_by_role("combobox", name="Compare with").select_option("calm v1")
    assert page.evaluate("model.get('behind')") == "calm v1"


def test_a_loss_of_nothing_has_a_place_on_a_logarithmic_scale(draw: Draw) -> None:
    page = draw([Line("train loss", Curve().add(1, 1.0).add(2, 0.0), "loss", marked=True)], log_scale=True)
    expect(entry(page, "train loss")).to_have_text("train loss0.000")
    alone = draw([Line("train loss", Curve().add(1, 1.0), "loss", marked=True)], log_scale=True)
    assert ink(page) != ink(alone)


def test_names_have_the_colours_of_their_curves_and_are_text(draw: Draw) -> None:
    page = draw(curves.of_runs({EVIL: run(20), "calm": run(30)}))
    assert page.locator("img").count() == 0
    assert page.title() == "desk"
    name = page.get_by_text(EVIL, exact=True).first
    light = name.evaluate("one => getComputedStyle(one).color")
    before = ink(page)
    assert light != page.get_by_text("calm", exact=True).first.evaluate("one => getComputedStyle(one).color")
    page.evaluate("document.body.dataset.jpThemeLight = 'false'")
    expect(name).not_to_have_css("color", light)
    page.wait_for_function("before => document.querySelector('canvas').toDataURL() != before", arg=before)


def test_it_fits_into_what_is_narrow_and_axe_finds_nothing(draw: Draw) -> None:
    page = draw(curves.of_run(run(100)), others=["calm v1"], width=480)
    assert page.evaluate("document.documentElement.scrollWidth") <= 480
    assert violations(page, "main") == []
    page.set_viewport_size({"width": 700, "height": 700})
    expect(page.locator("canvas").first).to_be_visible()
    page.wait_for_function("document.querySelector('.uplot').clientWidth > 300")
    assert page.evaluate("document.documentElement.scrollWidth") <= 700
    wide = page.locator(".uplot").first.bounding_box()
    page.evaluate("""() => {
        document.body.style.display = "none";
        model.set("log_scale", true);  // drawn anew while nothing has a width, within one frame
        document.body.style.display = "";
    }""")
    assert page.locator(".uplot").first.bounding_box() == wide
