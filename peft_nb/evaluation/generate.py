"""Answers from a model, in batches, rendered as it was trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

import torch

from peft_nb.data.conversations import Message
from peft_nb.data.rendering import Renderer
from peft_nb.training.draws import OwnDraws

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Listener = Callable[[list[str]], bool | None]

MOST_ROWS, MOST_TOKENS = 64, 16_384  # at once: more makes nothing faster, only larger


def generate(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[Message]],
    *,
    chat: bool = True,
    system: str | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    listen: Listener | None = None,
) -> list[str]:
    """Complete prompts.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        A causal language model in evaluation mode.
    tokenizer : PreTrainedTokenizerBase
        The model's tokenizer.
    prompts : sequence of str or of list of dict
        One prompt an answer; a list holds the messages of a conversation.
    chat : bool
        Whether a prompt is a user's turn of a conversation; otherwise its text is continued as it stands.
    system : str, optional
        System prompt of the conversations.
    max_new_tokens : int
        Longest answer, in tokens; default 128.
    temperature : float
        0 takes the most likely token each time; above, tokens are drawn with this temperature.
    seed : int
        Fixes the draw.
    listen : callable, optional
        Gets the answers so far after every token; once it returns True they stay as they are.

    Returns
    -------
    list of str
        The answers, without the prompts and without special tokens, in the order of the prompts.
    """
    renderer = Renderer(tokenizer)
    encoded = [ask(renderer, prompt, chat, system) for prompt in prompts]
    options: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "seed": seed}
    return write(model, renderer, encoded, listen=listen, **options)


def ask(renderer: Renderer, prompt: str | list[dict[str, Any]], chat: bool, system: str | None) -> list[int]:
    """Render one prompt as token ids; parameters as of :func:`generate`."""
    turn: Any = [{"role": "user", "content": prompt}] if chat and isinstance(prompt, str) else prompt
    return renderer.render(turn, system=system, generation=True)


def write(
    model: Any,
    renderer: Renderer,
    encoded: Sequence[Sequence[int]],
    *,
    adapters: Sequence[str] | None = None,
    max_new_tokens: int = 128,
    temperature: float = 0.0,
    seed: int = 0,
    listen: Listener | None = None,
) -> list[str]:
    """Complete prompts that are token ids already.

    Parameters
    ----------
    model : transformers.PreTrainedModel or peft.PeftModel
        As of :func:`generate`.
    renderer : Renderer
        Of the model's tokenizer.
    encoded : sequence of sequence of int
        The prompts.
    adapters : sequence of str, optional
        For each prompt which of a model's adapters answers it, as PEFT names them; by default the active one.
    max_new_tokens, temperature, seed, listen
        As of :func:`generate`.

    Returns
    -------
    list of str
        As of :func:`generate`.
    """
    from transformers import StoppingCriteriaList

    tokenizer = renderer.tokenizer
    stops = ends(model, renderer)
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    answers = [""] * len(encoded)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    ended = Event()

    def read(rows: Sequence[int], made: torch.Tensor) -> None:
        for row, tokens in zip(rows, made, strict=True):
            answers[row] = tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def heard(rows: Sequence[int], width: int, made: torch.Tensor, scores: object) -> torch.Tensor:
        """Tell the answers so far; transformers asks after every token which of them are over."""
        read(rows, made[:, width:])
        if listen and listen(list(answers)):
            ended.set()
        return torch.full((len(rows),), ended.is_set(), device=made.device)

    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    # Not inference_mode: what a model keeps from one call to the next may be needed in training after this.
    with OwnDraws(seed) if temperature > 0 else nullcontext(), torch.no_grad():
        longest = max(map(len, encoded), default=0) + max_new_tokens
        batch = max(1, min(MOST_ROWS, MOST_TOKENS // longest))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            width = max(len(encoded[row]) for row in rows)
            ids = torch.tensor([[pad] * (width - len(encoded[row])) + list(encoded[row]) for row in rows])
            mask = torch.tensor([[0] * (width - len(encoded[row])) + [1] * len(encoded[row]) for row in rows])
            each: dict[str, Any] = {"adapter_names": [adapters[row] for row in rows]} if adapters else {}
            if listen:
                each["stopping_criteria"] = StoppingCriteriaList([partial(heard, rows, width)])
            made = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                eos_token_id=stops,
                **sampling,
                **each,
            )
            read(rows, made[:, width:])
            if ended.is_set():
                break
    return answers


def ends(model: Any, renderer: Renderer) -> list[int]:
    """The tokens that end an answer: those that training writes, and those that the model's own files name."""
    own = model.generation_config.eos_token_id
    listed = own if isinstance(own, list) else [own]
    return sorted({renderer.end, renderer.tokenizer.eos_token_id, *listed} - {None})
