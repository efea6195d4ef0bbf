from __future__ import annotations

import colorsys
import re
from pathlib import Path

import pytest

from peft_nb import plots
from peft_nb.events import Evaluated, Scored, StepLogged
from peft_nb.ui.panels import curves
from peft_nb.ui.panels.curves import COLOURS, DASHES, behind, of_run, of_runs
from peft_nb.ui.view import RunView, replay


def view(*steps: int, **scores: float) -> RunView:
    logged = [StepLogged(step, 0.1, 1.0, 1e-3, 1.0, 100.0, 10.0, 1.0) for step in steps]
    return replay([*logged, Evaluated(0, 2.0), *[Scored(steps[-1], scores)] * bool(scores)])


def test_a_run_has_its_losses_in_one_plot_and_its_scores_in_another() -> None:
    lines = of_run(view(1, 2, accuracy=0.5, macro_f1=0.25))
    assert [(line.name, line.pane) for line in lines] == [
        ("train loss", "loss (nats)"),
        ("eval loss", "loss (nats)"),
        ("accuracy", "score"),
        ("macro-F1", "score"),
    ]
    assert len({line.colour for line in lines}) == 4
    train, test, accuracy, f1 = lines
    assert (train.noisy, train.marked, test.noisy, test.marked) == (True, False, False, True)
    assert accuracy.share
    assert f1.share
    assert f1.curve.last == 0.25


def test_a_metric_that_is_no_share_has_a_plot_and_a_scale_of_its_own() -> None:
    *_, line = of_run(view(1, mean_error=12.5))
    assert (line.name, line.pane, line.share) == ("mean_error", "mean_error", False)


def test_what_is_measured_in_training_and_of_the_eval_set_shares_a_plot_under_one_name() -> None:
    scores = {
        "eval_reward": 3.0,
        "reward": 2.0,
        "eval_reward_std": 0.5,
        "reward_std": 0.25,
        "eval_completion_length": 9.0,
    }
    _, _, *lines = of_run(view(1, **scores, completion_length=8.0, kl=0.1, eval_kl=0.2, equal_rewards=0.5))
    panes: dict[str, list[tuple[str, bool]]] = {}
    for line in lines:
        panes.setdefault(line.pane, []).append((line.name, line.marked))
    assert panes == {
        "reward": [("reward", True), ("reward, train", False)],
        "spread of rewards": [("spread of rewards, eval", True), ("spread of rewards, train", False)],
        "tokens per answer": [("answer length, eval", True), ("answer length, train", False)],
        "divergence from the base (nats per token)": [("divergence, train", False), ("divergence, eval", True)],
        "groups without difference (share)": [("groups without difference, train", False)],
    }


def test_several_runs_lie_over_each_other_by_what_is_measured() -> None:
    lines = of_runs({"calm": view(1, 2, accuracy=0.5), "<b>": view(1)})
    assert [(line.name, line.pane) for line in lines if line.curve] == [
        ("calm", "train loss (nats)"),
        ("calm", "eval loss (nats)"),
        ("calm", "accuracy"),
        ("<b>", "train loss (nats)"),
        ("<b>", "eval loss (nats)"),
    ]
    looks = {name: {(line.colour, line.dash) for line in lines if line.name == name} for name in ("calm", "<b>")}
    assert [len(look) for look in looks.values()] == [1, 1]
    many = of_runs({str(number): view(1) for number in range(30)})
    assert len({(line.colour, line.dash) for line in many if line.pane == "train loss (nats)"}) == 30


def test_another_run_stands_back_under_its_own_name() -> None:
    lines = behind(of_run(view(1)), "calm v1")
    assert [line.name for line in lines] == ["calm v1: train loss", "calm v1: eval loss"]
    assert all(line.pale for line in lines)


def rgb(colour: str) -> tuple[float, ...]:
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))


def light(colour: str) -> float:
    """The relative luminance of WCAG 2."""
    red, green, blue = ((one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4) for one in rgb(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize(("ground", "first"), [("#ffffff", 0), ("#111111", COLOURS)])
def test_curves_have_the_hues_of_the_static_pictures_and_their_names_can_be_read(ground: str, first: int) -> None:
    sheet = Path(curves.__file__).with_name("chart.css").read_text("utf-8")
    colours = re.findall(r"--peft-nb-curve-\d: (#\w{6})", sheet)
    assert len(colours) == 2 * COLOURS
    assert (COLOURS, len(DASHES)) == (len(plots.COLOURS), len(plots.DASHES))
    for colour, still in zip(colours[first : first + COLOURS], plots.COLOURS, strict=True):
        low, high = sorted((light(colour), light(ground)))
        assert (high + 0.05) / (low + 0.05) >= 4.5, colour
        apart = abs(colorsys.rgb_to_hsv(*rgb(colour))[0] - colorsys.rgb_to_hsv(*rgb(still))[0])
        assert apart < 0.04, (colour, still)
