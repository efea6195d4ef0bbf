from __future__ import annotations

from pathlib import Path

import pytest

import peft_nb
from peft_nb import Run
from peft_nb.evaluation.drift import Test
from peft_nb.runs.watch import Found
from peft_nb.ui.watch import Drift, headline, page
from tests.test_runs_compare import HOSTILE, Page
from tests.test_runs_watch import prompts

TESTS = (Test("inputs", "0.9 to the nearest", "0.2 to the nearest", 0.5, 0.001), Test("length", "4", "5", 0.0, 0.6))
FOUND = Found(
    *("fruit v1", 30, TESTS, (True, False), ((HOSTILE, 0, 9),), ((HOSTILE, "plum", 0.1),)), "label", "Write answers."
)


def test_it_says_what_changed_and_what_comes_next() -> None:
    drift = Drift(FOUND)
    assert drift.drifted
    assert (drift.step, drift.why) == ("label", "Write answers.")
    assert list(drift.table["alarm"]) == [True, False]
    assert repr(drift).splitlines()[:2] == [
        "fruit v1, 30 new rows: changed: inputs",
        "  inputs: 0.9 to the nearest → 0.2 to the nearest (p 0.001) changed",
    ]
    assert repr(drift).splitlines()[-1] == "next: Write answers."


def test_foreign_text_is_escaped_and_a_quiet_page_is_short() -> None:
    drawn = page(FOUND)
    Page(drawn)
    assert HOSTILE not in drawn
    quiet = Found("fruit v1", 30, TESTS, (False, False), FOUND.words, FOUND.new, "nothing", "Nothing.")
    assert headline(quiet) == "fruit v1, 30 new rows: no change"
    assert "Least like" not in page(quiet)


@pytest.mark.parametrize("name", [True, False])
def test_a_run_or_its_name_is_watched(kinds: dict[str, Run], encoder: Path, name: bool) -> None:
    run = kinds["fruit"]
    drift = peft_nb.watch("fruit" if name else run, prompts("tool", 5), encoder=str(encoder), store=run.store)
    assert drift.drifted
    assert "words that grew: " in repr(drift)
