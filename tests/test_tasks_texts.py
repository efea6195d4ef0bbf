"""What tasks share that say something of whole texts, on the smallest of them: two numbers a text."""

from __future__ import annotations

import ast
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from peft_nb.data.detection import detect
from peft_nb.data.examples import Example
from peft_nb.data.rendered import RenderedRows
from peft_nb.evaluation.agreement import Agreement
from peft_nb.models.load import Base, load
from peft_nb.models.resolve import resolve
from peft_nb.spec import RunSpec
from peft_nb.tasks import TextTask
from peft_nb.training.text_objective import TextObjective

SPEC = RunSpec(data="x", max_length=9)
ROWS = [{"text": "a red fig", "label": "3"}, {"text": "we saw a crow in the yard", "label": "5"}]
TEXTS = [row["text"] for row in ROWS]


class Pair(TextTask):
    """Of each text its label and the square of it."""

    name, help = "pair", "to read two numbers off a text"

    def labels(self, rows: Any, layout: Any, facts: Any, row_name: str) -> list[tuple[Any, ...]]:
        return [(float(own), float(own) ** 2) for row in rows for own in layout.labels(row)]

    def head(self, facts: Any) -> tuple[Sequence[str], Any]:
        return ["one", "two"], "regression"

    def head_loss(self, facts: Any) -> Callable[[torch.Tensor, Sequence[Example]], torch.Tensor]:
        def squared_error(logits: torch.Tensor, examples: Sequence[Example]) -> torch.Tensor:
            return (logits - torch.tensor([one.labels for one in examples])).square().sum()

        return squared_error


TASK = Pair()


def base_of(folder: Path) -> Base:
    return load(resolve(str(folder)), kind=None, dtype="float32")


def built(folder: Path, seed: int = 0) -> tuple[Any, Any, dict[str, Any]]:
    """A model with a fresh head, its tokenizer, and the facts."""
    base, facts = base_of(folder), dict[str, Any]()
    TASK.limit(base, SPEC, facts)
    torch.manual_seed(seed)
    model, new = TASK.build(base, facts)
    assert new
    return model.eval(), base.tokenizer, facts


def test_a_half_task_is_named_with_what_it_lacks() -> None:
    class Half(TextTask):
        name, help = "half", "to do half of it"

    for lacking, told in (
        (lambda: Half().labels([], detect(ROWS), {}, "row"), "what is learned of a text"),
        (lambda: Half().head({}), "what its head is"),
        (lambda: Half().head_loss({}), "what its loss is"),
    ):
        with pytest.raises(NotImplementedError, match=f"^task half does not say {told}$"):
            lacking()


def test_the_longest_text_is_the_shortest_of_all_bounds(encoder: Path) -> None:
    base, facts = base_of(encoder), dict[str, Any]()
    for wanted, longest in ((9, 9), (1024, 16)):  # it has 16 places
        TASK.limit(base, RunSpec(data="x", max_length=wanted), facts)
        assert facts == {"max_tokens": longest}
    config = SimpleNamespace(get_text_config=lambda: SimpleNamespace())
    endless = SimpleNamespace(
        model=SimpleNamespace(config=config), tokenizer=SimpleNamespace(model_max_length=int(1e30))
    )
    TASK.limit(endless, SPEC, facts)  # type: ignore[arg-type]
    assert facts == {"max_tokens": 9}


def test_texts_are_cut_given_their_labels_and_found_in_the_cache_again(encoder: Path, tmp_path: Path) -> None:
    tok = AutoTokenizer.from_pretrained(encoder)
    facts, rendered = {"max_tokens": 6}, RenderedRows(ROWS, detect(ROWS), tok)
    name, inside = TASK.encode(rendered, SPEC, facts)
    assert name == ""
    ids = tok(TEXTS, truncation=True, max_length=6)["input_ids"]
    assert [len(one) for one in ids] == [5, 6]
    assert list(inside.examples) == [
        Example(array("i", one), bytes(len(one)), own) for one, own in zip(ids, ((3, 9), (5, 25)), strict=True)
    ]
    assert "to read two numbers off a text" in str(inside.report)
    (key, first), (again, second) = (
        TASK.encode(rendered, SPEC, facts, cache=tmp_path, fingerprint="data") for _ in range(2)
    )
    assert key == again
    assert list(first.examples) == list(second.examples) == list(inside.examples)
    dropped = TASK.encode(rendered, RunSpec(data="x", too_long="drop"), facts)[1]
    assert list(dropped.examples) == list(inside.examples)[:1]


def test_prompts_are_texts_with_their_labels() -> None:
    asked = TASK.prompts(ROWS, detect(ROWS), [1], {})
    assert [(one.prompt, one.reference) for one in asked] == [(TEXTS[1], "5")]


@pytest.mark.parametrize("kind", ["encoder", "plain_encoder"])
def test_outputs_are_those_of_the_model_for_each_text_cut_as_in_training(
    kind: str, request: pytest.FixtureRequest
) -> None:
    model, tok, facts = built(request.getfixturevalue(kind))
    assert facts["pooling"] == ("mean" if kind == "encoder" else "the model's own head")
    long = "the red yard " * 9
    found = TASK.outputs(model, tok, [*TEXTS, long], facts)
    for row, text in zip(found, [*TEXTS, long], strict=True):
        tokens = tok(text, truncation=True, max_length=9, return_tensors="pt")
        with torch.inference_mode():
            wanted = model(input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]).logits[0]
        torch.testing.assert_close(row, wanted, rtol=1e-4, atol=1e-5)
    assert TASK.outputs(model, tok, [], facts).shape == (0, 2)


def test_two_models_are_compared_as_normal_distributions(encoder: Path) -> None:
    (model, tok, facts), (other, *_) = built(encoder), built(encoder, seed=1)
    right = TASK.reference(model, tok, TEXTS, SPEC, facts, False)
    ours, theirs = (TASK.outputs(one, tok, TEXTS, facts) for one in (model, other))
    for one, said in zip(right, ours, strict=True):
        assert one.labels == pytest.approx(said.tolist(), rel=1e-4)
    assert TASK.agreement(model, model, right, facts) == Agreement(0.0, 1.0, 0.0)
    found = TASK.agreement(other, model, right, facts)
    apart = (theirs - ours).square().sum().item()
    assert found.kl == pytest.approx(apart / 2 / 2, rel=1e-3)  # half the squared distance, over two texts
    assert found.loss == pytest.approx(apart / 2, rel=1e-3)  # what the first says is right
    assert found.equal == 0.0


def test_the_loss_of_its_objective_is_that_of_its_head(encoder: Path) -> None:
    model, tok, facts = built(encoder)
    examples = list(TASK.encode(RenderedRows(ROWS, detect(ROWS), tok), SPEC, facts)[1].examples)
    loss = TextObjective(tok.pad_token_id, TASK.head_loss(facts)).loss(model, examples, torch.device("cpu"))
    wanted = (TASK.outputs(model, tok, TEXTS, facts) - torch.tensor([[3.0, 9.0], [5.0, 25.0]])).square().sum()
    torch.testing.assert_close(loss, wanted, rtol=1e-4, atol=0)


def test_how_a_text_is_pooled_decides_how_others_use_it_and_whether_it_merges() -> None:
    mean, own = {"pooling": "mean", "max_tokens": 77}, {"pooling": "the model's own head", "max_tokens": 77}
    assert "takes the mean over a text's hidden states" in TASK.unmergeable(mean)
    assert TASK.unmergeable(own) == ""
    for facts, told in ((mean, "ModuleDict"), (own, "AutoModelForSequenceClassification.from_pretrained(base, ")):
        lines = TASK.usage('"owner/base"', SPEC, facts, None, chat=False)
        ast.parse(lines)
        assert told in lines
        assert "max_length=77" in lines
        assert 'base, texts = "path/to/this/folder", "owner/base", ' in lines
        assert lines.endswith("print(logits.tolist())\n")
