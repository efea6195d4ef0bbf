"""What a run is worth: refused before it begins where that cannot be measured, measured when it is over, and told."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from peft_nb.data.sources import IN_MEMORY
from peft_nb.data.table import Table
from peft_nb.errors import RunError, SpecError, StoreError
from peft_nb.events import Notice
from peft_nb.metrics import comparable
from peft_nb.runs import rows
from peft_nb.runs.context import Context, Inputs
from peft_nb.spec import RunSpec, criteria
from peft_nb.store import Evaluation
from peft_nb.system import known, resources
from peft_nb.system.files import atomic_text, writing
from peft_nb.system.resources import MB
from peft_nb.tasks import TASKS

if TYPE_CHECKING:
    from peft import PeftModel

    from peft_nb.data.examples import Example
    from peft_nb.evaluation.evaluators import Asked, Evaluator, Once
    from peft_nb.evaluation.scores import Score
    from peft_nb.models.load import Base
    from peft_nb.training.trainer import PlannedTrainer

EVALUATION = "judgement.json"
QUICK_S, QUICK_SHARE = 4.0, 0.06  # of general text, so that all of a quick evaluation takes 10 s or a tenth at most
FAR = {"eval": 0.5, "train": 1.0}  # nats above its beginning; a training loss begins with the noise of one step


def refuse(spec: RunSpec, table: Table, inputs: Inputs) -> None:
    """Refuse what cannot be measured as the spec says; imports no PyTorch.

    Parameters
    ----------
    spec : RunSpec
        The run's.
    table : Table
        Its rows, found and recognised.
    inputs : Inputs
        What was passed in place of names.

    Raises
    ------
    SpecError
        One line for each field that is wrong.
    """
    from peft_nb.evaluation.harness import problems

    task = TASKS[spec.task]
    wrong = [f"{name}: {why}; leave it out" for name, why in task.unused.items() if getattr(spec, name) is not None]
    wrong += problems(spec.benchmarks)
    if spec.benchmarks and not task.generates:
        wrong.append(f"benchmarks: a run that {task.instead.partition(';')[0]} is asked none; leave it out")
    score_of(spec, inputs)
    if not spec.eval_fraction and table.eval_rows is None:
        given = [name for name in ("early_stopping_patience", "load_best_model_at_end") if getattr(spec, name)]
        wrong += [f"{name}: needs an evaluation set; give eval_data or eval_fraction" for name in given]
    if wrong:
        raise SpecError(wrong)


def score_of(spec: RunSpec, inputs: Inputs) -> Score | None:
    """Find what answers are scored by; None for a task whose answers are not.

    Raises
    ------
    RunError
        When it was a function in memory that is not at hand.
    SpecError
        When there is no function of that name.
    """
    from peft_nb.evaluation.scores import scorer

    if "score" in TASKS[spec.task].unused:
        return None
    if spec.score == IN_MEMORY and inputs.score is None:
        fix = "pass it again: peft_nb.load(id, score=function)"
        raise RunError(f"the run was started with a score function in the notebook's memory; {fix}")
    return scorer(spec.score, inputs.score, inputs.namespace)


def risen(spec: RunSpec, losses: Sequence[float], metrics: Mapping[str, Any]) -> str:
    """Warn of a loss that ends far above where it began, with the likely cause.

    Parameters
    ----------
    spec : RunSpec
        The run's.
    losses : sequence of float
        All logged training losses.
    metrics : mapping
        The run's.

    Returns
    -------
    str
        Empty where there is nothing to warn of.
    """
    fell = bool(losses) and metrics["train_loss"] < losses[0]
    train = (losses[0], metrics["train_loss"]) if losses else (None, None)
    pairs = {"eval": (metrics.get("base_eval_loss"), metrics.get("eval_loss")), "train": train}
    for name, (first, last) in pairs.items():
        if first is None or last is None or last <= first + FAR[name]:
            continue
        told = f"the {name} loss ends at {last:.3g}, far above the {first:.3g} where it began"
        if name == "eval" and fell:
            return f"{told}, while the train loss fell: the rows are learned by heart; train fewer epochs or more rows"
        rate, lower = f"{spec.learning_rate:g}", f"{(spec.learning_rate or 0) / 10:g}"
        return f"{told}: the learning rate ({rate}) is likely too high; train again with a lower one, such as {lower}"
    return ""


def warn(context: Context, trainer: PlannedTrainer) -> None:
    """Tell what looks wrong about a training as far as the metrics show it by now, and keep it with them."""
    losses = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    before = context.metrics.get("warning")
    told = risen(context.spec, losses, context.metrics) or context.task.warning(context.spec, losses, context.metrics)
    if told and told != before:
        context.publish(Notice(told, "warning"))
    if told or before:  # of before it was resumed
        context.metrics["warning"] = told or None


def save(context: Context, adapted: PeftModel, tokenizer: Any, history: Sequence[Mapping[str, Any]]) -> None:
    """Write the adapter of a run into its folder."""
    from peft_nb.adapters.save import WEIGHTS, save

    folder = save(
        adapted,
        context.folder / "adapter",
        context.spec,
        context.facts,
        context.metrics,
        tokenizer=tokenizer,
        history=history,
        data=rows.told(context.folder),
        overwrite=True,
    )
    context.metrics["adapter_mb"] = (folder / WEIGHTS).stat().st_size / MB


def once(base: Base, weights: str, path: str) -> Once:
    """Give what measures a base model once for all kernels of this user.

    Parameters
    ----------
    base : Base
        What was loaded; a live model may have been changed since, so that nothing is kept of it.
    weights : str
        Its fingerprint.
    path : str
        How micro-batches are computed.

    Returns
    -------
    callable
        Takes a kind, all else that the numbers depend on, and what measures them.
    """
    if base.source.pair or resources.processes() > 1:
        return lambda kind, about, measure: measure()
    of = {"base": base.identity, "weights": weights, "dtype": base.dtype, "quantization": base.quantization}
    of |= {"device": base.device, "path": path, "torch": known.machine()["torch"]}
    return lambda kind, about, measure: known.once(kind, {**of, **about}, measure)


def prepare(
    context: Context,
    trainer: PlannedTrainer,
    base: Base,
    asked: Sequence[Asked],
    own: Sequence[tuple[str, Example]],
) -> Evaluator:
    """Make what will measure a model that is about to be trained.

    Parameters
    ----------
    context : Context
        The run; what is measured goes into its metrics.
    trainer : PlannedTrainer
        What trains it.
    base : Base
        What it was trained on.
    asked, own : sequence
        Evaluation rows to be answered; the user's own regression rows with their names.

    Returns
    -------
    Evaluator
        Knows what it will take.
    """
    from peft_nb.evaluation.scores import scorer

    spec, metrics, inputs = context.spec, context.metrics, context.inputs
    return context.task.evaluator()(
        trainer.model,
        base.tokenizer,
        trainer.objective,
        spec,
        trainer.eval_examples,
        metrics,
        asked=asked,
        own=own,
        train=trainer.examples,
        chat=bool(context.facts.chat),
        find_score=partial(scorer, spec.score, inputs.score, inputs.namespace),
        once=once(base, str(context.facts.base_hash), str(trainer.objective)),
        seconds=QUICK_S,
        publish=context.publish,
        stopped=context.stop.soon.is_set,
    )


def evaluate(context: Context, trainer: PlannedTrainer, found: Evaluator) -> None:
    """Measure what a trained model is worth; `found` holds it then, as the run's metrics do."""
    from peft_nb.evaluation.scores import perplexity

    began, metrics = time.perf_counter(), context.metrics
    found.seconds = max(QUICK_S, QUICK_SHARE * trainer.elapsed_s)
    if context.task.unit == "token" and metrics["eval_loss"] is not None:
        metrics["perplexity"] = perplexity(metrics["eval_loss"])
    found.evaluate("the model is spread over several processes" if trainer.is_fsdp_enabled else "")
    metrics["judge_seconds"] = time.perf_counter() - began
    warn(context, trainer)


def conclude(context: Context, found: Evaluator) -> dict[str, Any]:
    """Hold what was measured against what was demanded, and write both beside the run.

    Parameters
    ----------
    context : Context
        The run; the verdict goes into its metrics.
    found : Evaluator
        What :func:`evaluate` gave.

    Returns
    -------
    dict
        What is written: the metrics, what they are made of, and why some have no value.
    """
    from peft_nb.adapters.save import illustrate, readme

    spec, metrics, facts = context.spec, context.metrics, context.facts
    missing = dict.fromkeys(("eval_loss", "perplexity"), "there is no evaluation set") | found.missing
    if context.task.unit != "token":
        missing["perplexity"] = f"the loss is per {context.task.unit}, not per token"
    if spec.accept:
        verdict = criteria.verdict(spec.accept, metrics, missing)
        metrics |= {"verdict": str(verdict), "criteria": [asdict(line) for line in verdict.lines]}
    evaluation = {"metrics": metrics, **found.details}
    evaluation["missing"] = {name: why for name, why in missing.items() if metrics.get(name) is None}
    adapter = context.folder / "adapter"
    told, curves = rows.told(context.folder), (adapter / "curves.png").exists()
    text = readme(found.model, spec, facts, metrics, found.tokenizer, told, curves)
    try:
        atomic_text(context.folder / EVALUATION, json.dumps(evaluation, ensure_ascii=False, indent=1, default=str))
        with writing(adapter):
            illustrate(adapter, facts, metrics)
        atomic_text(adapter / "README.md", text)
    except StoreError as error:
        context.publish(Notice(f"the judgement is kept in memory only: {error}"))
    return evaluation


def evaluations(metrics: Mapping[str, Any]) -> list[Evaluation]:
    """List what was measured as the store keeps it, each with its interval and the base's value where there are any."""
    found = []
    for name, metric in comparable().items():
        if metric.suite != "training" and metrics.get(name) is not None:
            low, high = metrics.get(f"{name}_interval") or (None, None)
            base = metrics.get(metric.base)
            detail = {} if base is None else {"base": base}
            found.append(Evaluation(metric.suite, name, metrics[name], low, high, detail))
    return found
