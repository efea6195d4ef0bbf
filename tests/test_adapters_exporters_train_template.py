"""The script's own parts beside those of the engine; whole scripts are run in test_adapters_exporters_script.py."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from peft_nb.adapters.exporters import train_template as script
from peft_nb.data import detection, encoding
from peft_nb.data.rendered import RenderedRows
from peft_nb.training.objectives import Padded
from peft_nb.training.packing import plan
from tests import tiny

CPU = torch.device("cpu")
MESSAGES = [
    {
        "messages": [
            {"role": "user", "content": "Where is my parcel?"},
            {"role": "assistant", "content": "At sea."},
            {"role": "user", "content": "Since when?"},
            {"role": "assistant", "content": "Since Monday, as far as we know."},
        ]
    },
    {"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Ahoy!"}]},
]


@pytest.fixture(scope="module")
def tokenizer(base: Path) -> Any:
    return AutoTokenizer.from_pretrained(base)


def engine(rows: list[dict[str, Any]], tokenizer: Any, loss_on: Any, max_length: int = 1024) -> list[script.Example]:
    """What the engine makes of rows."""
    rendered = RenderedRows(rows, detection.detect(rows), tokenizer, loss_on=loss_on)
    found = encoding.encode(rendered, max_length=max_length).examples
    return [(list(one.ids), [bool(on) for on in one.supervised]) for one in found]


@pytest.mark.parametrize("loss_on", ["assistant", "completion", "all"])
@pytest.mark.parametrize("max_length", [1024, 48])
def test_conversations_are_encoded_as_by_the_engine(
    tokenizer: Any, loss_on: str, max_length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script, "LOSS_ON", loss_on)
    monkeypatch.setattr(script, "MAX_LENGTH", max_length)
    found = [script.encode(row, tokenizer) for row in MESSAGES]
    assert (len(found[0][0]) == max_length) == (max_length == 48)
    assert found == engine(MESSAGES, tokenizer, loss_on, max_length)


def test_texts_are_encoded_as_by_the_engine(tokenizer: Any) -> None:
    rows = [{"text": "a ship came in"}, {"text": "and went"}]
    assert [script.encode(row, tokenizer) for row in rows] == engine(rows, tokenizer, "assistant")


def test_tokens_are_taken_as_they_are_written(tokenizer: Any) -> None:
    line = json.loads('{"ids": [5, 6, 7, 8, 9], "learned": [[1, 2], [4, 5]]}')
    assert script.encode(line, tokenizer) == ([5, 6, 7, 8, 9], [False, True, False, False, True])


def test_a_beginning_of_text_goes_before_where_it_is_asked_for(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base, bos_token="<|im_start|>")
    plain = script.tokens("a ship", tokenizer)
    monkeypatch.setattr(script, "ADD_BOS", True)
    assert script.tokens("a ship", tokenizer) == [1, *plain]


@pytest.mark.parametrize(
    ("rows", "size", "times", "steps"), [(21, 5, 1, 12), (21, 3, 2, 4), (4, 8, 1, 3), (1, 1, 1, 2)]
)
def test_rows_come_in_the_order_of_the_run(
    rows: int, size: int, times: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"BATCH_SIZE": size, "GRADIENT_ACCUMULATION_STEPS": times, "STEPS": steps, "SEED": 3}.items():
        monkeypatch.setattr(script, name, value)
    assert script.order(rows) == plan(rows, size * times, 3, 1, steps)


@pytest.fixture(scope="module")
def drawn() -> list[tiny.Tokens]:
    """Examples of unequal lengths, in an order that is not theirs."""
    found = tiny.examples(7)
    random.Random(0).shuffle(found)
    return found


def test_the_loss_is_that_of_the_engine_whatever_the_batches(
    drawn: list[tiny.Tokens], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, examples = tiny.with_lora(tiny.base("llama"), dropout=0.5), [(one.ids, one.supervised) for one in drawn]
    wanted = Padded(0)
    assert script.targets(examples) == wanted.targets(drawn)
    model.eval()
    summed = wanted.loss(model, drawn, CPU)
    torch.testing.assert_close(script.summed_loss(model, examples, 0), summed)
    for size in (1, 3, 7):
        monkeypatch.setattr(script, "BATCH_SIZE", size)
        model.train()
        assert script.mean_loss(model, examples, 0) == pytest.approx(summed.item() / wanted.targets(drawn), rel=1e-5)
        assert model.training  # dropout is on again


def test_the_first_token_and_what_is_padded_are_not_learned() -> None:
    model = tiny.base("llama")
    long, short = ([3, 4, 5, 6, 7], [True] * 5), ([8, 9], [True, True])
    assert script.targets([long, short]) == 5
    with torch.no_grad():
        alone = sum(
            torch.nn.functional.cross_entropy(
                model(input_ids=torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="sum"
            )
            for ids, _ in (long, short)
        )
        for pad in (0, 9):
            torch.testing.assert_close(script.summed_loss(model, [long, short], pad), alone)
