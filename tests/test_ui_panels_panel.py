from __future__ import annotations

import logging
import threading
import time
from pathlib import Path

import ipywidgets
import pytest

from peft_nb.errors import RunError
from peft_nb.ui.panels import panel as module
from peft_nb.ui.panels.panel import Panel, button, put, row
from peft_nb.ui.wording import spoken
from tests.test_ui_panels_compare import outcome, settled
from tests.widgets import published


def test_keys_and_style_are_files_of_a_widget_at_the_top_of_every_panel() -> None:
    keyboard, *_ = Panel("panel", []).box.children
    state = keyboard.get_state()
    for key, name in (("_esm", "panel.js"), ("_css", "panel.css")):
        assert state[key] == Path(module.__file__).with_name(name).read_text("utf-8")


def test_no_script_stands_in_html() -> None:
    folder = Path(module.__file__).parents[1]
    for file in (*folder.rglob("*.py"), *folder.rglob("*.js")):
        text = file.read_text("utf-8")
        assert not [word for word in ("onload=", "onclick=", "onerror=", "<script") if word in text], file


def test_work_in_the_background_says_how_it_goes_one_piece_at_a_time() -> None:
    panel, go_on, done = Panel("panel", []), threading.Event(), list[str]()
    panel.in_background("merging", lambda tell: str(go_on.wait(10)), lambda: done.append("then"))
    assert "merging …" in outcome(panel)
    panel.in_background("saving", lambda tell: "saved")
    assert "wait, something else is still running here" in outcome(panel)
    go_on.set()
    assert 'role="status">True<' in settled(panel)
    assert done == ["then"]


def test_what_goes_wrong_is_said_escaped(caplog: pytest.LogCaptureFixture) -> None:
    def fail(tell: object) -> str:
        raise RunError("<b> is gone")

    panel = Panel("panel", [])
    panel.in_background("saving", fail)
    assert 'role="alert">Error: &lt;b&gt; is gone<' in settled(panel)
    panel.attempt(lambda: "said")
    assert 'role="status">said<' in outcome(panel)
    with caplog.at_level(logging.ERROR):
        assert spoken(ZeroDivisionError("x")) == "ZeroDivisionError: x"
    assert "ZeroDivisionError" in caplog.text


def test_buttons_act_and_boxes_take_what_is_put_into_them() -> None:
    pressed: list[int] = []
    made = button("Go", lambda: pressed.append(1), primary=True)
    made.click()
    assert (pressed, made.button_style, made.tooltip) == ([1], "primary", "Go")
    box = ipywidgets.VBox()
    put(box, row(made))
    assert box.children[0].children == (made,)


class Counter(Panel):
    command = "%peft count"
    counted = 1

    def page(self) -> str:
        return f"<b>{self.counted}</b>"


def test_a_panel_is_its_widgets_and_below_them_the_page_that_stays() -> None:
    panel = Counter("counter", [])
    panel.counted = 2
    panel.keep()  # nowhere displayed by itself: nothing to bring up to date
    with published() as bundles:
        panel._ipython_display_()
        panel.counted = 3
        panel.in_background("counting", lambda tell: "counted")
        settled(panel)
        until = time.monotonic() + 5
        while "<b>3</b>" not in bundles[1]["text/html"] and time.monotonic() < until:
            time.sleep(0.02)
    view, page = bundles
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == panel.box.model_id
    assert view["text/plain"] == ""
    assert "<b>3</b>" in page["text/html"]
    assert f'data-panel="{panel._keyboard.key}"' in page["text/html"]
    assert page["text/plain"] == "counter: to show it, run %peft count"
    assert panel._keyboard.again == "%peft count"
    assert "peft_nb counter" not in str(bundles)


def test_what_is_left_of_a_panel_without_a_page_says_how_to_have_it_again() -> None:
    assert Panel("<data>", []).page() == "<p>&lt;data&gt;: to show it, run the cell again</p>"
