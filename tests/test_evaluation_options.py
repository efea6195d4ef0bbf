"""Options after one question get the log-probabilities that each has alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from peft_nb.data.rendering import Renderer, render
from peft_nb.errors import DataError
from peft_nb.evaluation import options
from peft_nb.training.objectives import Padded, PaddingFree
from tests import tiny

QUESTION = [5 + 3 * place % 80 for place in range(17)]
ANSWERS = [[7], [7, 8, 9], [12, 7, 7, 7, 40, 41], [7, 8, 10]]


def after(question: list[int]) -> list[tiny.Tokens]:
    """The answers as options after a question."""
    return [tiny.Tokens(question + own, [False] * len(question) + [True] * len(own)) for own in ANSWERS]


def alone(model: Any, one: tiny.Tokens) -> float:
    """The log-probability of one option, by all logits of one text."""
    with torch.no_grad():
        scores = model(input_ids=torch.tensor([one.ids])).logits[0].log_softmax(-1)
    return sum(float(scores[place - 1, id]) for place, id in enumerate(one.ids) if one.supervised[place])


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("path", [Padded(0), PaddingFree(False), PaddingFree(True)], ids=str)
def test_every_option_is_scored_as_if_it_were_alone(family: str, path: Any) -> None:
    model = tiny.with_lora(tiny.base(family)).eval()
    questions = [after(QUESTION), after(QUESTION[:1]), after(QUESTION[::-1])[:1]]
    found = options.score(model, path, questions)
    assert [len(one.sums) for one in found] == [4, 4, 1]
    for scored, asked in zip(found, questions, strict=True):
        assert scored.sums.tolist() == pytest.approx([alone(model, one) for one in asked], rel=1e-5, abs=1e-5)
        assert scored.tokens.tolist() == [1, 3, 6, 3][: len(asked)]
        assert scored.means.tolist() == pytest.approx((scored.sums / scored.tokens).tolist())
    assert options.score(model, path, []) == []


def test_the_question_is_computed_once() -> None:
    model, seen = tiny.with_lora(tiny.base("llama")).eval(), list[int]()
    model.get_input_embeddings().register_forward_pre_hook(lambda module, given: seen.append(given[0].numel()))
    options.score(model, PaddingFree(True), [after(QUESTION)])
    assert seen == [len(QUESTION) + sum(map(len, ANSWERS))]


def test_an_option_is_written_as_an_answer_is_in_training(base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    asked = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where?"}]
    prompt = render(tokenizer, asked, generation=True)
    found = options.write(Renderer(tokenizer), asked, ["Rome", "Oslo or so"])
    for one, said in zip(found, ("Rome", "Oslo or so"), strict=True):
        assert list(one.ids) == render(tokenizer, [*asked, {"role": "assistant", "content": said}])
        assert list(one.ids[: len(prompt)]) == prompt
        assert list(one.supervised) == [0] * len(prompt) + [1] * (len(one.ids) - len(prompt))
        assert tokenizer.decode(one.ids[len(prompt) :]) == f"{said}<|im_end|>"
    with pytest.raises(DataError, match="an answer contains"):
        options.write(Renderer(tokenizer), asked, ["Rome<|im_end|>"])
