from __future__ import annotations

from dataclasses import replace

import pytest

from peft_nb.errors import ForecastError
from peft_nb.planning.forecast import Forecast
from peft_nb.spec import RunSpec
from peft_nb.ui import forecast as shown

FORECAST = Forecast(1, 2, 3, 4, 5, 600, 500, 38.0, None, 7, 8, 9, 10, "float32", "padded (<b>)", 23)
FORECAST = replace(FORECAST, fixes=(("r: 4", 490),))


def test_a_line_says_whether_it_fits() -> None:
    assert shown.line(FORECAST) == (
        "Trains on 23 rows in 7 steps, about 38 s, with 615 MB of memory (500 MB available): does not fit"
    )
    alone = replace(FORECAST, seconds=None, untimed="too little free memory", room_mb=5000)
    assert "time not estimated (too little free memory)" in shown.line(alone)
    assert shown.line(alone).endswith(": fits")
    assert shown.line(replace(FORECAST, room_mb=600)).endswith(": may not fit")


def test_on_a_busy_machine_the_time_is_a_range() -> None:
    assert shown.training_time(FORECAST) == "about 38 s"
    assert shown.training_time(replace(FORECAST, slowdown=1.5)) == "38 s to 57 s (the machine is busy)"
    assert shown.training_time(replace(FORECAST, longest_answers=True)) == "at most 38 s"


def test_the_parts_are_the_peak() -> None:
    assert sum(shown.parts(FORECAST).values()) == FORECAST.memory_mb


def test_nothing_is_fetched_for_a_look_ahead() -> None:
    with pytest.raises(ForecastError, match="%peft estimate owner/name downloads it"):
        shown.ahead(RunSpec(data="owner/name"), {}, lambda share, what: None)


def test_it_is_shown_as_text_and_escaped() -> None:
    forecast = replace(FORECAST, seconds=None)
    told = shown.text(forecast)
    assert "615 MB at the peak, of 500 MB available" in told
    assert "not estimated" in told
    assert "r: 4 (490 MB)" in told
    assert "&lt;b&gt;" in shown.html(forecast)
    assert "<b>" not in shown.html(forecast)
    assert "38 s" in repr(shown.Shown(replace(forecast, seconds=38.0)))
