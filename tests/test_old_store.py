"""A store that version 0.1.0 wrote: its runs are listed, loaded, asked and resumed, and say what they said."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from peft_nb.runs.run import load, runs
from peft_nb.store import Store

FILE = Path(__file__).parent / "data" / "store-0.1.0.zip"
FACTS = ("base", "base_hash", "data", "fingerprint", "layout", "dtype", "device")
OF_THE_TASK = ("classes", "multi_label", "max_tokens", "pooling")


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What version 0.1.0 said of the runs, in the folder in which it made them."""
    with zipfile.ZipFile(FILE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    found: dict[str, Any] = json.loads(Path("told.json").read_text())
    return found


def test_every_run_is_known_as_it_was(told: dict[str, Any]) -> None:
    store = Store("store")
    listed = runs(store)
    assert set(listed.index) == set(told["metrics"])
    assert listed.loc[told["generation"], "aliases"] == "production"
    for id, before in told["metrics"].items():
        record = store.get(id)
        facts = {name: getattr(record.facts, name) for name in FACTS} | record.facts.task
        assert {name: value for name, value in {**record.metrics, **facts}.items() if value is not None} == {
            name: value for name, value in before.items() if value is not None
        }
        assert not {*FACTS, *OF_THE_TASK} & record.metrics.keys()
        assert store.verify(id) == {}
        assert store.history(id)


def test_its_adapters_answer_as_they_did(told: dict[str, Any]) -> None:
    store = Store("store")
    writes, labels = load("desk@production", store=store), load("kinds", store=store)
    assert writes.generate(["Where is my order?", "Can I return a sail?"], max_new_tokens=12) == told["answers"]
    found = labels.predict(["we saw a crow", "a red fig", "the drill"])
    assert found.label.tolist() == told["labels"]
    for row, before in zip(found.iloc[:, 3:].values.tolist(), told["probabilities"], strict=True):
        assert row == pytest.approx(before, abs=1e-5)
    own = load(told["bitfit"], store=store)
    assert own.generate(["Where is my order?"], max_new_tokens=12) == told["bitfit_answers"]


def test_it_is_merged_on_the_rows_it_held_out(told: dict[str, Any]) -> None:
    merged = load("desk", store=Store("store")).merge("merged", dtype="float32")
    assert merged.judged_on == "2 evaluation rows"
    sides = load("kinds", store=Store("store")).adapter._to_compare(None)
    assert sides[1] == "12 evaluation rows"


@pytest.mark.parametrize("task", ["generation", "classification"])
def test_a_stopped_run_goes_on_without_its_data(told: dict[str, Any], task: str) -> None:
    for rows in ("rows.jsonl", "labelled.jsonl"):
        Path(rows).unlink()
    run = load(told[f"stopped_{task}"], store=Store("store")).resume()
    assert run.status == "finished"
    history = run.history
    assert history.loss.dropna().tolist() == pytest.approx(told[f"losses_{task}"], rel=1e-4)
