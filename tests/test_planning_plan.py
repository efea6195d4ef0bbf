"""Numbers of a run laid out on shapes, beside those of the real model and the plain sums."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from peft_nb.data import table as tables
from peft_nb.methods import attach, complete
from peft_nb.models.load import load
from peft_nb.models.meta import load_meta
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.planning import memory
from peft_nb.planning.estimate import estimate
from peft_nb.planning.layer_benchmark import Costs, _kept
from peft_nb.planning.plan import ELSEWHERE, STEP_S, Plan
from peft_nb.planning.writing_benchmark import Writing
from peft_nb.spec import RunSpec
from peft_nb.system import known
from peft_nb.tasks import TASKS, inspect
from tests import images
from tests.conftest import few

Spec = Callable[..., RunSpec]
Table = list[dict[str, str]]

COSTS = Costs(9000, forward_s=1e-4, both_s=3e-4, head_s=1e-8, optimizer_s=1e-9, products=10, segment_products=3)


@pytest.fixture(scope="module")
def lay(spec: Spec, rows: Table) -> Callable[..., Plan]:
    """Lay a run on the tiny base out, with what a token costs known already."""

    def lay(data: Any = rows, **fields: Any) -> Plan:
        described = complete(spec(**fields))
        table = tables.read(described, data)
        base = load_meta(resolve(described.model), dtype=described.dtype)
        return Plan(described, base, table, dict(inspect(described, table)), 4000, 500, {2048: COSTS})

    return lay


@pytest.mark.parametrize(
    ("seconds", "chosen"),
    [
        ({512: 1.019, 1024: 1.01, 2048: 1.0}, 512),
        ({512: 1.03, 1024: 1.019, 2048: 1.0}, 1024),
        ({512: 1.03, 1024: 1.03, 2048: 1.0}, 2048),
        ({512: 1.03, 1024: 1.0, 2048: 1.5}, 1024),
        ({2048: 1.0}, 2048),
    ],
    ids=str,
)
def test_micro_batches_are_the_smallest_that_are_nearly_as_fast(
    lay: Callable[..., Plan], seconds: dict[int, float], chosen: int
) -> None:
    costs = {budget: replace(COSTS, both_s=3e-4 * times) for budget, times in seconds.items()}
    plan = replace(lay(), measured=costs)
    assert (plan.forecast().token_budget, plan.costs) == (chosen, costs[chosen])
    assert replace(lay(token_budget=600), measured=costs).forecast().token_budget == 600


def test_a_prefix_that_small_micro_batches_compute_more_often_counts(lay: Callable[..., Plan]) -> None:
    plan = replace(lay(batch_size=20, system="be brief " * 50), measured=dict.fromkeys((512, 1024, 2048), COSTS))
    tokens = {budget: plan.widest.under(budget).mean.tokens for budget in (512, 2048)}
    assert 1.02 * tokens[2048] < tokens[512]
    assert plan.work.budget == 2048


@pytest.mark.parametrize(("batch_size", "sizes"), [(5, {2048}), (20, {512, 1024, 2048})])
def test_only_sizes_that_cut_a_step_otherwise_are_tried(
    spec: Spec, rows: Table, batch_size: int, sizes: set[int]
) -> None:
    described = complete(spec(batch_size=batch_size))
    table = tables.read(described, rows)
    base = load_meta(resolve(described.model), dtype=described.dtype)
    plan = Plan(described, base, table, dict(inspect(described, table)), 4000, 500)
    assert plan.work.budget in sizes
    assert plan.measured is not None
    assert plan.measured.keys() == sizes


@pytest.mark.parametrize("fields", [{}, {"r": 4}, {"target_modules": ["q_proj"]}, {"dtype": "bfloat16"}], ids=str)
def test_weights_and_adapter_are_those_of_the_real_model(spec: Spec, rows: Table, fields: dict[str, Any]) -> None:
    described = spec(**fields)
    forecast = estimate(described, data=rows)
    base = load(resolve(described.model), dtype=described.dtype).model
    trained, _ = attach(share(base), described, "").get_nb_trainable_parameters()
    assert forecast.trainable_parameters == trained
    assert forecast.weights_mb == pytest.approx(sum(one.nbytes for one in base.parameters()) / 1e6, rel=0.01)
    assert forecast.adapter_mb == pytest.approx(12 * trained / 1e6)  # with gradients and a copy
    assert forecast.optimizer_mb == pytest.approx(8 * trained / 1e6)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("part", "less", "more"),
    [
        ("activations_mb", {"max_length": 24, "loss_on": "all"}, {}),
        ("activations_mb", {"token_budget": 32}, {"token_budget": 2048}),
        ("activations_mb", {"gradient_checkpointing": True}, {}),
        ("adapter_mb", {"r": 4}, {"r": 64}),
        ("loss_mb", {}, {"fast": False}),
        ("weights_mb", {"dtype": "bfloat16"}, {}),
        ("steps", {"max_steps": None, "epochs": 1}, {"max_steps": None, "epochs": 3}),
    ],
)
def test_more_takes_more(spec: Spec, rows: Table, part: str, less: dict[str, Any], more: dict[str, Any]) -> None:
    small, large = (getattr(estimate(spec(**fields), data=rows), part) for fields in (less, more))
    assert small < large


def test_a_base_in_4_bits_weighs_what_the_loaded_one_does(spec: Spec, rows: Table) -> None:
    described = spec(method="qlora")
    base = load(resolve(described.model), dtype="float32", quantization="4bit").model
    real = sum(one.nbytes for one in base.parameters()) / 1e6
    assert estimate(described, data=rows).weights_mb == pytest.approx(real, rel=0.05)  # scales come on top


def test_training_time_is_the_sum_over_its_steps(lay: Callable[..., Plan]) -> None:
    plan = lay(max_steps=20, eval_steps=6, token_budget=200)
    forecast, work = plan.forecast(), plan.work
    assert forecast.seconds is not None
    assert (forecast.steps, forecast.tokens) == (20, round(20 * work.mean.tokens))
    step = 2 * 3e-4 * work.mean.tokens + 512 * 1e-8 * work.mean.predicted + 1e-9 * forecast.trainable_parameters
    sizes, segments = work.variety
    compiled = ((sizes + ELSEWHERE) * (10 + 2) + segments * 3) * memory.KERNEL_S
    evaluation = 2 * 1e-4 * work.held_out.tokens + 512 * 1e-8 / 2 * work.held_out.predicted
    # After steps 6, 12 and 18; the last, after step 20, and the one before the first are not part of training.
    assert forecast.seconds == pytest.approx(20 * (step + STEP_S) + compiled + 3 * evaluation)
    assert forecast.evaluation_seconds == pytest.approx(5 * evaluation)


def test_without_held_out_rows_no_time_is_spent_on_them(lay: Callable[..., Plan]) -> None:
    assert lay(eval_fraction=0).forecast().evaluation_seconds == 0


def test_checkpointing_computes_each_layer_once_more(lay: Callable[..., Plan]) -> None:
    plain, again = (lay(eval_fraction=0, token_budget=200, gradient_checkpointing=on) for on in (False, True))
    seconds = [plan.forecast().seconds for plan in (plain, again)]
    assert seconds[1] - seconds[0] == pytest.approx(8 * 2 * 1e-4 * plain.work.mean.tokens)  # type: ignore[operator]


def test_of_compiled_blocks_no_time_is_foreseen_and_the_memory_of_stock_layers(lay: Callable[..., Plan]) -> None:
    costs = {200: replace(COSTS, kept_bytes=100.0)}
    plans = [replace(lay(token_budget=200, torch_compile=on), measured=costs) for on in (False, True)]
    plain, compiled = (plan.forecast() for plan in plans)
    assert (plain.untimed, compiled.untimed) == ("", "not measured with torch_compile")
    assert compiled.seconds is compiled.evaluation_seconds is None
    assert compiled.activations_mb > 2 * plain.activations_mb


def test_time_of_answers_that_each_step_writes_is_that_of_the_longest(
    lay: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    took, asked = Writing(1e-3, 1e-8, 1e-2), list[tuple[int, ...]]()

    def benchmark(models: Any, *given: int, shared: bool) -> Writing:
        asked.append(given)
        return took

    monkeypatch.setattr("peft_nb.planning.writing_benchmark.benchmark_writing", benchmark)
    kept = known.once

    def once(name: str, about: Any, measure: Callable[[], Any], **options: Any) -> Any:
        return measure() if name == "writing" else kept(name, about, measure, **options)

    monkeypatch.setattr(known, "once", once)  # other tests may have measured the same
    plain = lay(task="grpo", reward="length", num_generations=40, max_completion_length=10, token_budget=200)
    compared = lay(**{name: getattr(plain.spec, name) for name in ("task", "reward", "num_generations")}, beta=0.1,
                   max_completion_length=10, token_budget=200)  # fmt: skip
    forecast, work = plain.forecast(), plain.work
    width = round(work.width)
    assert asked == [(1, 40, width + 5), (2, 1, width + 5)]  # 64 answers at once, and both rows that are held out
    assert forecast.longest_answers
    token = 2 * took.layer_s + 512 * took.head_s + took.rest_s
    prompt = 2 * 1e-4 * width
    learned = 2 * 3e-4 * work.mean.tokens + 512 * 1e-8 * work.mean.predicted + 1e-9 * forecast.trainable_parameters
    step = learned + STEP_S + 5 * (10 * token + prompt)
    evaluation = 10 * token + 2 * prompt
    compiled = plain.kernels * memory.KERNEL_S
    assert forecast.seconds == pytest.approx(8 * step + compiled + evaluation)
    assert forecast.evaluation_seconds == pytest.approx(3 * evaluation)
    read = 2 * 1e-4 * work.mean.tokens + 512 * 1e-8 / 2 * work.mean.predicted
    once = 2 * 1e-4 * work.held_out.tokens / 40 + 512 * 1e-8 / 2 * work.held_out.predicted / 40
    assert compared.forecast().seconds == pytest.approx(8 * (step + read) + compiled + evaluation + 2 * once)


@pytest.mark.parametrize(("task", "passes"), [("dpo", 1), ("simpo", 1), ("kto", 2)])
def test_what_is_compared_is_read_once_more_and_the_reference_before(
    lay: Callable[..., Plan], rows: Table, task: str, passes: int
) -> None:
    asked = [{"prompt": row["question"], "completion": row["answer"], "label": len(row["answer"]) % 2} for row in rows]
    pairs = [{"prompt": row["question"], "chosen": row["answer"], "rejected": row["question"]} for row in rows]
    plan = lay(asked if task == "kto" else pairs, task=task, max_steps=6, token_budget=200)
    forecast, work = plan.forecast(), plan.work
    head = 512 * 1e-8
    read, evaluation = (2 * 1e-4 * one.tokens + head / 2 * one.predicted for one in (work.mean, work.held_out))
    learned = 2 * 3e-4 * work.mean.tokens + head * work.mean.predicted + 1e-9 * forecast.trainable_parameters
    steps = 6 * (learned + STEP_S + (passes - 1) * read) + plan.kernels * memory.KERNEL_S
    assert forecast.seconds == pytest.approx(steps + passes * evaluation)  # after step 4
    before = min(6, work.steps_per_epoch) * passes * read * (task != "simpo")
    assert forecast.evaluation_seconds == pytest.approx(before + 3 * passes * evaluation)


def test_other_settings_are_laid_out_without_measuring_anew(lay: Callable[..., Plan]) -> None:
    plan = lay()
    other = plan.under(plan.spec.model_copy(update={"quantization": "4bit", "r": 4}))
    assert other.costs is COSTS
    assert (plan.base.quantization, other.base.quantization) == ("none", "4bit")
    assert other.weights < plan.weights
    assert other.forecast().trainable_parameters == plan.forecast().trainable_parameters / 4


def test_where_no_layer_can_be_tried_memory_alone_is_forecast(
    lay: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft_nb.system.resources.memory_available_mb", lambda: 0.1)
    forecast = replace(lay(), measured=None).forecast()
    assert (forecast.seconds, forecast.evaluation_seconds) == (None, None)
    assert forecast.activations_mb > 0


def test_values_drawn_from_the_weights_count_though_there_are_none(lay: Callable[..., Plan]) -> None:
    assert lay(method="pissa").forecast().trainable_parameters == lay().forecast().trainable_parameters


@pytest.mark.parametrize("family", few(("vit", "dinov2", "clip", "swin", "convnext"), "swin", "convnext"))
def test_of_images_what_the_whole_model_keeps_is_foreseen_also_of_one_in_stages(family: str, tmp_path: Path) -> None:
    model = images.vision_model(tmp_path / family, family)
    fields = {"task": "image-classification", "model": str(model), "dtype": "float32", "batch_size": 8}
    spec = complete(RunSpec(data="rows", **fields))
    table, base = tables.read(spec, images.rows(24)), load_meta(resolve(model), kind="vision")
    facts = dict(inspect(spec, table))
    TASKS[spec.task].limit(base, spec, facts)
    plan = Plan(spec, base, table, facts, 4000, 500)
    assert plan.forecast().seconds
    whole, objective, batch = plan._attached(load(resolve(model), kind="vision")), plan.objective, plan.work.encoded[:8]
    with objective.installed(whole.train()):
        objective.loss(whole, batch, torch.device("cpu")).backward()
        kept = _kept(whole, lambda depth: (None, objective.loss(whole, batch, torch.device("cpu"))))
    assert plan.costs
    foreseen = plan.costs.kept_bytes * plan.shapes.layers * plan.work.load(batch).tokens
    assert foreseen == pytest.approx(kept, rel=0.1)
