"""Several answers to each prompt, drawn from a model as it is: the prompt is computed once for all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessor, LogitsProcessorList

from peft_nb.training import decoding

ROWS, TOKENS = 64, 16_384  # at once: more makes nothing faster, only larger
BLOCK = 256  # of a vocabulary whose chances are summed up at once: a sum over all of them, one by one, is slow

# The model's own probabilities, whatever its files say of generation: what is drawn otherwise is learned wrongly.
PLAIN: dict[str, Any] = {
    "do_sample": False,  # a token is drawn by :class:`Draw`
    "num_beams": 1,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}


class Draw(LogitsProcessor):
    """Gives the highest score to the one token that a number between 0 and 1 draws.

    So what is drawn depends on a row's own numbers, and not on which rows lie beside it.

    Parameters
    ----------
    numbers : torch.Tensor
        One for each token of each row, above 0 and at most 1.
    width : int
        Tokens of the prompts.
    """

    def __init__(self, numbers: torch.Tensor, width: int) -> None:
        self._numbers, self._width = numbers, width

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """The scores of the next token, one of them infinite."""
        place = input_ids.shape[1] - self._width
        token = drawn(scores.float().softmax(-1), self._numbers[:, place : place + 1])
        return scores.scatter(1, token, torch.inf)


def drawn(chances: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Find where the chances, summed up from the first, come to a number: first among blocks, then in one of them.

    Parameters
    ----------
    chances : torch.Tensor
        Shape ``(rows, vocabulary)``, at least 0.
    numbers : torch.Tensor
        Shares of their sum, above 0 and at most 1, shape ``(rows, 1)``.

    Returns
    -------
    torch.Tensor
        Indices, shape ``(rows, 1)``; none of a chance of 0.
    """
    rows, count = chances.shape
    blocks = nn.functional.pad(chances, (0, -count % BLOCK)).view(rows, -1, BLOCK)
    below = nn.functional.pad(blocks.sum(-1).cumsum(-1), (1, 0))
    wanted = numbers * below[:, -1:]
    block = torch.searchsorted(below[:, 1:].contiguous(), wanted)
    wanted -= below.gather(1, block)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1)
    return block * BLOCK + torch.searchsorted(inside, wanted.minimum(inside[:, -1:]))


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    count: int,
    *,
    seeds: Sequence[int],
    longest: int,
    ends: Sequence[int],
    pad: int,
    shared: bool = True,
) -> list[list[list[int]]]:
    """Draw answers at temperature 1.

    Parameters
    ----------
    model : peft.PeftModel
        A causal language model with its own forward pass; it is in evaluation mode meanwhile.
    prompts : sequence of sequence of int
        Token ids.
    count : int
        Answers to each.
    seeds : sequence of int
        One for each prompt, which fixes its answers.
    longest : int
        Tokens of an answer, at most.
    ends : sequence of int
        Tokens that end an answer.
    pad : int
        Token to pad with.
    shared : bool
        Whether the prompts may be computed apart, once for all their answers; not where a method puts virtual tokens
        before them.

    Returns
    -------
    list of list of list of int
        For each prompt its answers, with the token that ends them where they came to one.
    """
    found: list[list[list[int]]] = [[] for _ in prompts]
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    training = model.training
    model.eval()
    try:
        with decoding.installed(model, min(ROWS, count * len(prompts)), longest):
            while order:
                width = len(prompts[order[-1]])
                rows = at_once(count, width + longest)
                some, order = order[-rows:], order[:-rows]
                numbers = torch.cat([_numbers(seeds[place], count, longest) for place in some])
                made = _written(model, [prompts[place] for place in some], numbers, sorted(ends), pad, shared)
                for number, tokens in enumerate(made.tolist()):
                    stop = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
                    found[some[number // count]].append(tokens[:stop])
    finally:
        model.train(training)
    return found


def at_once(count: int, tokens: int) -> int:
    """How many prompts get so many answers at once, with which they have so many tokens each."""
    return max(1, min(ROWS, TOKENS // tokens) // count)


def seed(*of: int) -> int:
    """Make one seed of several numbers, such as that of a run, its step and a row."""
    return int.from_bytes(hashlib.blake2b(repr(of).encode(), digest_size=8).digest())


def _numbers(fixed: int, count: int, longest: int) -> torch.Tensor:
    """What the tokens of all answers to a prompt are drawn by, above 0 and at most 1."""
    return 1 - torch.rand(count, longest, generator=torch.Generator().manual_seed(fixed))


def _written(
    model: Any, prompts: list[Sequence[int]], numbers: torch.Tensor, ends: list[int], pad: int, shared: bool
) -> torch.Tensor:
    width, longest, count = max(map(len, prompts)), numbers.shape[1], len(numbers) // len(prompts)
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=model.device)
    how = {**PLAIN, "max_new_tokens": longest, "eos_token_id": ends, "pad_token_id": pad}
    how["logits_processor"] = LogitsProcessorList([Draw(numbers.to(model.device), width)])
    if shared and width > 1:
        causal = model.get_base_model()
        how["past_key_values"] = cache = decoding.cache(causal.config, longest)
        getattr(causal, causal.base_model_prefix)(  # without the head, whose scores nobody needs
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, :-1],
            past_key_values=cache,
            use_cache=True,
        )
        cache.batch_repeat_interleave(count)
    ids, mask = ids.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
    return model.generate(input_ids=ids, attention_mask=mask, **how)[:, width:]
