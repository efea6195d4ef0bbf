"""CodeCarbon itself measures a run, adds up over a resumption, and never keeps a run from its end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from peft_nb.events import Notice
from peft_nb.runs.checklist import checklist
from peft_nb.runs.energy import COUNTRY
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import stop_at


def test_a_run_says_what_electricity_it_took(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COUNTRY, "DEU")
    wanted = spec(report_to="codecarbon", max_steps=4, save_steps=1)
    stopped = begin(wanted, data=rows, store=store, listeners=[stop_at(2)]).wait()
    before = dict(stopped.metrics)
    assert 0 < before["energy_kwh"] < 0.1
    assert 0 < before["co2_kg"] < before["energy_kwh"]  # a kWh is less than a kg in Germany
    finished = stopped.resume().wait()
    assert finished.metrics["energy_kwh"] > before["energy_kwh"]
    (compute,) = (one.answer for one in checklist(store, finished.id, "nist-ai-rmf").items if "Energy" in one.asks)
    assert "energy " in compute
    assert " Wh" in compute


def test_a_meter_that_fails_is_told_and_the_run_goes_on(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COUNTRY, "XYZ")  # no country
    run = begin(spec(report_to="codecarbon", max_steps=1), data=rows, store=store).wait()
    assert run.status == "finished"
    told = [one.text for one in run.events() if isinstance(one, Notice) and "energy" in one.text]
    assert (len(told), "energy_kwh" in run.metrics) in ((1, False), (0, True))
    assert "co2_kg" not in run.metrics or run.metrics["co2_kg"] >= 0
