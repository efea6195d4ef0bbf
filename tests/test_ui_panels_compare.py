"""The compare panel on runs of a tiny base, its widgets used as a front end uses them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
from IPython.core.formatters import DisplayFormatter
from ipywidgets import Button, Widget

import peft_nb
from peft_nb import Comparison, Run, RunSpec, compare
from peft_nb.data.prompts import Asked
from peft_nb.runs.compare import Compared
from peft_nb.runs.run import begin
from peft_nb.store import Store
from peft_nb.system import frontend
from peft_nb.ui import votes
from peft_nb.ui.differences import clean
from peft_nb.ui.panels.compare import ComparePanel
from peft_nb.ui.panels.overlay import Overlay
from peft_nb.ui.panels.panel import Panel
from tests.test_runs_compare import HOSTILE, Page, hostile
from tests.widgets import published

Rows = list[dict[str, str]]


@pytest.fixture(scope="module")
def runs(spec: Callable[..., RunSpec], rows: Rows, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    store = Store(tmp_path_factory.mktemp("panel"))
    kinds: list[dict[str, Any]] = [{"name": "calm", "max_steps": 12}, {"name": "short"}, {"max_steps": 2}]
    return [begin(spec(**kind), data=rows, store=store).wait() for kind in kinds]


@pytest.fixture
def three(runs: list[Run]) -> Comparison:
    return compare(*runs[:2], "base", prompts=["Hello", "How do I pay?", "Bye"], max_new_tokens=6)


def widgets(box: Widget) -> Iterator[Widget]:
    yield box
    for child in getattr(box, "children", ()):
        yield from widgets(child)


def press(panel: Panel, label: str) -> None:
    (found,) = [one for one in widgets(panel.box) if isinstance(one, Button) and one.description == label]
    found.click()


def outcome(panel: Panel) -> str:
    return panel._outcome.value


def settled(panel: Panel) -> str:
    """What the panel says once its work is done."""
    for thread in threading.enumerate():
        if thread.name.startswith("peft_nb-"):
            thread.join(120)
    return outcome(panel)


def test_it_leads_from_prompt_to_prompt(three: Comparison) -> None:
    panel = ComparePanel(three)
    assert repr(panel) == "<peft_nb compare panel>"
    texts = []
    for place, prompt in enumerate(["Hello", "How do I pay?", "Bye"]):
        shown = Page(panel._answers.value)
        assert shown.open == []
        assert prompt in shown.text
        for name in ("calm", "short", "base"):
            assert name in shown.text
            assert clean(three.answers[name].iloc[place]) in shown.text
        texts.append(shown.text)
        press(panel, "Next")
    assert len(set(texts)) == 3
    assert "that was the last prompt" in outcome(panel)
    assert panel.prompt.value == 2
    press(panel, "Previous")
    assert panel.prompt.value == 1
    assert 'role="status">prompt 2 of 3<' in outcome(panel)


def test_a_blind_vote_names_nobody_and_is_kept_with_the_runs(three: Comparison, runs: list[Run]) -> None:
    panel = ComparePanel(three, seed=3)
    assert panel.ballot.layout.display == "none"
    press(panel, "Reveal")
    assert 'role="alert"' in outcome(panel)
    panel.blind.value = True
    assert panel.ballot.layout.display == "flex"
    orders = [votes.shuffled(["calm", "short", "base"], place, 3) for place in range(3)]
    assert len({tuple(order.values()) for order in orders}) > 1
    for place in range(3):
        assert panel.prompt.value == place
        shown = Page(panel._answers.value).text
        assert "calm" not in shown
        assert "short" not in shown
        letter = next(letter for letter, name in orders[place].items() if name == "short")
        assert letter in shown
        press(panel, f"{letter} is best" if place else "No difference")
    assert not panel.blind.value
    assert three.votes["best"].tolist() == [None, "short", "short"]
    assert three.votes.index.tolist() == ["Hello", "How do I pay?", "Bye"]
    assert three.tally.index[0] == "short"
    assert three.tally.loc["short"].tolist()[:3] == [2, 2, 1.0]
    told = Page(panel._tally.value)
    assert told.open == []
    assert "short 2 votes of 2: 100 % (95 % interval 34 % to 100 %)" in told.text
    assert "base 0 votes of 2" in told.text
    assert "short over base100 % (34 % to 100 %)2 votes, 1 tie" in Page(panel._wins.value).text
    pairs = peft_nb.votes(store=runs[0].store)
    said = [three.answers.iloc[place] for place in (1, 2)]
    wanted = [[one.name, one["short"], one[other]] for one in said for other in ("calm", "base")]
    assert pairs[["prompt", "chosen", "rejected"]].values.tolist() == [one for one in wanted if one[1] != one[2]]
    assert set(pairs["chosen_run"]) == {runs[1].id}

    (kept,) = [one for one in runs[1].store.evaluations(runs[1].id) if one.suite == "vote"]
    assert kept.measure == f"preferred to {runs[0].id}, base"
    assert (kept.value, kept.detail) == (1.0, {"won": 2, "of": 2, "undecided": 1})
    assert 0.3 < (kept.low or 0) < 0.4
    (lost,) = [one for one in runs[0].store.evaluations(runs[0].id) if one.suite == "vote"]
    assert (lost.value, lost.low) == (0.0, 0.0)
    three.vote(1, "calm")
    voted = peft_nb.votes(store=runs[0].store).groupby("prompt")["chosen_run"].unique()
    assert (list(voted["How do I pay?"]), list(voted["Bye"])) == ([runs[0].id], [runs[1].id])
    (again,) = [one for one in runs[0].store.evaluations(runs[0].id) if one.suite == "vote"]
    assert again.value == 0.5


def test_a_run_is_promoted_and_a_failed_verdict_has_to_be_forced(runs: list[Run], three: Comparison) -> None:
    store = runs[0].store
    store.set_metrics(runs[0].id, {"verdict": "failed: held-out loss"})
    panel = ComparePanel(three)
    assert panel.named.layout.display == "none"
    press(panel, "Promote")
    assert "a promotion needs a reason" in settled(panel)
    panel.why.value = "calmer"
    press(panel, "Promote")
    said = settled(panel)
    assert 'role="alert"' in said
    assert "its verdict is: failed" in said
    assert panel.force.layout.display == "flex"
    panel.force.value = True
    press(panel, "Promote")
    assert 'role="status">calm@production: (none) → v1<' in settled(panel)
    entry = store.log(runs[0].id)[0]
    assert (entry.why, entry.forced) == ("calmer", "its verdict is: failed: held-out loss")
    panel.run.value = runs[1]
    assert panel.force.layout.display == "none"
    assert not panel.force.value


def test_a_run_without_a_name_is_given_one(runs: list[Run]) -> None:
    panel = ComparePanel(compare(runs[2], prompts=[]))
    assert panel.named.layout.display == "flex"
    panel.alias.value, panel.why.value = "candidate", "to try"
    press(panel, "Promote")
    assert "has no name" in settled(panel)
    assert panel.force.layout.display == "none"
    panel.named.value = "tickets"
    press(panel, "Promote")
    assert "tickets@candidate: (none) → v1" in settled(panel)


def test_the_curves_are_those_of_the_runs(three: Comparison) -> None:
    (chart,) = [one for one in widgets(ComparePanel(three).box) if isinstance(one, Overlay)]
    assert [(line["name"], line["pane"]) for line in chart.lines] == [
        ("calm", "train loss (nats)"),
        ("calm", "eval loss (nats)"),
        ("short", "train loss (nats)"),
        ("short", "eval loss (nats)"),
    ]
    drawn = [list(zip(*map(numpy.frombuffer, (line["x"], line["y"][0])), strict=True)) for line in chart.lines]
    assert drawn == [points for name in ("calm", "short") for points in three._found.curves[name]]


def test_hostile_text_stays_text() -> None:
    panel = ComparePanel(hostile())
    for shown in (one.value for one in widgets(panel.box) if type(one).__name__ == "HTML"):
        page = Page(shown)
        assert page.open == []
        assert "script" not in {tag for tag, _ in page.elements}
        assert "\x1b" not in shown
    assert '<script>alert("x")</script>' in Page(panel._answers.value).text
    name = '<img src=x onerror="alert(1)">'
    known = Compared({name: None}, {name: {"model": "m"}}, {name: ([(1.0, 2.0)], [])}, [Asked(HOSTILE)])
    known.answers = {name: [HOSTILE], "b": ["?"]}
    panel = ComparePanel(Comparison(known), seed=0)
    assert not any("<img" in one.value for one in widgets(panel.box) if type(one).__name__ == "HTML")


def test_a_front_end_with_widgets_gets_them_beside_the_page(
    three: Comparison, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    view = "application/vnd.jupyter.widget-view+json"
    plain, _ = DisplayFormatter().format(three)
    assert set(plain) == {"text/plain", "text/html"}
    monkeypatch.setattr(frontend, "frontend", lambda: "jupyterlab")
    with published() as bundles:
        DisplayFormatter().format(three)
    shown, page = bundles
    assert shown["text/plain"] == ""
    assert shown[view]["model_id"] == three.panel.box.model_id
    assert page["text/plain"] == plain["text/plain"]
    assert plain["text/html"] in page["text/html"]
