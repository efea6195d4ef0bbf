from __future__ import annotations

from peft_nb.events import Evaluated, Scored, StepLogged
from peft_nb.ui.panels.curves import LOSS, behind, of_run, of_runs
from peft_nb.ui.view import RunView, replay


def view(*steps: int, **scores: float) -> RunView:
    logged = [StepLogged(step, 0.1, 1.0, 1e-3, 1.0, 100.0, 10.0, 1.0) for step in steps]
    return replay([*logged, Evaluated(0, 2.0), *[Scored(steps[-1], scores)] * bool(scores)])


def test_a_run_has_its_losses_in_one_plot_and_its_scores_in_another() -> None:
    lines = of_run(view(1, 2, accuracy=0.5, macro_f1=0.25))
    assert [(line.name, line.pane) for line in lines] == [
        ("train loss", LOSS),
        ("eval loss", LOSS),
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
