"""Several answers to each prompt, drawn from a model as it is: the prompt is computed once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import DynamicCache

ROWS, TOKENS = 64, 16_384  # at once: more makes nothing faster, only larger

# The model's own probabilities, whatever its files say of generation: what is drawn otherwise is learned wrongly.
PLAIN: dict[str, Any] = {
    "do_sample": True,
    "num_beams": 1,
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "min_length": 0,
    "min_new_tokens": None,
    "bad_words_ids": None,
    "suppress_tokens": None,
    "begin_suppress_tokens": None,
}


@torch.no_grad()
def sample(
    model: Any,
    prompts: Sequence[Sequence[int]],
    count: int,
    *,
    longest: int,
    ends: Sequence[int],
    pad: int,
    shared: bool = True,
) -> list[list[list[int]]]:
    """Draw answers at temperature 1 from whatever random numbers PyTorch draws from here.

    Parameters
    ----------
    model : peft.PeftModel
        A causal language model with its own forward pass; it is in evaluation mode meanwhile.
    prompts : sequence of sequence of int
        Token ids.
    count : int
        Answers to each.
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
        while order:
            width = len(prompts[order[-1]])
            rows = max(1, min(ROWS, TOKENS // (width + longest)) // count)
            some, order = order[-rows:], order[:-rows]
            made = _drawn(model, [prompts[place] for place in some], count, longest, sorted(ends), pad, shared)
            for number, tokens in enumerate(made.tolist()):
                stop = next((place + 1 for place, token in enumerate(tokens) if token in ends), len(tokens))
                found[some[number // count]].append(tokens[:stop])
    finally:
        model.train(training)
    return found


def _drawn(
    model: Any, prompts: list[Sequence[int]], count: int, longest: int, ends: list[int], pad: int, shared: bool
) -> torch.Tensor:
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(one)) + list(one) for one in prompts], device=model.device)
    mask = torch.tensor([[0] * (width - len(one)) + [1] * len(one) for one in prompts], device=model.device)
    how = {**PLAIN, "max_new_tokens": longest, "eos_token_id": ends, "pad_token_id": pad}
    if not shared or width == 1:
        made = model.generate(input_ids=ids, attention_mask=mask, num_return_sequences=count, **how)
        return made[:, width:]
    causal = model.get_base_model()
    cache = DynamicCache(config=causal.config)
    getattr(causal, causal.base_model_prefix)(  # without the head, whose scores nobody needs
        input_ids=ids[:, :-1],
        attention_mask=mask[:, :-1],
        position_ids=(mask.cumsum(1) - 1).clamp_min(0)[:, :-1],
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_repeat_interleave(count)
    ids, mask = ids.repeat_interleave(count, 0), mask.repeat_interleave(count, 0)
    return model.generate(input_ids=ids, attention_mask=mask, past_key_values=cache, **how)[:, width:]
