"""A model whose blocks are compiled gives the same, whatever the lengths of its rows, and is left as it was."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from peft_nb.errors import MethodError, SpecError
from peft_nb.events import Notice
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from peft_nb.training import compiled, objectives
from peft_nb.training.draws import OwnDraws
from peft_nb.training.objectives import Compiled, Padded, PaddingFree
from peft_nb.training.text_objective import TextObjective
from tests import tiny
from tests.test_training_text_objective import LOSS, adapted, examples

CPU = torch.device("cpu")


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the compiler trace as ever, and spare it the minute in which it writes C++."""
    torch.compiler.reset()  # what other tests have made it give up on
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))


def graphs() -> int:
    """How many pieces of code were compiled so far."""
    return int(counters["stats"]["unique_graphs"])


@pytest.mark.exhaustive
def test_compiled_code_gives_the_same_losses_and_gradients() -> None:
    model = tiny.with_lora(tiny.base("llama", num_hidden_layers=1))
    path, batch, before = PaddingFree(True), tiny.examples(prefix=12), graphs()
    assert max(objectives.disagreement(model, Compiled(path), Padded(0), batch, CPU)) < 1e-4
    assert graphs() > before


def test_a_compiled_run_has_the_losses_of_any_other(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store, traced: None
) -> None:
    def run(on: bool) -> Run:
        wanted = spec(torch_compile=on, max_steps=2, batch_size=4, judge="off", dtype="float32")
        return begin(wanted, data=rows, store=store).wait()

    plain, before = run(False), graphs()
    compiling = run(True)
    assert graphs() > before
    assert compiling.metrics["path"] == plain.metrics["path"] + ", compiled"
    for name in ("loss", "grad_norm", "eval_loss"):
        found, wanted = (one.history[name].dropna().tolist() for one in (compiling, plain))
        assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize(("family", "path"), [("gemma2", PaddingFree(True)), ("llama", Padded(0, chunked=True))])
def test_new_lengths_compile_nothing_and_the_model_stays_as_it_was(family: str, path: Any, traced: None) -> None:
    local = {"sliding_window": 6, "attn_logit_softcapping": 0.5} if family == "gemma2" else {}
    model = tiny.with_lora(tiny.base(family, **local))
    before, forwards = graphs(), {name: vars(one).get("forward") for name, one in model.named_modules()}
    assert objectives.uncompilable(model, path, tiny.examples(), CPU) == ""
    assert graphs() > before
    for batch in (tiny.examples(7, prefix=12), tiny.examples(2), tiny.examples(4, prefix=30, seed=1)):
        known = graphs()
        assert max(objectives.disagreement(model, Compiled(path), path, batch, CPU)) < 1e-4
    assert graphs() == known
    assert forwards == {name: vars(one).get("forward") for name, one in model.named_modules()}


def test_a_classifier_is_compiled_too(encoder: Path, traced: None) -> None:
    model, path, before = adapted(encoder), TextObjective(0, LOSS[False], padded=False), graphs()
    assert objectives.uncompilable(model, path, examples(), CPU) == ""
    assert graphs() > before


def test_what_draws_at_random_is_not_compiled_and_that_is_said(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store
) -> None:
    wanted = spec(torch_compile=True, dropout=0.1, max_steps=1, judge="off")
    run = begin(wanted, data=rows, store=store).wait()
    assert "compiled" not in run.metrics["path"]
    told = "torch_compile: the model is not compiled: it would draw otherwise (dropout)"
    assert Notice(told, "warning") in run.events()


def test_what_runs_while_draws_are_watched_is_compiled_afterwards(traced: None) -> None:
    model, path = tiny.with_lora(tiny.base("mistral", num_hidden_layers=1)), PaddingFree(True)
    before = graphs()
    with Compiled(path).installed(model):
        with OwnDraws(0):
            wanted = path.loss(model, tiny.examples(), CPU)
        assert graphs() == before
        torch.testing.assert_close(path.loss(model, tiny.examples(), CPU), wanted, rtol=1e-4, atol=1e-5)
        assert graphs() > before


def test_a_machine_that_cannot_compile_is_found_before_anything_begins(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled.require("cpu")
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="no such compiler"))
    with pytest.raises(
        MethodError, match=r"^torch_compile: PyTorch cannot compile for the cpu \(.*\); install a C\+\+"
    ):
        begin(spec(torch_compile=True, max_steps=1), data=rows, store=store).wait()


def test_blocks_are_not_computed_anew_and_compiled() -> None:
    with pytest.raises(SpecError, match=r"^torch_compile: blocks that gradient_checkpointing computes anew are not "):
        RunSpec(data="x", torch_compile=True, gradient_checkpointing=True)
