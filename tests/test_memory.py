"""How much memory the work takes, and what happens where it runs out; in a process that has freed nothing yet."""

from __future__ import annotations

import ctypes
import gc
import re
import resource
import shutil
import sys
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import psutil
import pytest
import torch

from peft_nb.data.support_desk import load as load_desk
from peft_nb.errors import RunError
from peft_nb.events import Evaluated, Event, Notice, Preparing, StatusChanged
from peft_nb.models.plain import bare
from peft_nb.runs import pipeline
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests import tiny

pytestmark = pytest.mark.exhaustive

M_MMAP_THRESHOLD = -3  # malloc.h

Start = Callable[..., Run]


def losses(run: Run) -> list[float]:
    history = run.history
    return history.loss[history.loss.notna()].tolist()


def notices(run: Run) -> list[str]:
    return [event.text for event in run.events() if isinstance(event, Notice)]


@contextmanager
def memory_short_of(size: int, moment: Event) -> Iterator[Callable[[Event], None]]:
    """Give a listener that leaves a run so many bytes from an event until it has been evaluated."""
    before = resource.getrlimit(resource.RLIMIT_DATA)

    def confine(event: Event) -> None:
        if isinstance(event, Evaluated):
            resource.setrlimit(resource.RLIMIT_DATA, before)
        if event == moment:
            used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_DATA, (used + size, before[1]))

    try:
        yield confine
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, before)


needs_limits = pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's data as here")


@needs_limits
@pytest.mark.parametrize("moment", [Preparing("evaluating the base model on 720 rows"), StatusChanged("training")])
def test_when_memory_runs_out_the_work_is_done_in_smaller_parts(
    spec: Callable[..., RunSpec], store: Store, moment: Event, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(pipeline, "foresee", lambda *given: 0.0)  # what it frees again would be enough to go on
    names = {"namespace": {"many": [{"q": row["question"], "a": row["answer"]} for row in load_desk()["train"] * 2]}}
    large = {"data": "support-desk", "eval_data": "many", "batch_size": 300, "max_steps": 2, "eval_steps": 2}
    calm = begin(spec(**large, token_budget=1000), store=store, **names).wait()
    monkeypatch.setenv("PEFT_NB_CACHE", str(tmp_path))  # where the base model has not been evaluated yet
    with memory_short_of(60_000_000, moment) as confine:
        run = begin(spec(**large, token_budget=1_000_000), store=store, listeners=[confine], **names).wait()
    assert any(text.startswith("memory ran out: micro-batches are cut at ") for text in notices(run))
    leak, _, told = [event for event in run.events() if isinstance(event, Notice | Evaluated)][:3]
    assert isinstance(leak, Notice)
    found = "360 rows also in the evaluation set (train/eval leakage)"
    assert (leak.text, leak.fix) == (found, "%peft data support-desk --eval-data many shows more")
    assert isinstance(told, Notice) == isinstance(moment, Preparing)
    assert 1000 < run.metrics["token_budget"] < 22_000
    assert losses(run) == pytest.approx(losses(calm), rel=1e-5)
    assert run.metrics["eval_loss"] == pytest.approx(calm.metrics["eval_loss"], rel=1e-5)


@needs_limits
def test_an_example_too_large_for_the_memory_is_told_in_a_line(spec: Callable[..., RunSpec], store: Store) -> None:
    data = [{"text": "short"}, {"text": "shorter"}, {"text": "a long tale " * 8000}]
    long = spec(batch_size=3, max_length=100_000, eval_fraction=0)
    with memory_short_of(30_000_000, StatusChanged("training")) as confine:
        run = begin(long, data=data, store=store, listeners=[confine])
        with pytest.raises(RunError, match=r"memory ran out on a single example of [\d,]+ tokens; lower max_length"):
            run.wait()
    assert run.status == "failed"


def test_memory_of_finished_runs_is_given_back(start: Start) -> None:
    """Ten runs of which each would leave its adapter and its optimizer, 8 MB and twice that."""
    resident, models = [], []
    for _ in range(10):
        run = start(r=1024, max_steps=2, eval_fraction=0)
        run.wait()
        models.append(weakref.ref(run.model))
        resident.append(psutil.Process().memory_info().rss / 1e6)
    gc.collect()
    assert run.metrics["adapter_mb"] > 8
    assert [model() for model in models[:-1]] == [None] * 9
    # Late in a long session the allocator still moves by some MB a run; ten leaks would be 190 MB.
    assert resident[-1] - resident[1] < 95, resident


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="bfloat16 has no kernels of its own here")
def test_memory_of_what_learns_preferences_is_foreseen(
    base: Path, spec: Callable[..., RunSpec], store: Store, tmp_path: Path
) -> None:
    """Batches of ever other sizes: kernels for each shape, and holes between what they leave."""
    folder = tmp_path / "base"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*model*", "config.json"))
    sizes = {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 12}
    tiny.base("llama", vocab_size=512, eos_token_id=2, pad_token_id=0, **sizes).save_pretrained(folder)
    rows = load_desk()["train"]
    pairs = [
        {"prompt": one["question"], "chosen": one["answer"], "rejected": other["answer"]}
        for one, other in pairwise(rows)
    ]
    fields = {"model": str(folder), "task": "dpo", "dtype": "bfloat16", "batch_size": 8, "eval_steps": 20}
    run = begin(spec(**fields, max_steps=40), data=pairs, store=store).wait()
    foreseen, peak = (run.metrics[name] for name in ("forecast_memory_mb", "peak_memory_mb"))
    assert peak < 1.03 * foreseen < 1.2 * peak, (foreseen, peak)


def own_memory() -> float:
    """MB of this process that no file stands behind; mapped files are read again when memory is short."""
    status = Path("/proc/self/status").read_text()
    return float(re.search(r"RssAnon:\s+(\d+)", status)[1]) / 1e3  # type: ignore[index]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux tells it")
@pytest.mark.parametrize("method", ["lora", "full"])
def test_there_is_never_more_than_one_extra_copy_of_the_weights(
    base: Path, start: Start, method: str, tmp_path: Path
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(base, folder, ignore=shutil.ignore_patterns("*model*", "config.json"))
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 6}
    tiny.base("llama", vocab_size=512, eos_token_id=2, pad_token_id=0, **sizes).save_pretrained(folder)
    run = start(model=str(folder), method=method, max_steps=1).wait()
    size = sum(one.numel() for one in bare(run.model).parameters()) * 4 / 1e6
    gc.collect()
    allocator = ctypes.CDLL(None)
    allocator.mallopt(M_MMAP_THRESHOLD, 65536)  # what is freed is given back at once, or its gaps would count as copies
    allocator.malloc_trim(0)  # or what training has left would be used again, and seem to be none
    over, before, peak = threading.Event(), own_memory(), []

    def watch() -> None:
        while not over.wait(0.001):
            peak.append(own_memory() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    run.merge(tmp_path / "merged", prompts=["Hello"])
    over.set()
    watcher.join()
    assert size > 70
    assert 0.5 * size < max(peak) < 1.75 * size
