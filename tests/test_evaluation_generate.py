"""Answers in batches are those that a model gives one by one, as transformers makes them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from peft_nb.data.rendering import Renderer
from peft_nb.evaluation import generate as writing
from peft_nb.evaluation.generate import ask, generate, write
from peft_nb.runs.run import Run

QUESTIONS = ["Where is my parcel?", "Why?", "What is the usual waiting time for a delivery?", "Hello"]


def test_many_prompts_are_answered_as_one_by_one(finished: Run, rows: list[dict[str, str]]) -> None:
    prompts = [row["question"] for row in rows[:17]] + ["?"]  # more than a batch, and of many lengths
    together = finished.generate(prompts, max_new_tokens=12)
    assert together == [finished.generate(prompt, max_new_tokens=12) for prompt in prompts]
    assert finished.generate([]) == []
    sampled = [finished.generate("Hello", temperature=2.0, seed=seed, max_new_tokens=8) for seed in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]


def alone(run: Run, ids: list[int], tokens: int) -> str:
    """Continue one prompt by transformers alone."""
    with torch.inference_mode():
        made = run.model.generate(torch.tensor([ids]), max_new_tokens=tokens, do_sample=False, pad_token_id=0)
    return run.tokenizer.decode(made[0, len(ids) :], skip_special_tokens=True).strip()


@pytest.mark.parametrize(
    ("most_rows", "most_tokens"), [(64, 16_384), (2, 16_384), (64, 1)], ids=["one", "rows", "tokens"]
)
def test_answers_are_those_of_transformers_in_the_order_of_the_prompts(
    finished: Run, monkeypatch: pytest.MonkeyPatch, most_rows: int, most_tokens: int
) -> None:
    monkeypatch.setattr(writing, "MOST_ROWS", most_rows)
    monkeypatch.setattr(writing, "MOST_TOKENS", most_tokens)
    renderer = Renderer(finished.tokenizer)
    wanted = [alone(finished, ask(renderer, one, True, "Be kind."), 8) for one in QUESTIONS]
    assert generate(finished.model, finished.tokenizer, QUESTIONS, system="Be kind.", max_new_tokens=8) == wanted
    assert len(set(wanted)) > 1


def test_a_prompt_is_a_turn_a_conversation_or_a_text_as_it_stands(finished: Run) -> None:
    tokenizer = finished.tokenizer
    renderer = Renderer(tokenizer)
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "c"}]
    begun = "<|im_start|>assistant\n"
    said = [tokenizer.decode(ask(renderer, one, True, None)) for one in ("c", turns)]
    assert said[0] == f"<|im_start|>user\nc<|im_end|>\n{begun}"
    assert said[1] == f"<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n{said[0]}"
    assert tokenizer.decode(ask(renderer, "c", True, "Be kind.")).startswith("<|im_start|>system\nBe kind.<|im_end|>")
    assert ask(renderer, "Ahoy!", False, None) == tokenizer("Ahoy!")["input_ids"]


def test_who_listens_hears_every_token_and_can_end_the_answers(finished: Run) -> None:
    heard: list[list[str]] = []
    options: dict[str, Any] = {"max_new_tokens": 6}
    answers = generate(finished.model, finished.tokenizer, QUESTIONS, listen=heard.append, **options)  # type: ignore[arg-type]
    assert answers == generate(finished.model, finished.tokenizer, QUESTIONS, **options)
    assert 1 < len(heard) <= 6
    assert heard[-1] == answers
    assert all(whole.startswith(part) for part, whole in zip(heard[0], answers, strict=True))
    ended = generate(finished.model, finished.tokenizer, QUESTIONS, listen=lambda answers: True, **options)
    assert ended == heard[0] != answers


def test_the_draw_is_fixed_by_its_seed_and_leaves_the_notebooks_alone(finished: Run) -> None:
    before = torch.get_rng_state()
    drawn = [
        generate(finished.model, finished.tokenizer, QUESTIONS, temperature=2.0, seed=seed, max_new_tokens=6)
        for seed in (3, 3, 4)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_each_prompt_may_have_an_adapter_of_its_own(finished: Run) -> None:
    renderer = Renderer(finished.tokenizer)
    encoded = [ask(renderer, one, True, None) for one in QUESTIONS]
    options: dict[str, Any] = {"max_new_tokens": 6}
    mixed = write(finished.model, renderer, encoded, adapters=["default", "__base__"] * 2, **options)
    wanted = [finished.generate(one, adapter=number % 2 == 0, **options) for number, one in enumerate(QUESTIONS)]
    assert mixed == wanted
