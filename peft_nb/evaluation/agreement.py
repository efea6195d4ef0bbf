"""How far one model does what another does, on the same texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from peft_nb.data.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SEVERAL, LONGEST = 16, 256  # texts, and tokens of each: a KL that matters shows in far fewer
ANSWER = 24  # tokens that a model is asked to go on for

PROMPTS = (
    "Explain in two sentences why the sky is blue.",
    "Write a short, polite reply to a customer whose parcel is late.",
    "What is 17 plus 26? Answer with the number alone.",
    "Turn into a list: apples, two loaves of bread, milk.",
    "Summarise: The meeting was moved from Monday to Thursday because the room was taken.",
    "Translate into French: Where is the station?",
)


@dataclass(frozen=True)
class Answered:
    """A text as token ids; ``supervised[i]`` is true where ``ids[i]`` counts for the loss."""

    ids: Sequence[int]
    supervised: Sequence[Any]


@dataclass(frozen=True)
class Counts:
    """What one text adds: predictions compared, their KL divergence, how many were equal, losses, and targets."""

    places: float
    kl: float
    equal: float
    loss: float
    targets: float


Compare = Callable[[torch.Tensor, torch.Tensor, Any], Counts]
"""The logits of two models for one example, of shape ``(tokens, vocabulary)`` or ``(outputs,)``, and the example."""


@dataclass(frozen=True)
class Agreement:
    """How near a model is to another one.

    Attributes
    ----------
    kl : float
        Mean KL divergence of its predictions from the other's, in nats per token; of a classifier, per text.
        Infinite where it predicts what is not finite.
    equal : float
        Share of tokens (texts) for which both find the same one most likely.
    loss : float
        Its mean loss minus the other's, in nats per supervised token; of a classifier, per text.
    """

    kl: float
    equal: float
    loss: float


def some(examples: Sequence[Any]) -> list[Any]:
    """Choose at most 16 examples, evenly spread."""
    step = max(1, math.ceil(len(examples) / SEVERAL))
    return [examples[place] for place in range(0, len(examples), step)]


def answered(
    model: Any, tokenizer: PreTrainedTokenizerBase, prompts: Iterable[str], *, chat: bool, system: str | None
) -> list[Answered]:
    """Let a model answer prompts greedily, and take its answers for what is right.

    Parameters
    ----------
    model : peft.PeftModel
        In evaluation mode.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    prompts : iterable of str
        What to answer.
    chat : bool
        Whether a prompt is a user's turn of a conversation.
    system : str, optional
        System prompt of the conversations.

    Returns
    -------
    list of Answered
        Prompts with their answers, of which the answers count for the loss.
    """
    renderer, found = Renderer(tokenizer), []
    for prompt in prompts:
        turn: Any = [{"role": "user", "content": prompt}] if chat else prompt
        ids = renderer.render(turn, system=system, generation=True)[-LONGEST + ANSWER :]
        given = torch.tensor([ids], device=model.device)
        options = {"max_new_tokens": ANSWER, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        with torch.inference_mode():
            made = model.generate(input_ids=given, attention_mask=torch.ones_like(given), **options)[0].tolist()
        found.append(Answered(made, [place >= len(ids) for place in range(len(made))]))
    return found


def agreement(
    model: Any,
    other: Any,
    examples: Sequence[Any],
    compare: Compare,
    says: Callable[[Any, Any], torch.Tensor] | None = None,
) -> Agreement:
    """Measure a model against another one, text by text, so that no predictions are kept.

    Parameters
    ----------
    model, other : torch.nn.Module
        Two causal language models, or two models with a head, in evaluation mode.
    examples : sequence of Answered or Example
        The texts, cut at 256 tokens.
    compare : callable
        What one example adds, such as :func:`by_token`.
    says : callable, optional
        Gives the logits of a model for an example; by default those of its text.

    Returns
    -------
    Agreement
        Over all predictions of all texts.
    """
    says = says or (lambda model, example: logits(model, example.ids))
    found = [compare(says(model, one), says(other, one), one) for one in examples]
    places, targets = (max(1.0, sum(getattr(one, name) for one in found)) for name in ("places", "targets"))
    kl, equal, loss = (sum(getattr(one, name) for one in found) for name in ("kl", "equal", "loss"))
    mean = kl / places
    return Agreement(mean if math.isfinite(mean) else math.inf, equal / places, loss / targets)


def by_token(ours: torch.Tensor, theirs: torch.Tensor, example: Any) -> Counts:
    """Compare what is predicted after every token of a text; the loss counts its supervised tokens."""
    ids = list(example.ids)[:LONGEST]
    ours, theirs = ours[:-1], theirs[:-1]
    wanted = torch.tensor([bool(one) for one in example.supervised[1 : len(ids)]], device=ours.device)
    right = torch.tensor(ids[1:], device=ours.device)
    losses = [F.cross_entropy(one[wanted], right[wanted], reduction="sum") for one in (ours, theirs)]
    same = ours.argmax(-1) == theirs.argmax(-1)
    return Counts(
        len(ours), divergence(ours, theirs), float(same.sum()), float(losses[0] - losses[1]), int(wanted.sum())
    )


def divergence(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """KL divergence of softmax distributions over the last dimension, summed over all others, in nats."""
    return float(F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True))


def logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """What a model says of one text, cut at 256 tokens, as float32."""
    given = torch.tensor([list(ids)[:LONGEST]], device=model.device)
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=given, attention_mask=torch.ones_like(given)).logits[0]
    return found.float()
