"""Answers from a model, in batches, rendered as it was trained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from peft_nb.data.formats import Message
from peft_nb.data.rendering import Renderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
        0 takes the likeliest token each time; above, tokens are drawn with this temperature.
    seed : int
        Fixes the draw.

    Returns
    -------
    list of str
        The answers, without the prompts and without special tokens, in the order of the prompts.
    """
    turns = [[{"role": "user", "content": one}] if chat and isinstance(one, str) else one for one in prompts]
    renderer = Renderer(tokenizer)
    encoded = [renderer.render(turn, system=system, generation=True) for turn in turns]
    ends = {renderer.end, tokenizer.eos_token_id, *_ends(model)} - {None}
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    answers = [""] * len(encoded)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        longest = max(map(len, encoded), default=0) + max_new_tokens
        batch = max(1, min(MOST_ROWS, MOST_TOKENS // longest))
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            width = max(len(encoded[row]) for row in rows)
            ids = torch.tensor([[pad] * (width - len(encoded[row])) + list(encoded[row]) for row in rows])
            mask = torch.tensor([[0] * (width - len(encoded[row])) + [1] * len(encoded[row]) for row in rows])
            made = model.generate(
                input_ids=ids.to(model.device),
                attention_mask=mask.to(model.device),
                max_new_tokens=max_new_tokens,
                pad_token_id=pad,
                eos_token_id=sorted(ends),
                **sampling,
            )
            for row, tokens in zip(rows, made[:, width:], strict=True):
                answers[row] = tokenizer.decode(tokens, skip_special_tokens=True).strip()
    return answers


def _ends(model: Any) -> list[int]:
    ends = model.generation_config.eos_token_id
    return [] if ends is None else ends if isinstance(ends, list) else [ends]
