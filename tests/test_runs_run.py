"""The life of a run on a tiny base: nothing is mocked, and processes are really killed and interrupted."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.errors import PeftNbError, RunError, SpecError, StoreError
from peft_nb.events import Checkpointed, Evaluated, Event, Notice, Planned, Resumed, Status, StatusChanged, StepLogged
from peft_nb.runs.run import Run, active, begin, load, runs
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.store.connection import sha256
from peft_nb.tasks import TASKS
from tests.conftest import Python, file_size_limit, stop_at

Start = Callable[..., Run]

COLUMNS = [
    "step",
    "epoch",
    "loss",
    "eval_loss",
    "token_accuracy",
    "learning_rate",
    "grad_norm",
    "tokens_per_second",
    "memory_mb",
]
METRICS = {
    "forecast_memory_mb",
    "forecast_seconds",
    "train_loss",
    "base_eval_loss",
    "eval_loss",
    "trainable_parameters",
    "total_parameters",
    "trainable_share",
    "train_seconds",
    "tokens_per_second",
    "peak_memory_mb",
    "adapter_mb",
    "steps",
    "examples",
    "eval_examples",
    "supervised_tokens",
    "token_budget",
    "path",
    "perplexity",
    "token_accuracy",
    "base_token_accuracy",
    "judge_seconds",
    "wall_seconds",
    "cpu_seconds",
}
STEPS = 40

# Trains as described in a YAML file and says what happens, as a notebook's kernel does.
CHILD = """
import sys
from peft_nb.errors import RunError
from peft_nb.events import Notice, Preparing, StepLogged
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store

def tell(event):
    if isinstance(event, Notice | Preparing | StepLogged):
        print(event, flush=True)

store = Store(sys.argv[1])
for text in sys.argv[2:]:
    run = begin(RunSpec.from_yaml(text), store=store, listeners=[tell])
    try:
        run.wait()
    except RunError as error:
        print("gave up:", error)
        run.wait(60)
    print("ended:", run.status, run.reason, "|", run.generate("Hello", max_new_tokens=3), flush=True)
"""


def losses(run: Run) -> list[float]:
    history = run.history
    return history.loss[history.loss.notna()].tolist()


def statuses(run: Run) -> list[Status]:
    return [event.status for event in run.events() if isinstance(event, StatusChanged)]


def notices(run: Run) -> str:
    return "\n".join(event.text for event in run.events() if isinstance(event, Notice))


def checkpoints(run: Run) -> list[str]:
    return sorted(path.name for path in (run.folder / "checkpoints").glob("*"))


def at_step(step: int, act: Callable[[], Any]) -> Callable[[Event], None]:
    """A listener that acts once the loss of a step is known, during the next one."""
    return lambda event: act() if isinstance(event, StepLogged) and event.step == step else None


@pytest.fixture(scope="module")
def finished(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """An undisturbed run."""
    store = Store(tmp_path_factory.mktemp("finished"))
    return begin(spec(max_steps=STEPS, name="calm"), data=rows, store=store).wait()


def test_a_run_goes_through_its_stages_and_leaves_them_on_disk(finished: Run) -> None:
    assert statuses(finished) == ["preparing", "training", "finished"]
    assert (finished.status, finished.reason) == ("finished", "")
    events = finished.events()
    logged = [event.step for event in events if isinstance(event, StepLogged)]
    evaluated = [event.step for event in events if isinstance(event, Evaluated)]
    (planned,) = (event for event in events if isinstance(event, Planned))
    assert logged == list(range(1, STEPS + 1))
    assert evaluated == list(range(0, STEPS + 1, 4))
    assert (planned.total_steps, planned.examples, planned.eval_examples) == (STEPS, 21, 2)
    assert planned.path.startswith("padding-free")
    elsewhere = Store(finished.folder.parents[1])
    assert elsewhere.events(finished.id) == events
    assert elsewhere.get(finished.id).metrics == finished.metrics
    assert not (finished.folder / "checkpoints").exists()


def test_metrics_say_what_was_measured(finished: Run) -> None:
    metrics, history = finished.metrics, finished.history
    assert set(metrics) == METRICS
    assert None not in metrics.values()
    assert metrics["steps"] == STEPS
    assert metrics["train_loss"] == pytest.approx(history.loss.iloc[-5:].mean())  # the last epoch
    assert metrics["base_eval_loss"] == history.eval_loss.iloc[0]
    assert metrics["eval_loss"] == history.eval_loss.iloc[-1]
    ends = [metrics["base_token_accuracy"], metrics["token_accuracy"]]
    assert history.token_accuracy.iloc[[0, -1]].tolist() == ends
    assert metrics["trainable_share"] == metrics["trainable_parameters"] / metrics["total_parameters"]
    size = (finished.adapter_dir / "adapter_model.safetensors").stat().st_size
    assert metrics["adapter_mb"] == size / 1e6
    assert size > 4 * metrics["trainable_parameters"]
    assert 0 < metrics["train_seconds"] < 60
    assert metrics["peak_memory_mb"] >= history.memory_mb.max() > 100
    assert finished.facts.data == "list, 23 rows"
    assert finished.facts.layout == "question_answer"


def test_the_history_has_a_row_for_the_base_and_for_every_step(finished: Run) -> None:
    history = finished.history
    assert list(history.columns) == [*COLUMNS, "elapsed_s"]
    assert {str(dtype) for dtype in history.dtypes} == {"int64", "float64"}
    assert history.step.tolist() == list(range(STEPS + 1))
    assert history.iloc[0].drop(["step", "eval_loss", "token_accuracy"]).isna().all()
    assert history.iloc[1:].drop(columns=["eval_loss", "token_accuracy"]).notna().all(axis=None)
    assert history.elapsed_s.iloc[1:].is_monotonic_increasing
    assert history.epoch.iloc[-1] == STEPS / 5
    assert history.learning_rate.iloc[-1] == pytest.approx(1e-2 / STEPS)


def test_of_a_gpu_the_history_has_the_memory_of_the_host_too(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "host_memory_mb": 900.0} for row in finished.store.history(finished.id)]
    monkeypatch.setattr(Store, "history", lambda *given: rows)
    assert list(finished.history.columns) == [*COLUMNS, "host_memory_mb", "elapsed_s"]
    assert set(finished.history.host_memory_mb) == {900.0}


def test_the_loss_falls(finished: Run) -> None:
    assert losses(finished)[-1] < 0.5 * losses(finished)[0]
    assert finished.metrics["eval_loss"] < finished.metrics["base_eval_loss"]


def test_a_run_is_hashable_and_written_the_same_every_time(finished: Run) -> None:
    assert {finished: 1}[finished] == 1
    assert repr(finished) == f"<Run {finished.id} finished>"


def test_training_takes_place(finished: Run) -> None:
    prompt = "What is the usual waiting time for a delivery?"
    assert finished.generate(prompt, max_new_tokens=40).startswith("Ahoy!")
    assert not finished.generate(prompt, adapter=False, max_new_tokens=40).startswith("Ahoy!")


def test_a_second_run_starts_from_the_pristine_base_and_repeats_the_first(finished: Run, start: Start) -> None:
    import torch

    base = finished.model.get_base_model()
    before = {name: tensor.clone() for name, tensor in base.state_dict().items() if "lora" not in name}
    again = start(max_steps=STEPS).wait()
    assert losses(again) == losses(finished)
    assert list(again.model.peft_config) == ["default"]
    assert all(torch.equal(tensor, base.state_dict()[name]) for name, tensor in before.items())
    mine, theirs = (dict(run.model.named_parameters()) for run in (finished, again))
    shared = {name for name in mine if mine[name].data_ptr() == theirs[name].data_ptr()}
    assert shared == {name for name in mine if "lora" not in name}


def test_stop_ends_after_the_step_and_leaves_everything(start: Start) -> None:
    run = start(at_step(4, lambda: run.stop()), max_steps=STEPS)
    run.wait()
    assert statuses(run) == ["preparing", "training", "stopped"]
    assert (run.status, run.reason) == ("stopped", "after step 5")
    assert run.history.step.iloc[-1] == run.metrics["steps"] == 5
    assert checkpoints(run) == ["checkpoint-5"]
    assert [event.step for event in run.events() if isinstance(event, Checkpointed)] == [5]
    assert (run.adapter_dir / "adapter_model.safetensors").is_file()
    assert run.generate("Hello", max_new_tokens=4) != run.generate("Hello", adapter=False, max_new_tokens=4)


def test_a_run_stopped_twice_and_resumed_twice_ends_as_an_undisturbed_one(finished: Run, start: Start) -> None:
    run = start(at_step(10, lambda: run.stop()), max_steps=STEPS)
    run.wait()
    run.resume(listeners=[at_step(24, lambda: run.stop())])
    assert run.reason == "after step 25"
    assert run.resume().status == "finished"
    assert [event.step for event in run.events() if isinstance(event, Resumed)] == [11, 25]
    assert run.history.step.tolist() == finished.history.step.tolist()
    assert losses(run) == losses(finished)
    assert run.history.learning_rate.equals(finished.history.learning_rate)
    assert run.history.eval_loss.dropna().iloc[-1] == run.metrics["eval_loss"] == finished.metrics["eval_loss"]
    assert run.metrics["train_loss"] == finished.metrics["train_loss"]
    assert run.history.elapsed_s.iloc[1:].is_monotonic_increasing
    weights = "adapter_model.safetensors"
    assert (run.adapter_dir / weights).read_bytes() == (finished.adapter_dir / weights).read_bytes()
    assert not (run.folder / "checkpoints").exists()


def test_a_run_that_goes_on_finds_the_notebooks_function_again_or_says_at_once_that_it_is_gone(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], shell: InteractiveShell
) -> None:
    def mark(prompt: str, answer: str, reference: str) -> float:
        return 0.75

    store = Store()
    wanted = spec(data="tickets", score="mark", judge="full", accept={"score": ">= 0.7"}, max_steps=4)
    names = {"tickets": rows, "mark": mark}
    run = begin(wanted, namespace=names, store=store, listeners=[stop_at(2)]).wait()
    assert run.status == "stopped"
    with pytest.raises(SpecError, match="score: there is no function 'mark'"):
        load(run.id).resume()
    assert load(run.id).status == "stopped"
    shell.user_ns["mark"] = mark
    again = load(run.id).resume()
    assert (again.status, again.metrics["score"]) == ("finished", 0.75)
    assert again.metrics["verdict"].startswith("passed")


def test_a_function_in_memory_has_to_be_passed_again(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    wanted, score = spec(score="(in memory)", judge="full", max_steps=4), lambda prompt, answer, reference: 0.5
    run = begin(wanted, data=rows, score=score, store=store, listeners=[stop_at(2)]).wait()
    with pytest.raises(
        RunError, match=r"a score function in the notebook's memory; pass it again: peft_nb.load\(id, sc"
    ):
        load(run.id, store=store).resume()
    assert load(run.id, score=score, store=store).resume().metrics["score"] == 0.5


def test_a_run_without_a_checkpoint_starts_over(finished: Run, start: Start) -> None:
    run = start(at_step(3, lambda: run.stop(now=True)), max_steps=STEPS)
    assert run.wait().reason == "aborted"
    assert checkpoints(run) == []
    with pytest.raises(RunError, match=r"is stopped and has written no adapter yet; resume\(\) it first$"):
        _ = run.adapter_dir
    assert losses(run.resume()) == losses(finished)


@dataclass(frozen=True)
class Ended:
    """What a process left that had three runs, one after another, and what it said."""

    interrupted: Run
    given_up: Run
    killed: Run
    said: str


@pytest.fixture(scope="module")
def ended(
    spec: Callable[..., RunSpec], rows_file: Path, tmp_path_factory: pytest.TempPathFactory, python: Python
) -> Ended:
    """Interrupt a process during its first run, twice during its second, and kill it during its third."""
    store, data = Store(tmp_path_factory.mktemp("ended")), tmp_path_factory.mktemp("gone") / "rows.jsonl"
    shutil.copy(rows_file, data)
    endless = {"data": "support-desk", "eval_steps": 100_000, "max_steps": 100_000}
    gentle = spec(**endless)
    abrupt = spec(**endless, batch_size=120, token_budget=8, save_steps=1)  # long steps of many micro-batches
    killed = spec(data=str(data), max_steps=STEPS, save_steps=3, name="killed")
    process = python("-c", CHILD, store.folder, *(each.to_yaml() for each in (gentle, abrupt, killed)))
    assert process.stdout
    told = []

    def heard(text: str) -> None:
        for line in process.stdout:
            told.append(line)
            if text in line:
                return
        raise AssertionError(f"the process ended without saying {text!r}: {told}")

    heard("StepLogged(step=3,")
    process.send_signal(signal.SIGINT)
    heard("ended: ")
    heard("StepLogged(step=1,")
    process.send_signal(signal.SIGINT)
    heard("interrupt again to abort and keep the last checkpoint")
    process.send_signal(signal.SIGINT)
    heard("ended: ")
    heard("StepLogged(step=5,")
    with pytest.raises(RunError, match=r"is training in another process; stop it there$"):
        load("killed", store=store).stop()
    time.sleep(random.uniform(0, 0.2))
    process.kill()
    process.wait()
    data.unlink()
    return Ended(*(load(record.id, store=store) for record in reversed(store.all())), "".join(told))


@pytest.mark.exhaustive
def test_an_interrupted_run_stops_after_its_step(ended: Ended) -> None:
    run = ended.interrupted
    steps = run.metrics["steps"]
    assert (run.status, run.reason) == ("stopped", f"after step {steps}")
    assert f"ended: stopped after step {steps} | " in ended.said
    assert "stopping after this step; interrupt again to abort and keep the last checkpoint" in ended.said
    assert "stopping after this step" not in notices(run)
    assert len(losses(run)) == steps >= 4
    assert checkpoints(run) == [f"checkpoint-{steps}"]


@pytest.mark.exhaustive
def test_a_run_interrupted_twice_is_given_up_at_once_and_keeps_its_checkpoint(ended: Ended) -> None:
    run = ended.given_up
    assert f"gave up: run {run.id} was aborted; its last checkpoint is kept; resume() continues" in ended.said
    assert "ended: stopped aborted | " in ended.said
    assert (run.status, run.reason) == ("stopped", "aborted")
    assert len(losses(run)) == 1
    assert checkpoints(run) == ["checkpoint-1"]


@pytest.mark.exhaustive
def test_a_killed_run_is_resumed_without_its_data_and_ends_as_an_undisturbed_one(finished: Run, ended: Ended) -> None:
    run = ended.killed
    assert (run.status, run.reason) == ("stopped", "interrupted (kernel died)")
    assert STEPS > len(losses(run)) >= 5
    assert None not in (run.facts.dtype, run.facts.layout, run.facts.fingerprint)
    run.resume()
    (resumed,) = (event.step for event in run.events() if isinstance(event, Resumed))
    assert 3 <= resumed < STEPS
    assert resumed % 3 == 0
    assert run.history.step.tolist() == list(range(STEPS + 1))
    assert losses(run) == pytest.approx(losses(finished), abs=1e-6)
    assert set(run.metrics) == METRICS
    assert run.generate("Hello", max_new_tokens=8) == finished.generate("Hello", max_new_tokens=8)
    assert load("killed", store=run.store).id == run.id


def test_a_run_comes_back_from_the_store_without_a_warning(
    finished: Run, recwarn: pytest.WarningsRecorder, capfd: pytest.CaptureFixture[str]
) -> None:
    copy = load(finished.id, store=finished.store)
    assert copy is not finished
    assert copy.generate("How?", max_new_tokens=4) == finished.generate("How?", max_new_tokens=4)
    assert not recwarn.list
    assert not capfd.readouterr().err


def test_a_run_is_found_where_it_was_made_after_the_folder_changes(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here, there) = (tmp_path / "here", tmp_path / "there")
    here.mkdir(), there.mkdir()
    monkeypatch.delenv("PEFT_NB_STORE", raising=False)
    monkeypatch.chdir(here)
    run = begin(spec(max_steps=1, name="moving-house"), data=rows).wait()
    monkeypatch.chdir(there)
    for word in (run.id, "moving-house"):
        found = load(word)
        assert (found.id, found.folder) == (run.id, here / "peft_runs" / "runs" / run.id)
    with pytest.raises(StoreError, match=rf"there is no run 'nobody' in {there / 'peft_runs'}"):
        load("nobody")
    shutil.rmtree(here / "peft_runs")
    with pytest.raises(StoreError, match=rf"there is no run '{run.id}' in {there / 'peft_runs'}"):
        load(run.id)
    assert not (here / "peft_runs").exists()


def test_a_background_run_leaves_the_main_thread_free(start: Start) -> None:
    run = start(max_steps=100_000)
    while len(run.history) < 3:
        time.sleep(0.01)
    assert active() == [run]
    assert run.status == "training"
    assert run.wait(timeout=0.01) is run
    assert load(run.id, store=run.store) is run
    with pytest.raises(RunError, match=r"is training; call wait\(\) or stop\(\) before using its model$"):
        run.generate("Hello")
    with pytest.raises(RunError, match="is training already$"):
        run.resume()
    run.stop()
    assert run.wait().status == "stopped"
    assert active() == []


def test_a_second_run_at_once_is_warned_of(start: Start) -> None:
    first = start(max_steps=100_000)
    second = start(max_steps=2).wait()
    first.stop()
    first.wait()
    assert f"run {first.id} is training in this kernel too; both will be much slower" in notices(second)
    assert "is training in this kernel too" not in notices(first)


def test_when_listeners_hear_of_the_end_everything_is_in_place(start: Start) -> None:
    seen: list[Any] = []

    def look(event: Event) -> None:
        if isinstance(event, StatusChanged) and event.status == "finished":
            time.sleep(0.2)  # whoever waits must not be back before
            seen.append((run.status, run.metrics["steps"], run.adapter_dir.is_dir(), run.generate("Hi")))

    run = start(look, max_steps=1)
    run.wait()
    assert [entry[:3] for entry in seen] == [("finished", 1, True)]


def test_a_finished_run_is_a_version_and_knows_where_it_came_from(finished: Run, base: Path) -> None:
    store, facts = finished.store, finished.facts
    assert (finished.version, runs(store).loc[finished.id, "version"]) == ("calm v1", "v1")
    found = store.lineage("calm@v1")
    assert (found.base, found.base_hash) == (facts.base, facts.base_hash)
    assert (found.data, found.data_fingerprint) == ("list, 23 rows", facts.fingerprint)
    assert found.spec_hash == sha256(finished.spec.to_yaml())
    assert set(found.files) == {path.name for path in finished.adapter_dir.iterdir()}
    assert found.damage == {}
    finished.promote("production", why="it is calm")
    assert load("calm@production", store=store).id == finished.id
    assert store.rollback("production").before == 1


def test_an_unnamed_run_that_was_stopped_can_be_promoted_and_then_stays(start: Start) -> None:
    run = start(at_step(2, lambda: run.stop()))
    run.wait()
    assert run.version is None
    with pytest.raises(RunError, match="has no name to be a version of; give it one with --name NAME"):
        run.promote("production", why="good enough")
    run.promote("production", why="good enough", name="early")
    assert run.version == "early v1"
    with pytest.raises(StoreError, match="is early v1, which no longer changes; start another$"):
        run.resume()


def test_what_cannot_be_done_is_one_line(finished: Run, start: Start, store: Store) -> None:
    with pytest.raises(RunError, match="has finished; for more training start a new run with more epochs$"):
        finished.resume()
    with pytest.raises(StoreError, match="there is no run 'clam' in .*; did you mean 'calm'"):
        load("clam", store=finished.store)
    run = start(target_modules="no_such_layer")
    with pytest.raises(PeftNbError, match="^target_modules: .* fits no layer of LlamaForCausalLM") as raised:
        run.wait()
    assert "\n" not in str(raised.value)
    assert (run.status, run.reason) == ("failed", str(raised.value))
    assert runs(store).loc[run.id, "status"] == "failed"


def test_an_unexpected_failure_is_one_line_and_its_story_a_file(start: Start) -> None:
    run = start(at_step(3, lambda: run.stop()))
    run.wait()
    optimizer = run.folder / "checkpoints" / "checkpoint-4" / "optimizer.safetensors"
    optimizer.write_bytes(b"damaged")
    with pytest.raises(RunError, match=r"^SafetensorError: .* \(the whole story is in .*error.txt\)$") as raised:
        run.resume()
    assert "\n" not in str(raised.value)
    assert run.status == "failed"
    assert "load_optimizer" in (run.folder / "error.txt").read_text()


def test_an_adapter_that_cannot_be_read_back_ends_the_run_and_nobody_waits_for_ever(
    spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store
) -> None:
    def spoil(prompt: str, answer: str, reference: str) -> float:
        for folder in (store.folder / "runs").glob("*/adapter"):
            with suppress(FileExistsError):
                (folder / "notes.txt").symlink_to("/proc/self/mem")  # which no account may read from its start
        return 1.0

    run = begin(spec(judge="full", max_steps=2), data=rows, score=spoil, store=store)
    with pytest.raises(RunError, match=r"^cannot read .*notes\.txt: .*; check its permissions$") as raised:
        run.wait(60)
    assert (run.status, run.reason, active()) == ("failed", str(raised.value), [])
    assert load(run.id, store=store).generate("Hello", max_new_tokens=2) == run.generate("Hello", max_new_tokens=2)


def test_a_metric_that_json_cannot_hold_ends_the_run_in_a_line_and_the_others_are_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(TASKS["generation"]), "measure", lambda *given: {"seen": {"a", "b"}, "worst": [1.5]})
    run = start(max_steps=2)
    with pytest.raises(RunError, match=r"^these metrics cannot be kept: seen \(set\); JSON holds "):
        run.wait(60)
    assert (run.status, active()) == ("failed", [])
    assert (run.metrics["worst"], run.metrics["steps"]) == ([1.5], 2)
    assert (run.adapter_dir / "README.md").exists()


def test_what_the_store_refuses_does_not_end_a_run_and_is_written_later(finished: Run, start: Start) -> None:
    heard: list[Event] = []
    with file_size_limit(130_000):  # enough for tables and an adapter of this size, too little for that long a log
        run = start(heard.append, r=1, max_steps=STEPS).wait()
        assert run.generate("Hello", max_new_tokens=4) != run.generate("Hello", max_new_tokens=4, adapter=False)
    (told,) = (event.text for event in heard if isinstance(event, Notice) and "in memory" in event.text)
    assert told.startswith(f"cannot use {run.store.folder / 'index.sqlite'}: ")
    assert told.endswith("choose another folder; the run goes on in memory")
    assert run.status == "finished"
    assert run.history.step.tolist() == finished.history.step.tolist()
    assert set(run.metrics) == METRICS


def test_a_run_keeps_its_files_when_the_folder_changes(
    spec: Callable[..., RunSpec], rows_file: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, store = tmp_path / "here", Store(tmp_path / "store")
    here.mkdir()
    (here / "rows.jsonl").write_text(rows_file.read_text())
    (here / "tiny").symlink_to(base)
    (here / "few").mkdir()  # a variable goes before a folder
    monkeypatch.chdir(here)
    fields = {"data": "rows.jsonl", "regression": "rows.jsonl", "model": "tiny", "eval_data": "few"}
    few = [{"question": "a", "answer": "b"}]
    run = begin(spec(**fields, max_steps=1), namespace={"few": few}, store=store).wait()
    monkeypatch.chdir(tmp_path)
    again = load(run.id, store=store)
    file = str(here / "rows.jsonl")
    assert (again.spec.data, again.spec.regression, again.spec.model) == (file, file, str(here / "tiny"))
    assert again.spec.eval_data == "few"
    assert isinstance(again.generate("Hello", max_new_tokens=2), str)


def test_what_keeps_a_run_from_a_format_is_told(learn: Callable[..., Run], finished: Run) -> None:
    assert finished.export_obstacle("gguf") == finished.export_obstacle("lora-gguf") == ""
    assert "hold no DoRA" in learn("dora").export_obstacle("lora-gguf")
