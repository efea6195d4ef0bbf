from __future__ import annotations

from dataclasses import replace

import pytest

from peft_nb.errors import ForecastError
from peft_nb.planning.forecast import Forecast
from peft_nb.spec import RunSpec
from peft_nb.ui import forecast as shown

FORECAST = Forecast(1, 2, 3, 4, 5, 600, 500, 38.0, None, 7, 8, 9, 10, "float32", "padded (<b>)", (("r: 4", 490),))


def test_a_line_says_whether_it_fits() -> None:
    assert shown.line(FORECAST) == "615 MB of memory at the peak, of 500 MB available; training time 38 s; does not fit"
    assert shown.line(replace(FORECAST, seconds=None, room_mb=5000)).endswith("training time not estimated; fits")


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
