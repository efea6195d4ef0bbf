from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas
import pytest

import peft_nb
from peft_nb import Run
from peft_nb.evaluation.drift import TwoSample
from peft_nb.runs.watch import Found, Topic
from peft_nb.ui.watch import Drift, headline, page
from tests.test_runs_compare import HOSTILE, Page
from tests.test_runs_watch import prompts

TESTS = (
    TwoSample("inputs", "0.9 to the nearest", "0.2 to the nearest", 0.5, 0.001),
    TwoSample("length", "4", "5", 0.0, 0.6),
)
TOPIC = Topic((HOSTILE, "saw"), 1, 12, HOSTILE)
FOUND = Found(
    *("fruit v1", 30, TESTS, ((HOSTILE, 0, 9),), (TOPIC,), ((HOSTILE, "plum", 0.1),)), "label", "Write answers."
)
QUIET = replace(FOUND, tests=tuple(replace(one, p=0.6) for one in TESTS), step="nothing", why="Nothing.")
HISTORY = pandas.DataFrame(
    [
        (pandas.Timestamp(day, tz="UTC"), 30, one.name, one.distance, p, p < 0.05)
        for day, p in (("2026-11-01", 0.4), ("2026-11-08", 0.001))
        for one in TESTS
    ],
    columns=["at", "rows", "what", "distance", "p", "alarm"],
)


def test_it_says_what_changed_and_what_comes_next() -> None:
    drift = Drift(FOUND, HISTORY)
    assert drift.drifted
    assert (drift.step, drift.why) == ("label", "Write answers.")
    assert list(drift.table["alarm"]) == [True, False]
    assert repr(drift).splitlines()[:2] == [
        "fruit v1, 30 new rows: changed: inputs",
        "  inputs: 0.9 to the nearest → 0.2 to the nearest (p 0.001) changed",
    ]
    assert f"  topic that grew: {HOSTILE}, saw (1 → 12), such as: " in repr(drift)
    assert drift.topics.to_dict("records") == [{"words": f"{HOSTILE}, saw", "before": 1, "now": 12, "example": HOSTILE}]
    assert repr(drift).splitlines()[-1] == "next: Write answers."


def test_foreign_text_is_escaped_and_a_quiet_page_is_short() -> None:
    drawn = page(FOUND)
    Page(drawn)
    assert HOSTILE not in drawn
    assert "Topics that grew" in drawn
    assert headline(QUIET) == "fruit v1, 30 new rows: no change"
    assert "Least like" not in page(QUIET)
    assert "Topics" not in page(QUIET)


@pytest.mark.parametrize("name", [True, False])
def test_a_run_or_its_name_is_watched(kinds: dict[str, Run], encoder: Path, name: bool) -> None:
    run = kinds["fruit"]
    drift = peft_nb.watch("fruit" if name else run, prompts("tool", 5), encoder=str(encoder), store=run.store)
    assert drift.drifted
    assert "words that grew: " in repr(drift)
    assert {"inputs", "topics", "length"} <= {*drift.history["what"]}


def test_its_page_shows_how_the_tests_went_over_time() -> None:
    axes = Drift(FOUND, HISTORY).plot().axes[0]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["inputs", "length"]
    assert [line.get_ydata().tolist() for line in axes.lines[:2]] == [[0.4, 0.001]] * 2
    assert "each of the 2 times that it was watched" in Drift(FOUND, HISTORY)._repr_html_()
    assert "<img" not in Drift(FOUND, HISTORY[:2])._repr_html_()
