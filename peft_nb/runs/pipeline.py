"""From rows to a saved adapter: read top to bottom, as it happens.

PyTorch is imported only after the data have been read and recognised, so that a mistake in the data is told at once.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from peft_nb.data.kept import Sides, kept
from peft_nb.data.table import Table
from peft_nb.errors import ForecastError, MethodError, PeftNbError, RunError
from peft_nb.events import Notice, Planned, Preparing, Resumed, StatusChanged
from peft_nb.methods import REGISTRY, attach
from peft_nb.metrics import METRICS
from peft_nb.models.load import Base
from peft_nb.models.quiet import first_line, quiet
from peft_nb.models.resolve import ModelSource
from peft_nb.models.weights import fingerprint
from peft_nb.runs import documents, energy, evaluate, init_adapter, model, reference, rewards, rows
from peft_nb.runs.context import Context
from peft_nb.runs.init_adapter import Start
from peft_nb.spec import RunSpec
from peft_nb.system import adapter_weights, resources
from peft_nb.system.lazy import import_training
from peft_nb.training import optimizer

if TYPE_CHECKING:
    from peft import PeftModel

    from peft_nb.data.examples import Examples
    from peft_nb.training.objectives import Installed, Objective
    from peft_nb.training.trainer import PlannedTrainer

SAVING_S = 1.0  # an adapter is saved in, about
PREPARED_STEPS = 4  # batches shown to a method that looks at the data before it begins


@dataclass(frozen=True)
class Outcome:
    """What came of a run.

    Attributes
    ----------
    finished : bool
        Whether the last step was reached; otherwise the run was stopped, and the checkpoint says where.
    evaluation : dict
        What the numbers of the evaluation are made of; empty where nothing was evaluated.
    """

    finished: bool
    evaluation: dict[str, Any] = field(default_factory=dict)


def train(
    context: Context,
    table: Table | None,
    *,
    hold: Callable[[PeftModel, Any], None] = lambda model, tokenizer: None,
    curve: Callable[[], list[dict[str, Any]]] = list,
) -> Outcome:
    """Load, train, evaluate, save.

    Parameters
    ----------
    context : Context
        The run; its facts and metrics are filled in.
    table : Table or None
        Its rows; None resumes from the last checkpoint with the examples encoded at the start.
    hold : callable
        Takes the model with its adapter as soon as there is one, and the tokenizer.
    curve : callable
        Gives all rows logged so far, for the picture beside the adapter.

    Returns
    -------
    Outcome
        Whether the run reached its last step, and what it is worth.

    Raises
    ------
    PeftNbError
        What keeps the run from training, in one line; also that a loss or a gradient was not finite, once the last
        adapter that was good is saved.
    """
    began = time.perf_counter(), time.process_time()
    changes: list[rows.Change] = []
    if table is not None:
        table, changes = rows.redacted(context, table)
    context.publish(Preparing(f"finding {context.spec.model}"))
    source = model.find(context.spec, context.inputs)
    context.publish(Preparing("importing PyTorch"))
    import_training()
    from peft_nb.training import compiled

    with energy.metered(context), resources.set_aside():
        with quiet():
            if table is not None:
                table = documents.put(context, table)
            elif told := documents.changed(context):
                fix = "start a new run to learn from what it holds now"
                context.publish(Notice(f"{told}; it goes on with the documents it had", "warning", fix))
            before = 0.0 if table is None else foresee(context, source, table)
            if resources.processes() > 1:
                meet(context)
            if context.spec.optim:  # tried before a model is downloaded
                optimizer.state_bytes(context.spec.optim, resources.device(context.spec.device))
            if context.spec.torch_compile:
                compiled.require(resources.device(context.spec.device))
            kept = context.folder / "adapter" if table is None else None
            base = model.load_base(context.spec, source, context.facts, context.publish, kept)
            if table is not None:
                rows.check(context, table.bare or table, changes, base.tokenizer)
            sides = examples(context, table, base)
            asked, own = rows.to_evaluate(context, table, sides, base.tokenizer)
            context.heed_stop()
        with quiet():
            start = init_adapter.needed(context)
            trainer = prepare(context, base, sides, hold, start)
        found = evaluate.prepare(context, trainer, base, asked, own)
        trainer.after_s = SAVING_S + found.expected_s(found.parts(context.spec))
        finished = fit(context, trainer, base, resumed=table is None, before=before, start=start)
        if trainer.fault:
            step = trainer.best.step if trainer.best and trainer.best.step else trainer.state.global_step
            trainer.fault += f"; the adapter of step {step:,} is kept"
        if trainer.is_world_process_zero():
            context.publish(Preparing("saving the adapter"))
            evaluate.save(context, trainer.model, base.tokenizer, curve())
        evaluated = finished and trainer.is_world_process_zero()
        if evaluated:
            evaluate.evaluate(context, trainer, found)
    spent = {"wall_seconds": time.perf_counter() - began[0], "cpu_seconds": time.process_time() - began[1]}
    context.metrics |= {name: context.metrics.get(name, 0.0) + seconds for name, seconds in spent.items()}
    if trainer.fault:
        raise RunError(trainer.fault)
    return Outcome(finished, evaluate.conclude(context, found) if evaluated else {})


def foresee(context: Context, source: ModelSource, table: Table) -> float:
    """Say what the run will take, and refuse it while nothing large is in memory if that cannot be had.

    Returns
    -------
    float
        Bytes of the process as the run began; 0 where nothing is forecast.
    """
    if resources.processes() > 1 or resources.device(context.spec.device) != "cpu":
        return 0.0
    import peft_nb.training.trainer  # noqa: F401  (the memory of what it imports counts as the process's own)
    from peft_nb.planning import memory, recall

    context.publish(Preparing("estimating memory and time"))
    before = memory.process()
    try:
        forecast = recall.foresee(context.spec, source, table, context.facts.task, before)
    except ForecastError as error:
        context.publish(Notice(f"no estimate: {error}"))
        return before
    context.metrics |= {
        "forecast_memory_mb": forecast.memory_mb,
        "forecast_seconds": forecast.seconds,
        "token_budget": forecast.token_budget,
    }
    if not source.pair:
        context.note(dtype=forecast.dtype)  # chosen by a probe, which might choose otherwise next time
    forecast.require_memory()
    if forecast.tight:
        context.publish(Notice(forecast.shortage, "warning"))
    context.heed_stop()
    return before


def meet(context: Context) -> None:
    """Share the cores between the processes of a run, and let process 0 say where the run lives."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    torch.set_num_threads(resources.threads())
    cpu = resources.device(context.spec.device) == "cpu"
    PartialState(cpu=cpu, backend="gloo" if cpu else None)
    context.folder = Path(broadcast_object_list([str(context.folder)])[0])


def examples(context: Context, table: Table | None, base: Base) -> Sides:
    """The training and evaluation examples: encoded, or those that the run began with."""
    if table is None:
        if sides := kept(context.folder):
            return sides
        table = rows.read_again(context)
    return rows.encode(context, table, base)


def prepare(
    context: Context,
    base: Base,
    sides: Sides,
    hold: Callable[[PeftModel, Any], None],
    start: Start | None = None,
) -> PlannedTrainer:
    """Put head and adapter on the base, choose the objective, lay out the steps, and say what will be done."""
    import torch

    from peft_nb.training import neftune, objectives, packing
    from peft_nb.training.draws import OwnDraws
    from peft_nb.training.trainer import PlannedTrainer

    context.publish(Preparing("adding the adapter"))
    spec, task, method, facts = context.spec, context.task, REGISTRY[context.spec.method], context.facts.task
    pad_id, device = base.tokenizer.pad_token_id, torch.device(base.device)
    plan = packing.plan(len(sides.train), spec.effective_batch_size, spec.seed, spec.epochs, spec.max_steps)
    setup = OwnDraws(spec.seed)
    with setup.heeding_seeds():
        bare, new = task.build(base, facts)
        adapted = attach(bare, spec, model.public_name(base.source), new, len(plan), task.peft_type)
    if start:
        init_adapter.check(start, adapted, base)
    hold(adapted, base.tokenizer)
    for note in filter(None, (method.note(adapted), model.untrained(base, adapted))):
        context.publish(Notice(note))
    hooks, draws = method.hooks(spec), OwnDraws(spec.seed)
    batches = ([one for row in step for one in task.sequences(sides.train[row])] for step in plan[:PREPARED_STEPS])
    shown = (packing.pad(batch, pad_id) for batch in batches)
    with setup.heeding_seeds():
        hooks.begin(adapted, ({name: one.to(device) for name, one in padded.items()} for padded in shown))
    chosen = task.objective(adapted, sides.train, pad_id, device, spec, facts, supported=method.padding_free)
    if (objective := neftune.unshared(chosen, spec.neftune_noise_alpha)) is not chosen:
        why = "each row has its own noise (neftune_noise_alpha)"
        context.publish(Notice(f"what rows have in common at their beginning is computed for each: {why}"))
    if objective.padded and resources.processes() == 1:  # the padding-free way was tried as it was chosen
        attempt(context, adapted, objective, sides.train, device)
    if spec.gradient_checkpointing:
        adapted.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": draws.checkpointed})
    if optimizer.named(spec.optim, base.device, base.quantization) == optimizer.PAGED != spec.optim:
        context.publish(Notice(f"optim: {optimizer.PAGED}, which QLoRA takes on a GPU; adamw_torch keeps 32 bits"))
    compiling = spec.torch_compile
    if compiling and (why := objectives.uncompilable(adapted, objective, sides.train, device)):
        context.publish(Notice(f"torch_compile: the model is not compiled: {why}", "warning"))
        compiling = False
    announce(context, base, adapted, sides, len(plan), f"{objective}{', compiled' * compiling}")
    return PlannedTrainer(
        adapted,
        spec,
        objective,
        sides.train,
        sides.held_out,
        plan,
        context.folder / "checkpoints",
        context.publish,
        context.stop,
        base.device,
        hooks,
        draws,
        context.metrics.get("token_budget"),
        compiling,
        sides.again,
    )


def attempt(context: Context, adapted: PeftModel, objective: Objective, examples: Examples, device: Any) -> None:
    """Try the method on the shortest example, so that what cannot be trained is known before anything long begins."""
    import torch

    from peft_nb.training.trainer import out_of_memory

    parameters, training = [one for one in adapted.parameters() if one.requires_grad], adapted.training
    adapted.eval()
    try:
        with objective.installed(adapted):
            (shortest,) = objective.cut(examples.shortest(1), sys.maxsize)
            loss = objective.loss(adapted, shortest, device)
            torch.autograd.grad(loss, parameters, allow_unused=True)
    except Exception as error:
        if isinstance(error, PeftNbError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
            raise
        model, why = type(adapted.get_base_model()).__name__, f"{type(error).__name__}: {first_line(error)}"
        fix = "choose another method, or name target_modules that it fits"
        if "dtype" in why and context.facts.dtype != "float32":  # of PEFT's layers some compute in float32 alone
            fix = "set dtype: float32"
        raise MethodError(f"{context.spec.method} cannot train this {model} ({why}); {fix}") from error
    finally:
        adapted.train(training)


def announce(context: Context, base: Base, adapted: PeftModel, sides: Sides, steps: int, path: str) -> None:
    """Say what will be trained, and keep it."""
    trainable, total = adapted.get_nb_trainable_parameters()
    train, held_out = sides.train, sides.held_out
    context.note(base=base.identity, base_hash=fingerprint(base), dtype=base.dtype, device=base.device)
    context.metrics |= {
        "trainable_parameters": trainable,
        "total_parameters": total,
        "trainable_share": trainable / total,
        "examples": len(train),
        "eval_examples": len(held_out),
        "supervised_tokens": train.targets,
        "path": path,
    }
    counts = steps, len(train), len(held_out), train.targets, trainable, total
    context.publish(Planned(*counts, base.dtype, base.device, path))


def base_evaluation(context: Context, trainer: PlannedTrainer, base: Base) -> dict[str, float]:
    """What the base model is worth on the evaluation set, as the training begins: known, or measured."""
    from peft_nb.data.examples import fingerprint as content

    spec, facts, start = context.spec, context.facts, dict[str, Any]()
    if context.task.unit != "token":  # a head is drawn, or a loss of its own
        start |= {name: getattr(spec, name) for name in ("task", "seed", "init_adapter", *context.task.options)}
        start |= {"facts": facts.task, "of": facts.init_adapter}
    if not starts_as_base(trainer.model):
        own = {one.name for one in RunSpec.describe() if one.section == "method"}
        start |= {name: value for name, value in spec.to_dict().items() if name in own}
        start |= {"seed": spec.seed, "train": content(trainer.examples)}

    def measure() -> dict[str, float]:
        context.publish(Preparing(f"evaluating the base model on {len(trainer.eval_examples):,} rows"))
        return trainer.measured()

    if context.task.written(spec):  # whose functions may have changed
        return measure()
    once = evaluate.once(base, str(facts.base_hash), str(trainer.objective))
    found: dict[str, float] = once("eval", {"examples": content(trainer.eval_examples), "start": start}, measure)
    return found


def starts_as_base(adapted: PeftModel) -> bool:
    """Whether an adapter changes nothing before it is trained, whatever its settings: LoRA whose B is zero."""
    trained = {name: one for name, one in adapted.named_parameters() if one.requires_grad}
    added = {name: one for name, one in trained.items() if "modules_to_save" not in name}
    return all(".lora_A." in name or (".lora_B." in name and not one.any()) for name, one in added.items())


def fit(
    context: Context,
    trainer: PlannedTrainer,
    base: Base,
    *,
    resumed: bool,
    before: float,
    start: Start | None = None,
) -> bool:
    """Train from the beginning or the last checkpoint, and keep what was measured on the way.

    Parameters
    ----------
    context : Context
        The run.
    trainer : PlannedTrainer
        What :func:`prepare` gave.
    base : Base
        What is trained on.
    resumed : bool
        Whether to resume from the last checkpoint.
    before : float
        Bytes of the process as the run began; 0 where that is not known.
    start : Start, optional
        The adapter to begin with in place of a fresh one.

    Returns
    -------
    bool
        Whether there is nothing left to train.
    """
    from peft_nb.planning import memory
    from peft_nb.training import checkpoint
    from peft_nb.training.objectives import Installed

    last = checkpoint.latest(trainer.folder) if resumed else None
    done = checkpoint.step_of(last) if last else 0
    earlier = [row for row in context.history if row["step"] <= done]
    trainer.elapsed_before = max((row["elapsed_s"] or 0.0 for row in earlier), default=0.0)
    if trainer.best:
        later = (row for row in earlier if row["eval_loss"] is not None and row["step"] > trainer.best.step)
        trainer.best.since = len(list(later))
    if resumed:
        context.publish(Resumed(done))
    adapted, held_out, of_base = trainer.model, trainer.eval_examples, dict[str, float]()
    try:
        with (
            Installed(trainer.objective, adapted, trainer.compiling) as installed,
            resources.PeakMemory(base.device) as peak,
        ):
            if context.task.generates and resources.processes() == 1:
                trainer.sample = sampler(context, adapted, base.tokenizer, installed)
            elif resources.processes() == 1:
                trainer.sample = watcher(context, trainer, base.tokenizer)
                trainer.samples_alone = context.task.draws
            compared = reference.needed(trainer.objective)  # with what the run starts from
            if start and compared:
                adapter_weights.restore(adapted, start.folder)
            same = reference.fill(context, trainer, base, start, active=bool(start) or starts_as_base(adapted))
            rollout = rewards.install(context, trainer, base, installed)
            if rollout and not done and not start:
                rewards.attempt(context, trainer, rollout)
            if held_out and (not done or (context.spec.init_adapter and not compared)):
                of_base = reference.measured(trainer) if same else base_evaluation(context, trainer, base)
            if start and not compared:
                adapter_weights.restore(adapted, start.folder)
                if rollout and not done:
                    rewards.attempt(context, trainer, rollout)
            if held_out and not done:
                trainer.evaluated(trainer.measured() if start and not compared else of_base)
                context.heed_stop()
            elif trainer.samples_alone and not done:
                trainer.sample(0, 0.0)
            context.publish(StatusChanged("training"))
            trainer.train(resume_from_checkpoint=str(last) if last else None)
            if rollout:
                rewards.conclude(context, rollout)
            trainer.load_best()
            if held_out and trainer.is_world_process_zero():
                context.metrics |= own_metrics(context, trainer)
    finally:
        adapted.eval().zero_grad()
        if trainer.optimizer:  # the trainer holds itself in cycles, and would keep this memory for long
            trainer.optimizer.state.clear()
        if before:
            memory.settle(before)
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    last_epoch = losses[-max(1, trainer.steps_per_epoch // context.spec.logging_steps) :]
    evals = [row["eval_loss"] for row in earlier if row["eval_loss"] is not None] + trainer.eval_losses
    context.metrics |= {
        "steps": trainer.state.global_step,
        "train_loss": fmean(last_epoch) if last_epoch else None,
        "base_eval_loss": of_base.get("eval_loss", evals[0] if evals else None),
        "eval_loss": evals[-1] if evals else None,
        "train_seconds": trainer.elapsed_s,
        "tokens_per_second": trainer.tokens / trainer.busy_s if trainer.busy_s else None,
        "peak_memory_mb": max(peak.mb, trainer.memory_mb),  # the kernel counts pages in batches
        "token_budget": trainer.budget,
    }
    if trainer.args.device.type == "cuda":
        context.metrics["gpu_seconds"] = trainer.elapsed_s * resources.processes()
        context.metrics["host_peak_memory_mb"] = peak.host_mb
    end = trainer.state.global_step
    if trainer.best and trainer.best.step:
        context.metrics |= {"eval_loss": trainer.best.loss, "best_step": trainer.best.step}
        end = trainer.best.step
    accuracies = {row["step"]: row["token_accuracy"] for row in earlier} | trainer.accuracies
    found = {"base_token_accuracy": accuracies.get(0), "token_accuracy": accuracies.get(end)}
    recent = trainer.logged[-len(last_epoch) :] if last_epoch else []
    found |= {name: fmean(one.get(name, math.nan) for one in recent) for name in dict.fromkeys(chain(*recent))}
    found |= trainer.measures.get(end, {})
    found |= {f"base_{name}": value for name, value in of_base.items() if f"base_{name}" in METRICS}
    context.metrics |= {name: value for name, value in found.items() if value is not None and math.isfinite(value)}
    evaluate.warn(context, trainer)
    trainer.hooks.end(adapted)
    return trainer.finished


def own_metrics(context: Context, trainer: PlannedTrainer) -> dict[str, Any]:
    """The task's own metrics on the evaluation set."""
    on = trainer.eval_examples, trainer.args.device, trainer.budget, context.facts.task
    return context.task.measure(trainer.model, trainer.objective, *on)


def watcher(context: Context, trainer: PlannedTrainer, tokenizer: Any) -> Callable[[int, float], None]:
    """What shows at evaluations what a model says of a few evaluation examples that writes no texts."""

    def sample(step: int, trained_s: float) -> None:
        trainer.model.eval()
        try:
            of = trainer.objective, trainer.eval_examples or trainer.examples, step, context.facts.task
            for event in context.task.watched(trainer.model, tokenizer, *of):
                context.publish(event)
        finally:
            trainer.model.train()

    return sample


def sampler(context: Context, adapted: PeftModel, tokenizer: Any, installed: Installed) -> Callable[[int, float], None]:
    """What asks a few prompts of the evaluation set at evaluations."""
    from peft_nb.data import prompts
    from peft_nb.evaluation.samples import Sampler

    asked, expected_s = prompts.load(context.folder), context.metrics.get("forecast_seconds")
    how = context.facts.chat, context.spec.system
    put = documents.asking(context)
    return Sampler(adapted, tokenizer, asked, *how, installed.taken_out, context.publish, expected_s, put)
