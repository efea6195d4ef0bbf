from __future__ import annotations

from html.parser import HTMLParser

from peft_nb.events import Evaluated, Event, Notice, Planned, Preparing, Resumed, StatusChanged, StepLogged
from peft_nb.ui import status
from peft_nb.ui.view import Curve, RunView, replay

KNOWN = RunView(id="lora-3f9a2c", method="lora", model="smollm2-135m", data="tickets", memory_limit_mb=24000)
EVIL = "<script>alert('x')</script>\"&"


def training(steps: int = 45) -> RunView:
    events: list[Event] = [
        Planned(126, 336, 60, 41234, 4_884_480, 139_400_064, "float32", "cpu", "fast"),
        Evaluated(0, 3.52),
    ]
    for step in range(1, steps + 1):
        events.append(StepLogged(step, step / 42, 4 - step / 40, 2e-4, 1.0, 900.0, 2860.0, 1.5 * step))
    return replay(events, KNOWN)


class Balanced(HTMLParser):
    """Refuses HTML whose elements are not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[dict[str, str | None]] = []
        self.words = ""
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append(dict(attrs))
        if tag not in {"img", "circle"}:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


def bar(html: str) -> dict[str, str | None]:
    return next(attributes for attributes in Balanced(html).attributes if attributes.get("role") == "progressbar")


def test_the_bar_tells_screen_readers_how_far_it_is() -> None:
    attributes = bar(status.html(training()))
    assert attributes["aria-valuenow"] == "36"
    assert attributes["aria-valuetext"] == "step 45 of 126"


def test_before_the_plan_the_bar_is_indeterminate_and_words_say_what_is_done() -> None:
    view = replay([Preparing("loading the model")], KNOWN)
    html = status.html(view, 6.4)
    assert "aria-valuenow" not in bar(html)
    assert "loading the model, 6 s so far" in Balanced(html).words
    assert status.text(view) == "loading the model"


def test_a_run_that_goes_on_begins_where_it_was() -> None:
    view = replay([StatusChanged("preparing"), Preparing("loading the model")], training(45))
    assert status.stage(view, 2.0) == "step 45 of 126, loading the model, 2 s so far"
    assert "left" not in status.text(view)
    view = replay([Resumed(40), StatusChanged("training")], view)
    assert status.stage(view, 9.0) == "step 40 of 126, 9 s so far"


def test_a_run_that_has_ended_has_no_time_left() -> None:
    view = replay([StatusChanged("stopped", "after step 45")], training(45))
    assert status.stage(view) == "step 45 of 126, stopped"
    assert "left" not in status.html(view)


def test_everything_is_said_in_words() -> None:
    words = Balanced(status.html(training())).words
    for said in (
        "lora on smollm2-135m",
        "step 45 of 126",
        "2 min 2 s left",
        "2.875",
        "from 3.975",
        "3.520",
        "900",
        "2.9 GB",
        "of 24.0 GB",
    ):
        assert said in words
    assert status.text(training()) == (
        "step 45 of 126 · loss 2.875 · held-out 3.520 · 900 tokens/s · 2.9 GB of 24.0 GB · 2 min 2 s left"
    )


def test_foreign_text_is_escaped() -> None:
    view = replay([Notice(EVIL), Preparing(EVIL)], RunView(method=EVIL, model=EVIL))
    html = status.html(view)
    assert "<script" not in html
    assert Balanced(html).words.count("<script>") >= 4


def test_sparkline_stays_inside_its_box_and_needs_two_points() -> None:
    assert status.sparkline(Curve().add(1, 2.0), Curve()) == ""
    flat = status.sparkline(Curve().add(1, 2.0).add(2, 2.0), Curve())
    svg = status.sparkline(training().losses, training().evals)
    for drawn in (flat, svg):
        points = drawn.split('points="')[1].split('"')[0].split()
        for x, y in (map(float, point.split(",")) for point in points):
            assert 0 <= x <= status.SPARK[0]
            assert 0 <= y <= status.SPARK[1]
