"""What the worker does with data, base and memory: real quantization, real want of memory."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb.errors import MethodError, ModelError, RunError
from peft_nb.events import ACTIVE, Evaluated, Event, Notice, Preparing, StepLogged, TimeLeft
from peft_nb.runs.run import Run, active, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import Python, stop_at

Start = Callable[..., Run]

MISTAKES = """
import json, sys
import peft_nb
from peft_nb.data.sources import IN_MEMORY
from peft_nb.errors import PeftNbError
rows = [{"question": "a", "answer": "b"}] * 4
for fields in (
    {"data": "no_such_data"},
    {"data": rows, "learning_rat": 1},
    {"data": rows, "method": "lorra"},
    {"data": rows, "method": "qlora", "quantization": "none"},
    {"data": [{"this": 1, "that": 2}]},
    {"data": rows, "model": "./no-such-folder"},
):
    try:
        peft_nb.train(**fields)
    except PeftNbError as error:
        print(f"{type(error).__name__}: {error}")
print("torch" in sys.modules)
"""


def losses(run: Run) -> list[float]:
    history = run.history
    return history.loss[history.loss.notna()].tolist()


def notices(run: Run) -> list[str]:
    return [event.text for event in run.events() if isinstance(event, Notice)]


def test_mistakes_are_told_in_a_line_before_pytorch_is_imported(tmp_path: Path, python: Python) -> None:
    output, _ = python("-c", MISTAKES, cwd=tmp_path).communicate()
    *told, last = output.splitlines()
    kinds = [line.partition(":")[0] for line in told if "Error: " in line]
    assert kinds == ["DataError", "SpecError", "SpecError", "SpecError", "DataError", "ModelError"]
    assert "did you mean 'learning_rate'?" in told[1]
    assert "did you mean 'lora'?" in told[2]
    assert last == "False"


@pytest.mark.parametrize(
    "fields",
    [{"fast": False}, {"token_budget": 32}, {"token_budget": 32, "fast": False}, {"gradient_checkpointing": True}],
    ids=str,
)
def test_how_a_step_is_computed_does_not_change_the_curve(finished: Run, start: Start, fields: dict[str, Any]) -> None:
    run = start(**fields).wait()
    assert losses(run) == pytest.approx(losses(finished), rel=1e-4)
    assert run.metrics["eval_loss"] == pytest.approx(finished.metrics["eval_loss"], rel=1e-4)


def drawn() -> list[float]:
    """One number of each generator that a notebook draws from."""
    import numpy
    import torch

    return [random.random(), float(numpy.random.rand()), float(torch.rand(1))]


def test_a_background_run_and_the_notebook_draw_as_if_they_were_alone(finished: Run, start: Start) -> None:
    import numpy
    import torch

    def seed() -> None:
        random.seed(5), numpy.random.seed(5), torch.manual_seed(5)

    seed()
    alone = [drawn() for _ in range(200_000)]
    undisturbed = start(dropout=0.2).wait()
    answers = [finished.generate("Hello", temperature=2.0, seed=seed, max_new_tokens=8) for seed in (1, 2)]
    seed()
    run, found = start(dropout=0.2), list[list[float]]()
    while run.status in ACTIVE:
        found += [drawn() for _ in range(20)]
        if len(found) % 400 == 0:
            asked = [finished.generate("Hello", temperature=2.0, seed=seed, max_new_tokens=8) for seed in (1, 2)]
            assert asked == answers
    assert run.wait().status == "finished"
    assert found == alone[: len(found)]
    assert len(found) > 100
    assert losses(run) == losses(undisturbed)
    assert answers[0] != answers[1]


def test_dropout_is_the_same_every_time_and_after_resuming(start: Start) -> None:
    undisturbed = start(dropout=0.2).wait()
    random.seed(7)
    run = start(stop_at(3), dropout=0.2)
    assert run.wait().status == "stopped"
    assert losses(run.resume()) == losses(undisturbed)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantized_base_learns_stays_as_it_was_and_is_found_again(
    start: Start, store: Store, quantization: str
) -> None:
    import bitsandbytes

    run = start(method="qlora", quantization=quantization, max_steps=12).wait()
    kind = {"4bit": bitsandbytes.nn.Linear4bit, "8bit": bitsandbytes.nn.Linear8bitLt}[quantization]
    assert sum(isinstance(module, kind) for module in run.model.modules()) == 14
    assert losses(run)[-1] < 0.8 * losses(run)[0]
    answer, bare = (run.generate("Hello", max_new_tokens=8, adapter=on) for on in (True, False))
    found = load(run.id, store=store)
    assert found.generate("Hello", max_new_tokens=8) == answer != bare
    again = start(method="qlora", quantization=quantization, max_steps=12).wait()
    assert losses(again) == losses(run)


def stages(run: Run) -> list[str]:
    return [event.what for event in run.events() if isinstance(event, Preparing)]


def test_the_base_model_is_evaluated_once_for_the_same_rows(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store
) -> None:
    other = [{**row, "answer": f"{row['answer']} So it is."} for row in rows]
    first, again, wider, soft, others = (
        begin(spec(max_steps=1, **fields), data=data, store=store).wait()
        for data, fields in (
            (other[:20], {}),
            (other[:20], {"learning_rate": 1e-3}),
            (other[:20], {"r": 2}),
            (other[:20], {"method": "prompt"}),  # which is not the base model before it is trained
            (other[:19], {}),
        )
    )
    measured = "evaluating the base model on 2 rows"
    assert [measured in stages(run) for run in (first, again, wider, soft, others)] == [True, False, False, True, True]
    losses = [run.metrics["base_eval_loss"] for run in (first, again, wider, soft)]
    assert losses[0] == losses[1] == losses[2] != losses[3]
    assert first.metrics["base_token_accuracy"] == again.metrics["base_token_accuracy"]
    still = begin(spec(max_steps=1, learning_rate=1e-12), data=other[:20], store=store).wait().metrics
    assert still["base_token_accuracy"] == still["token_accuracy"] == first.metrics["base_token_accuracy"]
    assert [event.step for event in again.events() if isinstance(event, Evaluated)] == [0, 1]


def test_time_left_counts_what_comes_after_the_last_step(start: Start) -> None:
    left: list[TimeLeft] = []
    run = start(lambda event: left.append(event) if isinstance(event, TimeLeft) else None, judge="quick").wait()
    steps, after = left[: run.metrics["steps"]], left[run.metrics["steps"] :]
    assert all(event.seconds >= 1 for event in steps)  # saving and evaluating, also after the last step
    assert len(after) == 3  # the parts of a quick evaluation
    assert [event.seconds for event in after] == sorted((event.seconds for event in after), reverse=True)
    assert not [event for event in run.events() if isinstance(event, TimeLeft)]


def test_plain_text_is_continued_as_it_stands(spec: Callable[..., RunSpec], rows: list[Any], store: Store) -> None:
    texts = [{"text": row["answer"]} for row in rows]
    run = begin(spec(max_steps=20), data=texts, store=store).wait()
    ids = run.tokenizer("Ahoy!", return_tensors="pt")
    made = run.model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    continued = run.tokenizer.decode(made, skip_special_tokens=True).strip()
    for one in (run, load(run.id, store=store)):
        assert one.generate("Ahoy!", max_new_tokens=8) == continued


def test_a_run_stopped_before_its_first_step_starts_over(finished: Run, start: Start) -> None:
    run = start()
    run.stop()
    assert (run.wait().status, run.reason) == ("stopped", "before the first step")
    assert losses(run.resume()) == losses(finished)


def test_a_live_pair_is_trained_beside_and_never_changed(
    finished: Run, spec: Callable[..., RunSpec], base: Path, rows: list[Any], store: Store
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    pair = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    names = [name for name, _ in pair[0].named_parameters()]
    before = {name: tensor.clone() for name, tensor in pair[0].state_dict().items()}
    run = begin(spec(model="(in memory)"), data=rows, model=pair, store=store).wait()
    assert losses(run) == losses(finished)
    assert [name for name, parameter in pair[0].named_parameters() if parameter.requires_grad] == names
    assert all(torch.equal(tensor, before[name]) for name, tensor in pair[0].state_dict().items())
    assert json.loads((run.adapter_dir / "adapter_config.json").read_text())["base_model_name_or_path"] == str(base)

    with pytest.raises(ModelError, match=r"pass it again: peft_nb.load\(id, model=\(model, tokenizer\)\)$"):
        _ = load(run.id, store=store).model
    found = load(run.id, model=pair, store=store)
    assert found.generate("Hello", max_new_tokens=8) == run.generate("Hello", max_new_tokens=8)


def test_numbers_that_are_not_finite_fail_the_run_and_leave_an_adapter_of_which_they_are(start: Start) -> None:
    def blow_up(event: Event) -> None:
        if isinstance(event, StepLogged) and event.step == 3:
            (run,) = active()
            next(one for one in run.adapter._model.parameters() if one.requires_grad).data.fill_(math.inf)  # type: ignore[union-attr]

    run = start(blow_up)
    told = (
        r"^the loss of step 4 is nan on rows [\d, ]+ \(counting from 0\); lower learning_rate \(now 0.01\), .* is kept$"
    )
    with pytest.raises(RunError, match=told):
        run.wait(60)
    assert (run.status, run.reason) == ("failed", str(run._error))
    weights = [one for one in run.model.parameters() if one.requires_grad]
    assert all(bool(one.isfinite().all()) for one in weights)
    assert run.reason.endswith("; the adapter of step 2 is kept")
    assert run.metrics["steps"] == 2
    assert isinstance(load(run.id, store=run.store).generate("Hello", max_new_tokens=2), str)


def test_a_loss_that_ends_far_above_where_it_began_is_a_warning_in_metrics_notices_and_card(start: Start) -> None:
    run = start(method="full", learning_rate=10.0, max_steps=3).wait()
    told = run.metrics["warning"]
    assert told.startswith("the eval loss ends at ")
    assert told.endswith(": the learning rate (10) is likely too high; train again with a lower one, such as 1")
    assert Notice(told, "warning") in run.events()
    assert "- Warning: the eval loss ends at " in (run.adapter_dir / "README.md").read_text()


def test_what_cannot_be_trained_is_known_before_anything_is_measured(
    spec: Callable[..., RunSpec], base: Path, rows: list[Any], store: Store
) -> None:
    from torch import nn
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.models.llama.modeling_llama import LlamaMLP

    class Picky(LlamaMLP):
        """Takes its layers for what they were, as routers of experts do."""

        def forward(self, x: Any) -> Any:
            return super().forward(x) if type(self.gate_proj) is nn.Linear else super().forward(x)["scores"]

    pair = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    pair[0].model.layers[1].mlp.__class__ = Picky
    run = begin(spec(model="(in memory)"), data=rows, model=pair, store=store)
    told = r"^lora cannot train this LlamaForCausalLM \((IndexError|TypeError): .*\); choose another method, or name t"
    with pytest.raises(MethodError, match=told):
        run.wait(60)
    assert not [event for event in run.events() if isinstance(event, Evaluated | StepLogged)]
    assert (run.status, (run.folder / "checkpoints").exists()) == ("failed", False)


def test_layers_that_compute_in_float32_alone_are_told_of_with_the_fix(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store
) -> None:
    how = {"method": "ia3", "quantization": "4bit", "max_steps": 1}
    run = begin(spec(**how, dtype="bfloat16"), data=rows, store=store)
    with pytest.raises(MethodError, match=r"^ia3 cannot train this LlamaForCausalLM \(.*\); set dtype: float32$"):
        run.wait(60)
    assert begin(spec(**how, dtype="float32"), data=rows, store=store).wait(60).status == "finished"
