from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from peft_nb.errors import DataError, RunError, SpecError, StoreError
from peft_nb.events import Listener, StepLogged
from peft_nb.runs import run
from peft_nb.runs.context import Inputs
from peft_nb.runs.run import Run, active, begin, load
from peft_nb.runs.sweeps import search
from peft_nb.runs.sweeps.search import Search
from peft_nb.spec import RunSpec
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Store
from tests.conftest import Python

Searching = Callable[..., Search]


def test_every_trial_is_a_run_of_the_sweep_and_poor_ones_stop_early(swept: Search) -> None:
    record = swept.record
    assert (record.status, record.reason, len(record.trials)) == ("finished", "", 8)
    runs = [swept.store.get(str(one.run)) for one in record.trials]
    assert {swept.store.lineage(one.id).sweep for one in runs} == {swept.id}
    assert {one.name for one in runs} == {None}
    assert {one.tags for one in runs} == {(swept.id,)}
    for trial, one in zip(record.trials, runs, strict=True):
        spec = RunSpec.from_yaml(one.spec_yaml)
        assert {name: getattr(spec, name) for name in trial.values} == trial.values
        assert one.status == {"finished": "finished", "pruned": "stopped"}[trial.state]
        steps = [step for step, _ in trial.losses]
        assert steps == list(range(1, 10)) if trial.state == "finished" else steps[-1] < 9
    pruned = [one for one in record.trials if one.state == "pruned"]
    assert pruned
    assert all("trials there; one in 4 goes on" in one.reason for one in pruned)


def test_the_best_of_it_is_an_ordinary_run(swept: Search) -> None:
    best = min(
        (one for one in swept.record.trials if one.state == "finished"), key=lambda one: one.metrics["eval_loss"]
    )
    found = load(str(best.run), store=swept.store)
    assert found.status == "finished"
    assert isinstance(found.generate("How long may I take?", max_new_tokens=4), str)


def test_trials_share_base_rows_and_start(searching: Searching, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from peft_nb.data import encoding, sources
    from peft_nb.models import load as loading

    loaded, encoded, read = [], [], []
    real_read = sources.read
    monkeypatch.setattr(sources, "read", lambda *given: read.append(given[0]) or real_read(*given))
    real_load, real_encode = loading._load, encoding.encode
    monkeypatch.setattr(loading, "_bases", type(loading._bases)())
    loading._latest.clear()
    monkeypatch.setattr(loading, "_load", lambda *given: loaded.append(1) or real_load(*given))

    def encode(*given: Any, **more: Any) -> Any:
        encoded.append("folder" in more)  # not the few that are looked at for the estimate
        return real_encode(*given, **more)

    monkeypatch.setattr(encoding, "encode", encode)
    begun = searching(store, search="grid")
    begun.wait()
    histories = [store.history(str(one.run)) for one in begun.record.trials]
    assert len(histories) == 3
    assert len({rows[0]["eval_loss"] for rows in histories}) == 1  # of the base, as the training begins
    assert len({rows[1]["loss"] for rows in histories}) == 1  # the first batch, before any update
    assert len({rows[-1]["loss"] for rows in histories}) == 3
    assert (sum(loaded), sum(encoded), len(read)) == (1, 1, 1)


def test_a_trial_that_cannot_run_fails_with_its_line_and_the_sweep_goes_on(searching: Searching, store: Store) -> None:
    space = {"target_modules": [["nothing"], ["q_proj"]]}
    begun = searching(store, search="grid", sweep=space, learning_rate=1e-2, max_steps=2)
    begun.wait()
    failed, finished = sorted(begun.record.trials, key=lambda one: one.state)
    assert (failed.state, finished.state) == ("failed", "finished")
    assert failed.reason.startswith("target_modules: ['nothing'] fits no layer of LlamaForCausalLM")
    assert (begun.record.status, begun.record.reason) == ("finished", "")


def test_where_no_trial_can_run_the_sweep_says_why(searching: Searching, store: Store) -> None:
    begun = searching(store, sweep={"target_modules": [["nothing"], ["nowhere"]]}, learning_rate=1e-2, trials=2)
    with pytest.raises(RunError, match=r"^sweep sweep-\w+: no trial finished: target_modules: .* fits no layer"):
        begun.wait()
    assert begun.record.status == "failed"


def test_a_metric_that_is_not_measured_is_refused_or_fails_the_trial(
    searching: Searching, store: Store, encoder: Path, labelled: list[dict[str, str]]
) -> None:
    with pytest.raises(SpecError, match=r"^minimize: forgetting is not measured for generation under judge: off; "):
        searching(store, minimize=["eval_loss", "forgetting"])
    fields = {"model": str(encoder), "task": "classification", "data": "rows", "max_steps": 1, "device": "cpu"}
    spec = SweepSpec(**fields, minimize="perplexity", sweep={"r": [2, 4]}, trials=1)
    begun = search.begin(spec, namespace={"rows": labelled[:60]}, store=store)
    with pytest.raises(RunError, match="perplexity was not measured; see judge"):
        begun.wait()


def test_wrong_rows_are_told_before_anything_is_entered(base: Path, store: Store) -> None:
    with pytest.raises(DataError, match="nowhere"):
        search.begin(SweepSpec(data="nowhere", model=str(base), sweep={"r": [4, 8]}), store=store)
    assert store.sweeps.all() == []


class Stopping:
    """Begins trials as usual, and ends the sweep at a step of one of them."""

    def __init__(self, trial: int, step: int) -> None:
        self.trial, self.step, self.begun = trial, step, 0

    def __call__(self, spec: RunSpec, *, listeners: Sequence[Listener], **given: Any) -> Run:
        self.begun += 1
        at = self.step if self.begun == self.trial else 0

        def stop(event: object) -> None:
            if isinstance(event, StepLogged) and event.step == at:
                search.active()[0].stop()

        return begin(spec, listeners=[*listeners, stop], **given)


def test_stop_keeps_what_is_done_and_resuming_goes_on_from_the_checkpoint(
    searching: Searching, rows: list[dict[str, str]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "begin", Stopping(trial=2, step=4))
    begun = searching(store, search="grid", name="tickets")
    begun.wait()
    record = begun.record
    assert (record.status, record.reason) == ("stopped", "after 2 trials")
    assert [one.state for one in record.trials] == ["finished", "stopped"]
    stopped = record.trials[1]

    resumed = search.resume("tickets", Inputs(data=rows), store=store)
    with pytest.raises(RunError, match="is at work already"):
        search.resume("tickets", Inputs(data=rows), store=store)
    resumed.wait()
    after = resumed.record
    assert [one.state for one in after.trials] == ["finished"] * 3
    assert after.trials[0] == record.trials[0]
    assert after.trials[1].run == stopped.run  # the same run went on
    assert [row["step"] for row in store.history(str(stopped.run)) if row["loss"] is not None] == list(range(1, 10))
    assert after.seconds > record.seconds

    straight = begin(RunSpec(**{**RunSpec.from_yaml(store.get(str(stopped.run)).spec_yaml).changed()}), data=rows,
                     store=store).wait()  # fmt: skip
    assert after.trials[1].metrics["eval_loss"] == pytest.approx(straight.metrics["eval_loss"], abs=1e-6)


def test_a_trial_that_is_stopped_before_it_is_measured_begins_again(
    searching: Searching, rows: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "begin", Stopping(trial=1, step=1))
    fields = {"max_steps": 1, "judge": "quick", "minimize": ["eval_loss", "forgetting"], "trials": 1}
    begun = searching(store, **fields)
    begun.wait()
    (stopped,) = begun.record.trials
    assert (stopped.state, stopped.reason) == ("stopped", "before forgetting was measured")
    resumed = search.resume(begun.id, Inputs(data=rows), store=store)
    resumed.wait()
    (trial,) = resumed.record.trials
    assert (trial.state, trial.values) == ("finished", stopped.values)
    assert trial.metrics["forgetting"] is not None


def test_a_finished_sweep_goes_on_with_more_trials(searching: Searching, rows: Any, store: Store) -> None:
    begun = searching(store, trials=1, max_steps=2)
    begun.wait()
    more = search.resume(begun.id, Inputs(data=rows), trials=2, store=store)
    more.wait()
    assert len({one.values["learning_rate"] for one in more.record.trials}) == 2
    assert SweepSpec.from_yaml(more.record.spec_yaml).trials == 2


def test_when_the_time_is_over_nothing_more_begins_but_one_trial_ends(searching: Searching, store: Store) -> None:
    begun = searching(store, minutes=1e-4, max_steps=3)
    begun.wait()
    assert [one.state for one in begun.record.trials] == ["finished"]
    assert begun.record.reason == "the time is over"


def test_two_trials_at_once_come_to_what_one_after_the_other_does(searching: Searching, store: Store) -> None:
    losses = []
    for parallel in (1, 2):
        begun = searching(store, search="grid", parallel=parallel, max_steps=3)
        begun.wait()
        losses.append({one.values["learning_rate"]: one.metrics["eval_loss"] for one in begun.record.trials})
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    assert not active()


def test_a_sweep_of_a_name_says_that_an_earlier_one_was_stopped(searching: Searching, store: Store) -> None:
    earlier = store.sweeps.create("data: x\n", "tickets")
    store.sweeps.end(earlier, "stopped")
    begun = searching(store, trials=1, max_steps=1, name="tickets")
    begun.wait()
    assert f"%peft sweep {earlier} --resume goes on with that one" in begun.record.notes[0]


KILLED = """
import json, os, sys
from peft_nb.events import StepLogged
from peft_nb.runs import run
from peft_nb.runs.sweeps import search
from peft_nb.spec.sweep import SweepSpec
from peft_nb.store import Store

store, data, fields = Store(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
begun, begin = [], run.begin

def start(spec, *, listeners, **given):
    begun.append(spec)

    def die(event):
        if len(begun) == 2 and isinstance(event, StepLogged) and event.step == 5:
            os._exit(9)

    return begin(spec, listeners=[*listeners, die], **given)

run.begin = start
search.begin(SweepSpec(**fields), store=store).wait()
"""


def test_killed_it_goes_on_where_it_was(
    spec: Callable[..., RunSpec], rows_file: Path, store: Store, python: Python
) -> None:
    import json

    common = spec(max_steps=9, eval_steps=3, save_steps=1, data=str(rows_file)).changed()
    fields = {**common, "sweep": {"learning_rate": [1e-3, 1e-2, 3e-2]}, "search": "grid", "name": "tickets"}
    fields.pop("learning_rate")
    assert python("-c", KILLED, store.folder, rows_file, json.dumps(fields)).wait(300) == 9
    record = store.sweeps.get("tickets")
    assert (record.status, record.reason) == ("stopped", "interrupted (kernel died)")
    assert [one.state for one in record.trials] == ["finished", "stopped"]
    resumed = search.resume("tickets", store=store)
    resumed.wait()
    after = resumed.record
    assert [one.state for one in after.trials] == ["finished"] * 3
    assert after.trials[0] == record.trials[0]
    assert after.trials[1].run == record.trials[1].run
    assert [step for step, _ in after.trials[1].losses] == [3, 6, 9]


def test_an_interrupt_stops_the_sweep(searching: Searching, store: Store) -> None:
    begun, pressed = searching(store, trials=3), []

    def press() -> None:
        if not pressed and begun.progress:
            pressed.append(time.monotonic())
            raise KeyboardInterrupt

    begun.wait(tick=press)
    assert pressed
    assert begun.record.status == "stopped"


def test_there_is_no_such_sweep(store: Store) -> None:
    with pytest.raises(StoreError, match="there is no sweep 'x'"):
        search.resume("x", store=store)
