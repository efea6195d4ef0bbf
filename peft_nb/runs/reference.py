"""What preferences are compared with: the log-probabilities of all answers by the model that a run started from.

They are computed once, before the first step, so that no second model is held; beside the run lies ``reference.json``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from peft_nb.runs import evaluate
from peft_nb.runs.context import Context
from peft_nb.system import resources
from peft_nb.system.files import atomic_text

if TYPE_CHECKING:
    from peft_nb.models.load import Base
    from peft_nb.runs.init_adapter import Start
    from peft_nb.training.trainer import PlannedTrainer

FILE = "reference.json"


def needed(objective: Any) -> bool:
    """Whether an objective compares with a reference."""
    return getattr(objective, "reference", None) is not None


def fill(context: Context, trainer: PlannedTrainer, base: Base, start: Start | None, *, active: bool) -> bool:
    """Give the objective of a run the log-probabilities of its reference: computed, known, or those it began with.

    Parameters
    ----------
    context : Context
        The run.
    trainer : PlannedTrainer
        With the objective installed and, where the run starts from an adapter, with that one in the model.
    base : Base
        What is trained on.
    start : Start or None
        The adapter that the run starts from.
    active : bool
        Whether the model with its adapter is what the run starts from: it then computes as it will in training. Else
        the base is, without it.

    Returns
    -------
    bool
        Whether the model with its adapter is the reference, as it is now.
    """
    from peft_nb.data.examples import fingerprint as content

    if not needed(trainer.objective):
        return False
    path, objective = context.folder / FILE, trainer.objective
    for part in (trainer.examples, trainer.eval_examples):
        objective.prepare(part)  # type: ignore[attr-defined]
    # In the batches of the first epoch and of an evaluation, so that rounding does not set them apart from these.
    known, batches = set[int](), list[list[Any]]()
    for step in trainer.steps:
        if not known.issuperset(step):
            batches.append([trainer.examples[row] for row in step])
            known.update(step)
    batches.append(list(trainer.eval_examples))
    examples = [example for batch in batches for example in batch]
    about: dict[str, Any] = {"examples": content(examples), "of": str(start) if start else "base"}
    about |= {"batches": list(map(len, batches)), "budget": trainer.budget}
    if trainer.hooks.fresh:  # such a method has changed the weights, and the adapter makes up for that
        active, about["method"] = True, context.spec.to_dict()
    about["active"] = active
    once = evaluate.once(base, str(context.facts.base_hash), str(objective))
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
    else:
        found = once("reference", about, lambda: _computed(context, trainer, batches, active=active))
        if resources.rank() == 0:
            atomic_text(path, json.dumps(found))
    objective.remember(examples, found)  # type: ignore[attr-defined]
    return active


def measured(trainer: PlannedTrainer) -> dict[str, float]:
    """What :meth:`.PlannedTrainer.measured` finds of the reference itself, by what :func:`fill` has found of it."""
    objective: Any = trainer.objective
    trainer.objective = objective.of_reference()
    try:
        return trainer.measured()
    finally:
        trainer.objective = objective


def _computed(
    context: Context, trainer: PlannedTrainer, batches: Sequence[Sequence[Any]], *, active: bool
) -> list[list[float]]:
    """For each example in turn the log-probabilities of its sequences."""
    import torch

    objective: Any = trainer.objective
    model, device = trainer.model, trainer.args.device
    found: list[list[float]] = []
    model.eval()
    with torch.no_grad(), nullcontext() if active else model.disable_adapter():
        for done, batch in enumerate(batches):
            groups, sums = [objective.passes(objective.group(one)) for one in batch], dict[int, list[float]]()
            for part in zip(*groups, strict=True):
                for micro in objective.cut(part, trainer.budget):
                    context.progress(done / len(batches), "computing reference log-probabilities")
                    several = objective.sums(model, micro, device)
                    sums.update(zip(map(id, micro), (one.tolist() for one in several), strict=True))
            found += [[number for part in parts for number in sums[id(part)]] for parts in groups]
    model.train()
    return found
