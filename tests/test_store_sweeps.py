from __future__ import annotations

import pytest

from peft_nb.errors import StoreError
from peft_nb.events import Evaluated, StatusChanged
from peft_nb.store import Store
from peft_nb.system import files


def entered(store: Store, name: str | None = None) -> str:
    return store.sweeps.create("data: tickets\n", name)


def test_trials_are_read_with_what_their_runs_measured(store: Store) -> None:
    id = entered(store, "tickets")
    store.sweeps.begin_trial(id, 1, {"r": 8, "learning_rate": 1e-3})
    run = store.create("data: tickets\n", method="lora", model="m")
    store.sweeps.set_run(id, 1, run)
    for event in (StatusChanged("training"), Evaluated(0, 3.0), Evaluated(4, 2.0), Evaluated(8, 1.5)):
        store.record(run, event)
    store.set_metrics(run, {"eval_loss": 1.5})
    store.sweeps.end_trial(id, 1, "finished", "", 2.5)
    store.sweeps.begin_trial(id, 2, {"r": 4})
    found = store.sweeps.get("tickets")
    assert found == store.sweeps.get(id) == store.sweeps.all()[0]
    assert (found.id, found.name, found.status) == (id, "tickets", "running")
    first, second = found.trials
    assert (first.number, first.values, first.state, first.run) == (1, {"r": 8, "learning_rate": 1e-3}, "finished", run)
    assert (first.metrics, first.losses, first.seconds) == ({"eval_loss": 1.5}, ((4, 2.0), (8, 1.5)), 2.5)
    assert (second.state, second.run, second.metrics, second.losses) == ("running", None, {}, ())
    assert store.lineage(run).sweep == id


def test_a_trial_that_begins_again_keeps_its_place_and_its_time(store: Store) -> None:
    id = entered(store)
    store.sweeps.begin_trial(id, 1, {"r": 8})
    store.sweeps.end_trial(id, 1, "stopped", "after step 3", 2.0)
    store.sweeps.begin_trial(id, 1, {"r": 8})
    (trial,) = store.sweeps.get(id).trials
    assert (trial.state, trial.reason, trial.seconds) == ("running", "", 2.0)
    store.sweeps.end_trial(id, 1, "finished", "", 1.0)
    assert store.sweeps.get(id).trials[0].seconds == 3.0


def test_what_is_told_of_a_sweep_is_kept(store: Store) -> None:
    id = entered(store)
    store.sweeps.note(id, "r: ia3 has no rank")
    store.sweeps.foretell(id, {"trials": 3, "seconds": 9.5})
    store.sweeps.worked(id, 12.0)
    store.sweeps.end(id, "finished", "the time is over")
    found = Store(store.folder).sweeps.get(id)
    assert (found.notes, found.forecast) == (("r: ia3 has no rank",), {"trials": 3, "seconds": 9.5})
    assert (found.seconds, found.status, found.reason) == (12.0, "finished", "the time is over")


def test_a_sweep_whose_process_died_reads_as_stopped_and_can_be_claimed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid, start, host = files.owner().split("-", 2)
    with monkeypatch.context() as patch:
        patch.setattr(
            files, "owner", lambda: f"{pid}-{float(start) - 1000}-{host}"
        )  # a process of this number, long ago
        id = entered(store)
    store.sweeps.begin_trial(id, 1, {"r": 8})
    found = store.sweeps.get(id)
    assert (found.status, found.reason) == ("stopped", "interrupted (kernel died)")
    assert (found.trials[0].state, found.trials[0].reason) == ("stopped", "interrupted")
    store.sweeps.claim(id, "data: others\n")
    found = store.sweeps.get(id)
    assert (found.status, found.spec_yaml, found.trials[0].state) == ("running", "data: others\n", "running")


def test_a_sweep_at_work_elsewhere_is_not_claimed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    id = entered(store)
    monkeypatch.setattr(files, "owner", lambda: "1-0.0-elsewhere")
    with pytest.raises(StoreError, match=rf"^sweep {id} is in use by process \d+ on .*; stop it there first$"):
        store.sweeps.claim(id, "")


def test_a_removed_run_leaves_its_trial(store: Store) -> None:
    id, run = entered(store), store.create("data: tickets\n", method="lora", model="m")
    store.sweeps.begin_trial(id, 1, {"r": 8})
    store.sweeps.set_run(id, 1, run)
    store.record(run, StatusChanged("finished"))
    store.sweeps.end_trial(id, 1, "finished", "", 1.0)
    store.remove(run)
    assert store.sweeps.get(id).trials[0].run is None


def test_the_newest_of_a_name_is_meant_and_a_wrong_name_gets_a_hint(store: Store) -> None:
    entered(store, "tickets")
    newest = entered(store, "tickets")
    assert store.sweeps.get("tickets").id == newest
    with pytest.raises(StoreError, match=r"^there is no sweep 'ticket' in .*; did you mean 'tickets'\?$"):
        store.sweeps.get("ticket")
    with pytest.raises(StoreError, match="cannot name a run"):
        entered(store, "../x")
