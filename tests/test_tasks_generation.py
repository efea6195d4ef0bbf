"""To write texts: what of a row is learned, what is asked again, and how others ask a saved adapter."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

from peft_nb.data.detection import detect
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import Renderer
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec
from peft_nb.tasks import TASKS
from tests.templates import CHAT, CHATML, ROW, tokenizer, trained

TASK = TASKS["generation"]
SPEC = RunSpec(data="x")


def test_answers_are_learned_and_found_in_the_cache_again(tmp_path: Path) -> None:
    tok, rows = tokenizer(), [ROW, {"question": "hello", "answer": "Ahoy there!"}]
    name, inside = TASK.encode(RenderedRows(rows, detect(rows), tok), SPEC, {})
    assert name == ""
    assert [trained(tok, one) for one in inside.examples] == [
        ["It is on its way.<|im_end|>"],
        ["Ahoy there!<|im_end|>"],
    ]
    told: list[float] = []
    options: dict[str, Any] = {
        "cache": tmp_path,
        "fingerprint": "data",
        "progress": lambda share, what: told.append(share),
    }
    key, first = TASK.encode(RenderedRows(rows, detect(rows), tok), SPEC, {}, **options)
    assert told[-1] == 1.0
    told.clear()
    again, second = TASK.encode(RenderedRows(rows, detect(rows), tok), SPEC, {}, **options)
    assert list(first.examples) == list(second.examples) == list(inside.examples)
    assert (again, told) == (key, [])
    shorter, _ = TASK.encode(RenderedRows(rows, detect(rows), tok), RunSpec(data="x", max_length=64), {}, **options)
    assert shorter != key


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        (
            [{"prompt": "hi", "chosen": "yo", "rejected": "no"}],
            "columns prompt, chosen, rejected → preference: these rows are pairs; set task: dpo, or to train on the "
            "chosen answers alone, set format='prompt_completion', "
            "columns={'prompt': 'prompt', 'completion': 'chosen'}",
        ),
        (
            [{"prompt": "hi", "responses": ["yo", "no"], "scores": [1, 0]}],
            "columns prompt, responses (lists), scores (lists) → ranked: these rows are pairs; set task: dpo",
        ),
        (
            [{**ROW, "label": True}, {**ROW, "label": False}],
            "columns question, answer, label → rated (label: true is good, false is bad): these rows are "
            "rated answers; set task: kto, or to train on all answers alike, set format='question_answer', "
            "columns={'question': 'question', 'answer': 'answer'}",
        ),
    ],
    ids=("pairs", "ranked", "rated"),
)
def test_preferences_are_refused_with_the_task_that_learns_them(rows: list[dict[str, Any]], told: str) -> None:
    with pytest.raises(DataError) as refused:
        TASK.inspect(rows, detect(rows))
    assert str(refused.value) == told


def test_conversations_end_before_their_last_answer() -> None:
    rows = [{"messages": CHAT}, {"messages": CHAT[:2]}]
    layout, system = detect(rows), {"role": "system", "content": "Be kind."}
    assert TASK.conversations(rows, layout, [0, 1], SPEC, 64) == [
        {"messages": CHAT[:3], "reference": "It is on its way."},
        {"messages": CHAT[:1], "reference": "Ahoy there!"},
    ]
    assert TASK.conversations(rows, layout, [1, 0], RunSpec(data="x", system="Be kind."), 1) == [
        {"messages": [system, CHAT[0]], "reference": "Ahoy there!"}
    ]
    texts = [{"text": "a text"}]
    assert TASK.conversations(texts, detect(texts), [0], SPEC, 64) == []


def lines(tok: Any, chat: bool = True, **fields: Any) -> dict[str, Any]:
    """The values that the lines give to names, where they are constants."""
    tree = ast.parse(TASK.usage('"owner/base"', RunSpec(data="x", **fields), {}, tok, chat=chat))
    found: dict[str, Any] = {"asked": ast.unparse(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                found[node.targets[0].id] = ast.unparse(node.value)
    return found


def test_the_lines_ask_as_was_trained() -> None:
    chat = lines(tokenizer(), system='Say "é".')
    assert chat["messages"][0] == {"role": "system", "content": 'Say "é".'}
    assert [turn["role"] for turn in chat["messages"]] == ["system", "user"]
    assert "apply_chat_template(messages, add_generation_prompt=True" in chat["inputs"]
    assert "eos_token_id=tokenizer.eos_token_id" in chat["asked"]
    assert "owner/base" in chat["asked"]
    text = lines(tokenizer(), chat=False)
    assert text["inputs"] == "tokenizer('It begins', return_tensors='pt')"
    assert "messages" not in text


def test_where_the_tokenizer_has_no_template_the_turns_are_written_out() -> None:
    tok = tokenizer(None)
    (rendered,) = Renderer(tok).chats([[{"role": "user", "content": "What can you do?"}]], generation=True)
    asked = lines(tok)["inputs"]
    assert asked.startswith("tokenizer(")
    assert ast.literal_eval(ast.parse(asked).body[0].value.args[0]) == rendered[0]  # type: ignore[attr-defined]


def test_an_answer_that_ends_otherwise_than_a_text_ends_there_in_the_lines_too() -> None:
    tok = tokenizer(CHATML, eos_token="</s>")
    assert Renderer(tok).end != tok.eos_token_id
    assert "eos_token_id=tokenizer.convert_tokens_to_ids('<|im_end|>')" in lines(tok)["asked"]


@pytest.mark.parametrize(
    ("metrics", "count"),
    [({}, 2), ({"forgetting": 0.0}, 1), ({"score": 0.0}, 1), ({"forgetting": 0.0, "score": 0.0}, 0)],
)
def test_what_was_not_measured_is_said(metrics: dict[str, Any], count: int) -> None:
    assert len(list(TASK.limits(metrics))) == count
