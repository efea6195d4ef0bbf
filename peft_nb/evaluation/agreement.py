"""How far one model does what another does, on the same texts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from peft_nb.data.examples import Example
from peft_nb.data.rendering import Renderer, tokens

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
class Lesson:
    """A text as token ids; ``supervised[i]`` is true where ``ids[i]`` counts for the loss."""

    ids: Sequence[int]
    supervised: Sequence[Any]


@dataclass(frozen=True)
class Agreement:
    """How near a model is to another one.

    Attributes
    ----------
    kl : float
        Mean KL divergence of its predictions from the other's, in nats per token; of a classifier, per text.
        Infinite where it predicts what is not finite.
    equal : float
        Share of tokens (texts) for which both find the same one likeliest.
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
) -> list[Lesson]:
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
    list of Lesson
        Prompts with their answers, of which the answers count for the loss.
    """
    renderer, lessons = Renderer(tokenizer), []
    for prompt in prompts:
        turn: Any = [{"role": "user", "content": prompt}] if chat else prompt
        ids = renderer.render(turn, system=system, generation=True)[-LONGEST + ANSWER :]
        given = torch.tensor([ids], device=model.device)
        options = {"max_new_tokens": ANSWER, "do_sample": False, "pad_token_id": tokenizer.pad_token_id}
        with torch.inference_mode():
            made = model.generate(input_ids=given, attention_mask=torch.ones_like(given), **options)[0].tolist()
        lessons.append(Lesson(made, [place >= len(ids) for place in range(len(made))]))
    return lessons


def classified(
    model: Any, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], *, multi: bool, longest: int
) -> list[Example]:
    """Let a model classify texts, and take its classes for what is right; parameters as of :func:`answered`."""
    found = []
    for ids in tokens(tokenizer, texts, longest):
        logits = _logits(model, ids)[0]
        labels = (logits > 0).nonzero()[:, 0].tolist() if multi else [int(logits.argmax())]
        found.append(Example.whole(ids, tuple(labels)))
    return found


def agreement(model: Any, other: Any, examples: Sequence[Any], multi: bool | None = None) -> Agreement:
    """Measure a model against another one, text by text, so that no predictions are kept.

    Parameters
    ----------
    model, other : torch.nn.Module
        Two causal language models or two classifiers, in evaluation mode.
    examples : sequence of Lesson or Example
        The texts, cut at 256 tokens.
    multi : bool, optional
        Of classifiers, whether a text can have several classes; None for language models.

    Returns
    -------
    Agreement
        Over all tokens of all texts (all texts of classifiers).
    """
    places = kl = equal = loss = targets = 0.0
    for example in examples:
        ids = list(example.ids)[:LONGEST]
        ours, theirs = _logits(model, ids)[0], _logits(other, ids)[0]
        if multi is None:
            ours, theirs = ours[:-1], theirs[:-1]
            wanted = torch.tensor([bool(one) for one in example.supervised[1 : len(ids)]], device=ours.device)
            right = torch.tensor(ids[1:], device=ours.device)
            losses = [F.cross_entropy(one[wanted], right[wanted], reduction="sum") for one in (ours, theirs)]
            targets += int(wanted.sum())
        else:
            marked = torch.zeros(len(ours), device=ours.device)
            marked[list(example.labels)] = 1.0
            if multi:  # each class is a question of its own: yes or no
                ours, theirs = (torch.stack([one, torch.zeros_like(one)], -1) for one in (ours, theirs))
                truth = torch.stack([marked, 1 - marked], -1)
            else:
                ours, theirs, truth = ours[None], theirs[None], marked[None]
            losses = [-(truth * one.log_softmax(-1)).sum() for one in (ours, theirs)]
            targets += 1
        divergence = F.kl_div(ours.log_softmax(-1), theirs.log_softmax(-1), reduction="sum", log_target=True)
        kl += float(divergence)
        same = ours.argmax(-1) == theirs.argmax(-1)
        equal += float(same.sum() if multi is None else same.all())
        places += len(ours) if multi is None else 1
        loss += float(losses[0] - losses[1])
    mean = kl / max(places, 1)
    return Agreement(mean if math.isfinite(mean) else math.inf, equal / max(places, 1), loss / max(targets, 1))


def _logits(model: Any, ids: Sequence[int]) -> torch.Tensor:
    given = torch.tensor([list(ids)], device=model.device)
    with torch.inference_mode():
        logits: torch.Tensor = model(input_ids=given, attention_mask=torch.ones_like(given)).logits
    return logits.float()
