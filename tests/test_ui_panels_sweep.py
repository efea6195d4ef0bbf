from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from peft_nb.runs.sweeps.search import Search
from peft_nb.store import Store
from peft_nb.system.display import panel_of
from peft_nb.ui.panels.sweep import SweepPanel
from peft_nb.ui.sweep import Sweep
from tests.widgets import button_of, words_of


def panel(sweep: Sweep) -> SweepPanel:
    made = panel_of(sweep)
    assert isinstance(made, SweepPanel)
    return made


def test_the_panel_shows_trials_charts_and_any_two_numbers(swept: Search) -> None:
    shown = panel(Sweep(swept.id, swept.store))
    assert "tickets: finished, 8 trials" in words_of(shown.box)
    assert "<svg" in shown.time.value
    assert (shown.x.value, shown.y.value) == ("learning_rate", "eval_loss")
    assert set(shown.x.options) >= {"r", "learning_rate", "eval_loss", "seconds"}
    before = shown.scatter.value
    shown.x.value = "seconds"
    assert "eval loss by seconds of work" in shown.scatter.value != before
    assert shown.stop.disabled
    assert not shown.resume.disabled
    assert shown.front.value == ""


def test_it_is_stopped_and_goes_on_by_its_buttons(searching: Callable[..., Search], store: Store, rows: Any) -> None:
    begun = searching(store, max_steps=400, trials=2)
    shown = panel(Sweep(begun.id, store))
    assert not shown.stop.disabled
    button_of(shown.box, "Stop").click()
    assert "the sweep stops" in shown._outcome.value
    begun.wait()
    shown.draw(now=True)
    assert shown.stop.disabled
    button_of(shown.box, "Resume").click()  # the rows were passed as an object, which is not at hand here
    for thread in threading.enumerate():
        if thread.name == "peft_nb-searching":
            thread.join(30)
    assert 'role="alert"' in shown._outcome.value
    assert "in memory" in shown._outcome.value


def test_only_what_changed_is_drawn_again(swept: Search) -> None:
    shown = panel(Sweep(swept.id, swept.store))
    shown.table.value = ""
    shown.draw()
    assert shown.table.value == ""
    shown.draw(now=True)
    assert "<table" in shown.table.value


def test_the_page_that_stays_is_the_sweeps_own(swept: Search) -> None:
    done = Sweep(swept.id, swept.store)
    shown = panel(done)
    shown.result = done
    assert shown.page() == done._repr_html_()
    assert shown.command == f"%peft sweep {swept.id}"
