"""A run of another method as a LoRA, for programs that load no other adapters: an approximation, which is measured."""

from __future__ import annotations

from pathlib import Path

from peft_nb.adapters.card import escaped
from peft_nb.adapters.exporters.base import Exportable, Exported, Exporter
from peft_nb.adapters.exporters.peft_folder import draft
from peft_nb.adapters.exporters.vllm import is_lora
from peft_nb.errors import MergeError, RunError
from peft_nb.methods import REGISTRY
from peft_nb.tasks import TASKS

SHARE = 0.99  # of the squared singular values of each update
NEAR = 0.005, 0.05  # nats per token, what a merge is held to; and the share of the adapter's effect that may lack
BOUND = 0.05  # nats per token, by which perplexity differs by a twentieth
HALF = 0.5  # of what the adapter changes in the logits: what lacks more is rather the base than the adapter


def obstacle(run: Exportable) -> str:
    """Say why a run's adapter cannot become a LoRA, in one line, or nothing."""
    from peft_nb.adapters.to_lora import convertible

    spec, method = run.spec, REGISTRY[run.spec.method]
    merged = "; --as merged writes a plain model" if method.mergeable else ""
    if not TASKS[spec.task].generates:
        return f"task: {spec.task} trains a head too, which is no LoRA; --as adapter writes both{merged}"
    if is_lora(spec):
        return f"method: {spec.method} is a kind of LoRA already; --as adapter writes it as it is{merged}"
    if not convertible(method):
        return f"method: PEFT cannot convert {spec.method} to LoRA; --as adapter writes it as it is{merged}"
    return ""


def write(run: Exportable, folder: Path, *, rank: str | float = SHARE, max_kl: str | float = BOUND) -> Exported:
    """Write a PEFT folder with the LoRA that is nearest to a run's adapter.

    Parameters
    ----------
    run : Exportable
        A run to which :func:`obstacle` has no objection.
    folder : Path
        Where it shall appear.
    rank : str or float
        The rank; below 1 the share of the squared singular values of each update that is kept at least.
    max_kl : str or float
        Largest mean KL divergence from the run that is let through, in nats per token.

    Returns
    -------
    Exported
        With how near it is to the run. It is called an approximation above 0.005 nats per token, and where it lacks
        more than 5% of what the adapter changes in the logits.

    Raises
    ------
    MergeError
        If it is further from the run, or lacks more than half of what the adapter changes; nothing is kept.
    RunError
        If PEFT cannot convert it, or an option is not to be understood.
    StoreError
        If the disk refuses; nothing half-written stays.
    """
    from peft_nb.adapters.read_back import table
    from peft_nb.adapters.to_lora import convert, logit_error, rank_of

    wanted, bound = rank_of(rank), _nats(max_kl)
    with draft(run, folder) as made:
        widest = convert(made.live.model, made.folder, wanted)
        candidate, adapter = made.read_back()
        near = made.near(candidate, adapter)
        with candidate.disable_adapter():
            base = made.near(candidate, adapter)
        name = f"LoRA of rank {widest}"
        found = table({name: near, "base model": base})
        error = logit_error(candidate, adapter, made.live.examples)
        found["error of the logits"] = [error, 1.0]
        _hold_to(bound, near.kl, error, f"a {name}", run.spec.method, found.to_string(index=False))
        how = "as near as a merged model" if near.kl <= NEAR[0] and error <= NEAR[1] else "an approximation"
        told = (
            f"{how}: it lacks {error:.1%} of what the {run.spec.method} adapter changes in the logits; its KL "
            f"divergence from it is {near.kl:.2g} nats per token on {made.live.compared_on}, that of the base model "
            f"{base.kl:.2g}; {near.equal:.1%} of the greedy tokens are equal"
        )
        made.add(
            "Converted to LoRA", f"Converted by PEFT from {escaped(run.spec.method)} to a {name}, {escaped(told)}."
        )
    return Exported(folder, f"{run.id} is exported to {folder}: {name}, {told}", found)


def _hold_to(bound: float, kl: float, error: float, what: str, method: str, table: str) -> None:
    if kl > bound:
        fix = "a higher rank comes nearer, a larger max_kl allows it, --as merged needs neither"
        more = f"differs from the {method} adapter by {kl:.3g} nats per token, more than max_kl, {bound:g}"
        raise MergeError(f"{what} {more}, so nothing is kept; {fix}", table)
    if error > HALF:
        fix = "a higher rank comes nearer, --as merged needs none"
        more = f"lacks {error:.0%} of what the {method} adapter changes in the logits"
        raise MergeError(f"{what} {more}, so nothing is kept; {fix}", table)


def _nats(text: str | float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not value > 0:
        raise RunError(f"max_kl: {text!r} is no number above 0; give nats per token, such as {BOUND}")
    return value


EXPORTER = Exporter(
    "lora",
    "another method's adapter as the nearest LoRA, with what that loses",
    "-lora",
    write,
    obstacle,
    {
        "rank": f"its rank, or below 1 the share of the squared singular values that is kept; default {SHARE}",
        "max_kl": f"largest KL divergence from the run that is let through, in nats per token; default {BOUND}",
    },
)
