"""How a run is judged: refused before it begins where that cannot work, measured when it is over, and told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft_nb.errors import SpecError, StoreError
from peft_nb.events import Event, Notice
from peft_nb.metrics import comparable
from peft_nb.runs.data import RunData
from peft_nb.spec import RunSpec, criteria
from peft_nb.store import Evaluation
from peft_nb.system.files import atomic_text

if TYPE_CHECKING:
    from peft_nb.evaluation.evaluators import Judge
    from peft_nb.models.load import Base
    from peft_nb.training.trainer import PlannedTrainer

JUDGEMENT = "judgement.json"


def check(spec: RunSpec, rows: RunData, score: object, namespace: Mapping[str, Any]) -> None:
    """Refuse what cannot be measured as the spec says; imports no PyTorch.

    Parameters
    ----------
    spec : RunSpec
        The run's.
    rows : RunData
        Its rows, found and recognised.
    score : object
        A function passed instead of a name, or None.
    namespace : mapping
        The notebook's variables.

    Raises
    ------
    SpecError
        One line for each field that is wrong.
    """
    from peft_nb.evaluation.scores import scorer

    wrong = []
    if rows.classifies:
        given = [name for name in ("score", "regression") if getattr(spec, name) is not None]
        wrong += [f"{name}: a classifier is judged by its accuracy; leave it out" for name in given]
    else:
        scorer(spec.score, score, namespace)
    if not spec.eval_fraction and rows.eval_rows is None:
        given = [name for name in ("early_stopping_patience", "load_best_model_at_end") if getattr(spec, name)]
        wrong += [f"{name}: needs held-out rows; give eval_data or eval_fraction" for name in given]
    if wrong:
        raise SpecError(wrong)


def judge(
    trainer: PlannedTrainer,
    base: Base,
    rows: RunData,
    score: object,
    publish: Callable[[Event], None],
    stopped: Callable[[], bool],
) -> Judge:
    """Measure what a trained model is worth.

    Parameters
    ----------
    trainer : PlannedTrainer
        What trained it.
    base : Base
        What it was trained on.
    rows : RunData
        The run's rows; what is measured goes into its metrics.
    score : object
        A function passed instead of a name, or None.
    publish : callable
        Takes each event.
    stopped : callable
        Whether the user wants this to end.

    Returns
    -------
    Judge
        What was found.
    """
    from peft_nb.evaluation.evaluators import ClassifierJudge, Judge, known
    from peft_nb.evaluation.scores import perplexity, scorer

    began, spec, metrics = time.perf_counter(), rows.spec, rows.metrics
    kind = ClassifierJudge if rows.classifies else Judge
    found = kind(
        trainer.model,
        base.tokenizer,
        spec,
        trainer.eval_examples,
        metrics,
        asked=rows.asked,
        own=rows.own,
        find_score=partial(scorer, spec.score, score, rows.namespace),
        known=known(base),
        publish=publish,
        stopped=stopped,
    )
    if not rows.classifies and metrics["eval_loss"] is not None:
        metrics["perplexity"] = perplexity(metrics["eval_loss"])
    found.judge("the model is spread over several processes" if trainer.is_fsdp_enabled else "")
    metrics["judge_seconds"] = time.perf_counter() - began
    return found


def conclude(found: Judge, folder: Path, publish: Callable[[Event], None], data: Mapping[str, Any]) -> dict[str, Any]:
    """Hold what was measured against what was demanded, and write both beside the run.

    Parameters
    ----------
    found : Judge
        What :func:`judge` gave; the verdict goes into its metrics.
    folder : Path
        The run's.
    publish : callable
        Takes each event.
    data : mapping
        What the check of the data told, for the adapter's README.

    Returns
    -------
    dict
        What is written: the metrics, what they are made of, and why some have no value.
    """
    from peft_nb.adapters.save import readme

    spec, metrics, model = found.spec, found.metrics, found.model
    missing = dict.fromkeys(("eval_loss", "perplexity"), "no row is held out") | found.missing
    if spec.accept:
        verdict = criteria.verdict(spec.accept, metrics, missing)
        metrics |= {"verdict": str(verdict), "criteria": [asdict(line) for line in verdict.lines]}
    judgement = {"metrics": metrics, **found.details}
    judgement["missing"] = {name: why for name, why in missing.items() if metrics.get(name) is None}
    adapter = folder / "adapter"
    told = readme(model, spec, metrics, found.tokenizer, data, (adapter / "curves.png").exists())
    try:
        atomic_text(folder / JUDGEMENT, json.dumps(judgement, ensure_ascii=False, indent=1))
        atomic_text(adapter / "README.md", told)
    except StoreError as error:
        publish(Notice(f"the judgement is kept in memory only: {error}"))
    return judgement


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
