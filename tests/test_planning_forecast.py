from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from peft_nb.errors import RunError
from peft_nb.planning.estimate import estimate
from peft_nb.planning.forecast import MARGIN, Forecast
from peft_nb.spec import RunSpec

Spec = Callable[..., RunSpec]
Table = list[dict[str, str]]

FIXES = (("token_budget: 512", 550.4), ("r: 4", 1490))
FORECAST = Forecast(1, 2, 3, 4, 5, 1585, 1600, 38.0, 2.0, 7, 8, 9, 10, "float32", "padded", fixes=FIXES)


def test_the_peak_is_the_sum_of_its_parts(spec: Spec, rows: Table) -> None:
    forecast = estimate(spec(), data=rows)
    told = ("weights", "adapter", "optimizer", "activations", "loss", "process")
    assert forecast.memory_mb == pytest.approx(sum(getattr(forecast, f"{part}_mb") for part in told))
    assert forecast.fits
    assert not forecast.fixes
    forecast.require_memory()


def test_where_nothing_helps_it_says_so(spec: Spec, rows: Table) -> None:
    with pytest.raises(RunError, match="use a smaller model"):
        estimate(spec(), data=rows, room_mb=50).require_memory()


@pytest.mark.parametrize(
    ("room", "tight", "fits"),
    [
        (1600, False, True),
        (1599, True, True),
        (1600 / MARGIN + 0.1, True, True),  # within the error of a forecast: told, but not refused
        (1600 / MARGIN - 0.1, True, False),
    ],
)
def test_what_is_tight_may_fit(room: float, tight: bool, fits: bool) -> None:
    forecast = replace(FORECAST, room_mb=room)
    assert (forecast.memory_mb, forecast.tight, forecast.fits) == (1600, tight, fits)
    assert bool(forecast.shortage) == tight


def test_a_shortage_names_all_that_fixes_it_in_one_line() -> None:
    tight = replace(FORECAST, room_mb=1200)
    line = (
        "the run needs about 1,600 MB of memory and 1,200 MB are available; "
        "set token_budget: 512 (about 550 MB) or r: 4 (about 1,490 MB)"
    )
    assert tight.shortage == line
    with pytest.raises(RunError) as refused:
        tight.require_memory()
    assert str(refused.value) == line
