"""Every optimizer that a spec can name trains, is resumed exactly, and keeps as much as is estimated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, get_args

import pytest
import torch
from safetensors.torch import load_file
from transformers.training_args import OptimizerNames

from peft_nb.errors import MethodError, SpecError
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.spec.runspec import Optimizer
from peft_nb.store import Store
from peft_nb.training import optimizer
from peft_nb.training.trainer import PlannedTrainer
from tests.conftest import few, in_turn, stop_at

HERE = get_args(Optimizer)
# On a CPU the same as one without a name of its own for pages, or for 32 bits.
TWINS = {name for name in HERE if name.startswith(("paged_lion", "paged_ademamix"))}
TWINS |= {"adamw_bnb_8bit", "rmsprop_bnb_32bit"}


def test_without_a_word_it_is_adamw_fused_where_the_device_can() -> None:
    assert [optimizer.named(None, device) for device in ("cpu", "cuda", "mps")] == [
        "adamw_torch_fused",
        "adamw_torch_fused",
        "adamw_torch",
    ]
    assert optimizer.named("sgd", "cpu") == "sgd"


def test_a_base_in_4_bits_has_a_paged_optimizer_of_8_bits_on_a_gpu_that_runs_it() -> None:
    asked: list[tuple[str, str]] = []

    def runs(optim: str, device: str, there: bool = True) -> bool:
        asked.append((optim, device))
        return there

    assert optimizer.named(None, "cuda", "4bit", runs) == "paged_adamw_8bit"
    assert asked == [("paged_adamw_8bit", "cuda")]
    assert optimizer.named(None, "cuda", "4bit", partial(runs, there=False)) == "adamw_torch_fused"
    others = [("sgd", "cuda", "4bit"), (None, "cuda", "8bit"), (None, "cuda", "none"), (None, "cpu", "4bit")]
    found = [optimizer.named(*other, runs) for other in others]
    assert found == ["sgd", "adamw_torch_fused", "adamw_torch_fused", "adamw_torch_fused"]
    assert len(asked) == 2  # where it is not wanted, nothing is tried
    assert optimizer.runs("paged_adamw_8bit", "cpu")
    assert not optimizer.runs("lomo", "cpu")


@pytest.mark.parametrize("name", HERE)
def test_every_optimizer_runs_on_a_cpu(name: str) -> None:
    kept = optimizer.state_bytes(name, "cpu")
    moments = 3 if "ademamix" in name else 1 if any(one in name for one in ("lion", "rmsprop", "adagrad")) else 2
    if name in ("sgd", "adafactor"):
        assert kept <= 4 * 512 / 256**2  # a row and a column of each matrix, or nothing
    else:
        assert kept == pytest.approx(moments * (1.03 if "8bit" in name else 4), rel=0.03)


def test_one_that_does_not_run_or_is_not_supported_is_refused_in_a_line() -> None:
    with pytest.raises(MethodError, match=r"^optim: lomo does not run on the cpu \(.*lomo.*\); take adafactor, or "):
        optimizer.state_bytes("lomo", "cpu")
    served = {name.value for name in OptimizerNames if refusal(name.value) is None}
    assert served == set(HERE)
    assert refusal("galore_adamw") == (
        "optim: galore_adamw is of the package galore-torch, which is not supported; "
        "adafactor and adamw_8bit need little memory too"
    )
    assert all(" is of the package " in str(refusal(name.value)) for name in OptimizerNames if name.value not in HERE)
    assert str(refusal("adafaktor")).endswith(", …; did you mean 'adafactor'?")


def refusal(name: str) -> str | None:
    """Say why a spec refuses an optimizer, or nothing."""
    try:
        RunSpec(data="x", optim=name)
    except SpecError as error:
        return str(error)
    return None


@pytest.mark.parametrize(
    "name", [*few([one for one in HERE if one not in TWINS], "adafactor", "adamw_8bit"), *in_turn(sorted(TWINS), ())]
)
def test_a_stopped_run_is_resumed_exactly(
    name: str, spec: Callable[..., RunSpec], rows: list[Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[float] = []
    train = PlannedTrainer.train

    def watched(self: PlannedTrainer, *args: Any, **kwargs: Any) -> Any:
        found = train(self, *args, **kwargs)
        states = (one for state in self.optimizer.state.values() for one in state.values() if torch.is_tensor(one))
        trained = sum(one.numel() for one in self.model.parameters() if one.requires_grad)
        kept.append(sum(one.nbytes for one in states if one.numel() > 1) / trained)
        return found

    monkeypatch.setattr(PlannedTrainer, "train", watched)

    def run(*listeners: Any) -> Run:
        wanted = spec(method="full", optim=name, max_steps=4, learning_rate=1e-3, judge="off")
        return begin(wanted, data=rows, store=store, listeners=listeners).wait()

    whole, stopped = run(), run(stop_at(2))
    assert stopped.status == "stopped"
    resumed = load(stopped.id, store=store).resume()
    wanted, found = (load_file(one.adapter_dir / "adapter_model.safetensors") for one in (whole, resumed))
    assert all(torch.equal(one, found[key]) for key, one in wanted.items())
    losses = whole.history["loss"].dropna().tolist()
    assert losses == resumed.history["loss"].dropna().tolist()
    before, after = whole.history["eval_loss"].dropna()
    assert after < before
    assert kept[0] == pytest.approx(optimizer.state_bytes(name, "cpu"), rel=0.35, abs=0.5)  # small ones stay in 32 bits
    if name == "adafactor":
        assert kept[0] < 0.5 < 8


def test_parameters_that_learn_faster_do_so_with_every_optimizer(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[set[float]] = []
    train = PlannedTrainer.train

    def watched(self: PlannedTrainer, *args: Any, **kwargs: Any) -> Any:
        found = train(self, *args, **kwargs)
        rates.append({group["initial_lr"] for group in self.optimizer.param_groups})
        return found

    monkeypatch.setattr(PlannedTrainer, "train", watched)
    for name in ("adafactor", "adamw_8bit"):
        wanted = spec(method="lora-plus", optim=name, max_steps=1, learning_rate=1e-3, judge="off")
        begin(wanted, data=rows, store=store).wait()
    assert rates == [{1e-3, 16e-3}] * 2
