from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

import peft_nb
from peft_nb.errors import RunError
from peft_nb.runs.sweeps import results
from peft_nb.runs.sweeps.search import Search
from peft_nb.spec import RunSpec
from peft_nb.store import Store, SweepRecord
from peft_nb.ui.discover import Discovery
from peft_nb.ui.sweep import Sweep


@pytest.fixture(scope="module")
def found(base: Path, rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Discovery:
    """Of some trials, each of a few steps."""
    small = {"dtype": "float32", "device": "cpu", "batch_size": 5, "max_steps": 3}
    store = Store(tmp_path_factory.mktemp("discovered"))
    return peft_nb.discover(rows, minutes=0.12, model=str(base), store=store, **small)


def test_it_ends_in_a_front_a_recommendation_and_a_cell(found: Discovery) -> None:
    table = found.table
    assert list(table.columns) == [
        *("method", "r", "target_modules", "learning_rate"),
        *("eval_loss", "forgetting", "adapter_mb", "latency_ms", "run"),
    ]
    assert 1 <= len(table) <= len(results.finished(found.sweep.record))
    assert found.recommendation.count(". ") == 1
    assert re.fullmatch(r"Take [\w-]+ \(.*\): it has .*\. Measured: .*\.", found.recommendation)
    assert found.best().id == found.choice.run
    spec = RunSpec.from_magic(found.cell)
    assert (spec.method, spec.learning_rate) == (found.spec.method, found.spec.learning_rate)
    assert found.sweep.record.notes[0].startswith("methods by %peft advise: ")


def test_it_is_shown_as_text_and_as_a_page(found: Discovery) -> None:
    assert found.recommendation in repr(found)
    assert repr(found).endswith(found.cell.rstrip())
    assert "loss change on general text" in repr(found).splitlines()[0]
    assert "default" in repr(found) or "q_proj, v_proj" in repr(found)
    html = found._repr_html_()
    assert "<table>" in html
    assert "<pre>%%peft" in html


def of(sweep: Sweep, record: SweepRecord, monkeypatch: pytest.MonkeyPatch) -> Discovery:
    monkeypatch.setattr(Sweep, "record", property(lambda _: record))
    return Discovery(sweep)


def test_a_small_adapter_that_is_as_good_is_recommended(swept: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    record = swept.record
    measured = [(1.0, 8.0), (1.005, 1.0), (1.2, 0.1)]
    trials = [
        replace(record.trials[0], number=n, state="finished", metrics={"eval_loss": loss, "adapter_mb": size})
        for n, (loss, size) in enumerate(measured, 1)
    ]
    sweep = Sweep(swept.id, swept.store)
    sweep.spec = type(sweep.spec)(**{**sweep.spec.changed(), "minimize": ["eval_loss", "adapter_mb"]})
    chosen = of(sweep, replace(record, trials=tuple(trials)), monkeypatch)
    assert chosen.choice.number == 2
    assert chosen.recommendation.startswith(f"Take {chosen.spec.method} (")
    assert "within 1 % of the lowest (1.000, with an adapter of 8 MB)" in chosen.recommendation


def test_without_a_finished_trial_there_is_nothing_to_recommend(swept: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    none = of(Sweep(swept.id, swept.store), replace(swept.record, trials=()), monkeypatch)
    with pytest.raises(RunError, match="no adapter to recommend"):
        none.choice  # noqa: B018
    assert "0 trials" in repr(none)
    assert "0 trials" in none._repr_html_()
