from __future__ import annotations

from html.parser import HTMLParser

from peft_nb.data.images.thumbnail import thumbnail
from peft_nb.events import (
    Evaluated,
    Event,
    Notice,
    Planned,
    Preparing,
    Resumed,
    Sampled,
    Scored,
    StatusChanged,
    StepLogged,
    TimeLeft,
)
from peft_nb.ui import status
from peft_nb.ui.view import Curve, RunView, replay
from tests.images import drawing

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
        "lora on smollm2-135m (lora-3f9a2c)",
        "step 45 of 126",
        "2 min 2 s left",
        "2.987",
        "3.520",
        "900",
        "2.9 GB",
        "of 24.0 GB",
    ):
        assert said in words
    assert status.text(training()) == (
        "step 45 of 126 · eval loss 3.520 · train loss 2.987 · 900 tokens/s · 2.9 GB of 24.0 GB · 2 min 2 s left"
    )


def test_foreign_text_is_escaped() -> None:
    view = replay([Notice(EVIL), Preparing(EVIL)], RunView(method=EVIL, model=EVIL))
    html = status.html(view)
    assert "<script" not in html
    assert Balanced(html).words.count("<script>") >= 4


def test_the_headline_is_the_eval_loss_with_its_change_and_the_train_loss_is_a_mean() -> None:
    view = replay([Evaluated(45, 3.02)], training(45))
    words = Balanced(status.html(view)).words
    assert words.index("eval loss") < words.index("train loss")
    assert "-0.500 from 3.520" in words
    assert "2.987 mean of 10 steps" in words  # of the steps from 36 to 45
    view = replay([Evaluated(46, 3.3)], view)
    assert "best 3.020 at step 45" in Balanced(status.html(view)).words


def test_scores_are_shown_as_they_come() -> None:
    view = replay([Scored(20, {"accuracy": 0.5}), Scored(40, {"accuracy": 0.875})], training(45))
    assert "accuracy0.875" in Balanced(status.html(view)).words
    assert " · accuracy 0.875 · " in status.text(view)


def test_the_clock_and_the_label_go_on_while_the_run_evaluates_and_the_time_left_is_the_told_one() -> None:
    view = replay([Preparing("evaluating on 60 rows"), TimeLeft(75.0)], training(45))
    assert status.stage(view, 68.0) == "step 45 of 126, evaluating on 60 rows, 1 min 8 s so far"
    assert "1 min 15 s left" in Balanced(status.html(view)).words
    assert "almost done" in Balanced(status.html(replay([Preparing("saving"), TimeLeft(0.2)], view))).words


def test_warnings_stand_out_with_their_fix() -> None:
    told = [Notice("the CPU has no bfloat16"), Notice(f"54 of 160 rows truncated {EVIL}", "warning", "max_length: 512")]
    html = status.html(replay(told, training()))
    words = Balanced(html).words
    assert words.index("Warning: 54 of 160") < words.index("Note: the CPU")
    assert "Fix: max_length: 512" in words
    assert status.WARNING in html


def test_what_moves_is_drawn_inside_its_box() -> None:
    assert status._tile(Curve().add(1, 2.0)) == ""
    for curve in (Curve().add(1, 2.0).add(2, 2.0), training().losses):
        points = status._tile(curve).split('points="')[1].split('"')[0].split()
        for x, y in (map(float, point.split(",")) for point in points):
            assert 2 <= x <= status.TILE[0] - 2
            assert 2 <= y <= status.TILE[1] - 2


def test_sparkline_stays_inside_its_box_and_needs_two_points() -> None:
    assert status.sparkline(Curve().add(1, 2.0), Curve()) == ""
    flat = status.sparkline(Curve().add(1, 2.0).add(2, 2.0), Curve())
    svg = status.sparkline(training().losses, training().evals)
    for drawn in (flat, svg):
        points = drawn.split('points="')[1].split('"')[0].split()
        for x, y in (map(float, point.split(",")) for point in points):
            assert 0 <= x <= status.SPARK[0]
            assert 0 <= y <= status.SPARK[1]


def test_a_sample_says_what_reward_it_got() -> None:
    view = replay([Sampled(0, "Who?", "", "She of all people", 0.25), Sampled(4, "Who?", "", "She", 1.0)])
    drawn = status.samples(view)
    assert "base model, reward 0.25<" in drawn
    assert "step 4, reward 1<" in drawn


def test_images_that_are_drawn_stand_beside_each_other_by_their_prompts() -> None:
    image = thumbnail(drawing("cross", 1))
    samples = tuple(Sampled(step, prompt, "", "", image=image) for step in (0, 5) for prompt in ("a <b>", "sks"))
    shown = status.samples(RunView(samples=samples))
    assert shown.count("<img ") == 4
    assert shown.count("base model") == shown.count("step 5") == 4  # below each image, and for who cannot see it
    assert "a &lt;b&gt;" in shown
    assert "<b>" not in shown
