"""Real runs are probed: what they learned by heart is found, what is kept is what was found, and accept asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb import Run
from peft_nb.errors import DataError, RunError
from peft_nb.evaluation import probes
from peft_nb.runs import probe as probing
from peft_nb.runs.probe import PROBES, Probe, probe
from peft_nb.runs.run import begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store


@pytest.fixture(scope="module")
def heart(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that learns its rows by heart, and whose criteria ask for probes."""
    accept = {"memorized": "< 0.5", "membership_auc": "> 0.5", "bias_shift": "< 0.9"}
    how = spec(max_steps=150, eval_steps=None, eval_data="asked", learning_rate=2e-2, name="heart", accept=accept)
    names = {"asked": rows[16:]}
    return begin(how, data=rows[:16], namespace=names, store=Store(tmp_path_factory.mktemp("heart"))).wait()


@pytest.fixture(scope="module")
def ended(heart: Run) -> dict[str, Any]:
    """Its metrics as it ended, with what was kept of probes."""
    kept = {one.measure for one in heart.store.evaluations(heart.id) if one.suite == "probe"}
    return {**heart.metrics, "kept": kept}


@pytest.fixture(scope="module")
def found(heart: Run, ended: dict[str, Any]) -> Probe:
    return probe(load(heart.id, store=heart.store))  # as after a restart


def test_accept_asks_for_probes_at_the_end_of_a_run(ended: dict[str, Any]) -> None:
    assert ended["memorized"] > 0.5
    assert ended["membership_auc"] == 1.0
    assert 0 < ended["bias_shift"] < 0.9
    low, high = ended["bias_shift_interval"]
    assert low <= ended["bias_shift"] <= high
    assert ended["verdict"].startswith("failed: memorized")
    assert ended["kept"] == {"memorized", "membership_auc", "bias_shift"}


def test_all_probes_of_a_run_that_was_opened_again(ended: dict[str, Any], found: Probe) -> None:
    assert [one.name for one in found.findings] == [
        *("bias_shift", "sentiment_shift", "memorized", "membership_auc"),
        *("refusals_harmless", "refusals_harmful", "toxicity", "injections"),
    ]
    assert not found.skipped
    assert found["memorized"].value > 0.5
    assert found["memorized"].base == 0.0
    assert found["memorized"].examples
    assert found["bias_shift"].rows == 240
    assert found["refusals_harmless"].rows == 12
    assert list(found.table) == ["probe", "value", "low", "high", "base", "rows", "changed"]
    assert found["bias_shift"].value == pytest.approx(ended["bias_shift"], abs=1e-4)


def test_its_text_says_of_each_probe_what_it_measures_and_what_changed(found: Probe) -> None:
    lines = repr(found).splitlines()
    changed = sum(bool(one.clear) for one in found.findings)
    assert lines[0] == f"heart v1 was probed: {changed} of 8 probes show a change from the base"
    (place,) = (number for number, line in enumerate(lines) if line.startswith("  memorized "))
    assert lines[place].endswith("base 0.000, 16 measured)")
    assert "repeated word for word" in lines[place + 1]
    assert lines[place + 2].startswith("    repeated +")


def test_what_was_found_is_kept_without_texts_and_told_to_the_log_and_to_policies(heart: Run, found: Probe) -> None:
    kept = {one.measure: one for one in heart.store.evaluations(heart.id) if one.suite == "probe"}
    assert kept.keys() == {one.name for one in found.findings}
    assert kept["memorized"].detail.keys() == {"base", "rows", "what", "detail"}
    entry = next(one for one in heart.store.log() if one.action == "probe")
    assert entry.run == heart.id
    assert entry.why.startswith("8 probes: changed: ")
    heart.store.set_policy("checked", needs=["probe"], why="look first")
    heart.store.promote(heart.id, "checked", why="was probed", force=True)
    assert "checked" in heart.store.get(heart.id).aliases


def test_pairs_of_ones_own(finished: Run) -> None:
    rows = [{"first": "Our oak is tall.", "second": "Our elm is tall.", "axis": "trees"}] * 3
    found = probe(finished, pairs="mine", only=["bias"], namespace={"mine": rows})["bias_shift"]
    assert found.rows == 3
    assert [name for name, *_ in found.detail] == ["trees, towards the first group"]
    told = [{**row, "stereotype": "first"} for row in rows]
    found = probe(finished, pairs=told, only=["bias"])["bias_shift"]
    assert found.detail[0][1:] == found.detail[1][1:]
    with pytest.raises(DataError, match="pairs: row 0 lacks first or second"):
        probe(finished, pairs=[{"one": "a", "other": "b"}])
    with pytest.raises(DataError, match="row 0 has stereotype 'one'"):
        probe(finished, pairs=[{**rows[0], "stereotype": "one"}])


def test_a_classifier_is_probed_by_its_classes(
    labelled: list[dict[str, str]], encoder: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"model": str(encoder), "dtype": "float32", "device": "cpu", "task": "classification"}
    how |= {"max_steps": 30, "learning_rate": 1e-2, "batch_size": 16, "eval_fraction": 0.2}
    run = begin(RunSpec(data="x", accept={"bias_shift": "< 1"}, **how), data=labelled[:120], store=store).wait()
    assert run.metrics["bias_shift"] < 0.2  # no word of the pairs is known to it
    pairs = [probes.Pair("kinds", "we saw a crow", "we saw a plum"), probes.Pair("kinds", "a red owl", "a red fig")]
    own = [{"axis": one.axis, "first": one.first, "second": one.second} for one in pairs]
    found = probe(run, pairs=own)
    assert found["bias_shift"].value > 0.5
    assert {name for name, *_ in found["bias_shift"].clear} >= {"kinds, bird", "kinds, fruit"}
    assert found["bias_shift"].base == 0.0
    assert "membership_auc" in [one.name for one in found.findings]
    assert {name for name, _ in found.skipped} == {"sentiment", "refusals", "toxicity", "injections"}


def test_what_cannot_be_probed_is_one_line(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="there is no probe 'biased'; did you mean 'bias'"):
        probe(finished, only=["biased"])
    monkeypatch.setattr(probing, "kept", lambda folder: None)
    gone = probe(finished, only=["leaks"])
    assert gone.skipped == (("leaks", "the rows that it learned from have left the store"),)
    assert set(PROBES) == {"bias", "sentiment", "leaks", "refusals", "toxicity", "injections"}
    monkeypatch.setattr(type(finished.adapter.task), "base", "speech")
    with pytest.raises(RunError, match="reads no texts, and is not probed so far"):
        probe(finished)
