from __future__ import annotations

import json
from typing import Any

import pytest

from peft_nb.data import RowProblem
from peft_nb.data.conversations import (
    OPENAI,
    SHAREGPT,
    is_written,
    parse_cell,
    read,
    split_pair,
    style,
    unread,
    validated,
)

HELLO = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
SHARED = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]
WEATHER = {"name": "weather", "arguments": {"city": "Kyiv"}}
CALL = {"type": "function", "function": WEATHER}


def openai(*messages: object) -> list[dict[str, Any]]:
    return validated(read(list(messages), OPENAI))


def sharegpt(*messages: tuple[str, object]) -> list[dict[str, Any]]:
    return validated(read([{"from": who, "value": said} for who, said in messages], SHAREGPT))


def refused(action: Any, *arguments: Any) -> RowProblem:
    with pytest.raises(RowProblem) as caught:
        action(*arguments)
    assert "\n" not in str(caught.value)
    return caught.value


# ---- what is read ------------------------------------------------------------------------------


def test_messages_keep_role_and_content_and_pass_on_names() -> None:
    assert openai(*({**message, "id": 7, "weight": None} for message in HELLO)) == HELLO
    assert openai({**HELLO[0], "name": "Ann"}, HELLO[1]) == [{**HELLO[0], "name": "Ann"}, HELLO[1]]


@pytest.mark.parametrize("key", ["weight", "loss", "train", "training", "trainable", "loss_weight", "loss_mask"])
def test_flags_say_whether_an_answer_is_learned(key: str) -> None:
    for off in (0, 0.0, False, "0", "false", "False"):
        assert openai(*HELLO, HELLO[0], {**HELLO[1], key: off})[3]["weight"] == 0
    for on in (1, 1.0, True, "1", "true", None):
        assert openai(HELLO[0], {**HELLO[1], key: on}) == HELLO
    problem = refused(openai, HELLO[0], {**HELLO[1], key: 0.5})
    assert problem.reason == f"message 1 (assistant) has {key} 0.5, and an answer is learned or not"


@pytest.mark.parametrize("key", ["reasoning_content", "thinking", "reasoning"])
def test_reasoning_is_kept(key: str) -> None:
    assert openai(HELLO[0], {**HELLO[1], key: "So be it."})[1] == {**HELLO[1], "reasoning_content": "So be it."}


def test_keys_that_nothing_reads_are_told() -> None:
    odd = {**HELLO[0], "id": 7, "mood": "good"}, {**HELLO[1], "weight": 0, "rating": 4, "extra": None}
    assert list(unread(list(odd))) == [("id", 7), ("mood", "good"), ("rating", 4)]
    assert list(unread([{**HELLO[0], "train": True}, {**HELLO[0], "train": False}])) == [("train", True)]
    assert list(unread("just text")) == []


def test_only_text_with_both_keys_and_known_speakers_is_a_conversation() -> None:
    assert is_written(json.dumps(HELLO))
    assert is_written(str(SHARED))
    assert is_written("Human: a\n\nAssistant: b\n\nHuman: c")
    for text in ('["38", "39"]', "[]", '[{"role": "admin", "rights": 3}]', '[{"role": "chef", "content": "x"}]', "hi"):
        assert not is_written(text)


@pytest.mark.parametrize(
    ("speakers", "role"),
    [
        ("system developer System", "system"),
        ("user human prompter Human", "user"),
        ("assistant gpt chatgpt bot model", "assistant"),
        ("tool function observation function_response", "tool"),
    ],
)
def test_speakers_have_four_roles(speakers: str, role: str) -> None:
    assert {read([{"from": who, "value": "a"}], SHAREGPT)[0]["role"] for who in speakers.split()} == {role}


def test_an_empty_system_message_is_no_message() -> None:
    assert openai({"role": "system", "content": ""}, *HELLO) == HELLO
    assert sharegpt(("system", " "), ("human", "hi"), ("gpt", "yo")) == HELLO


def test_parts_of_text_are_joined() -> None:
    parts = [{"type": "text", "text": "h"}, {"type": "text", "text": "i"}]
    assert openai({"role": "user", "content": parts}, HELLO[1]) == HELLO


def test_numbers_are_text() -> None:
    assert openai(HELLO[0], {"role": "assistant", "content": 42})[1]["content"] == "42"


@pytest.mark.parametrize("write", [json.dumps, repr, lambda messages: f" {json.dumps(messages, indent=1)}\n"])
def test_a_list_may_be_written_as_text(write: Any) -> None:
    assert read(write(HELLO), OPENAI) == HELLO
    assert style(write(SHARED)) == SHAREGPT


@pytest.mark.parametrize(
    "cell", ["[1", "[INST] hi [/INST]", "[" * 10_000, "[__import__('os')]", "Human: 5", "", 7, None]
)
def test_text_that_is_no_list_stays_as_it_is(cell: object) -> None:
    assert parse_cell(cell) == cell
    assert style(cell) is None


def test_a_transcript_is_a_conversation() -> None:
    cell = "\n\nHuman: hi\n\nHow are you?\n\nAssistant: yo\n\nHuman: bye\n\nAssistant: ciao"
    turns = [("user", "hi\n\nHow are you?"), ("assistant", "yo"), ("user", "bye"), ("assistant", "ciao")]
    assert [(message["role"], message["content"]) for message in read(cell, SHAREGPT)] == turns
    assert read("\n\nHuman: hi\n\nAssistant:", SHAREGPT) == HELLO[:1]


# ---- tools -------------------------------------------------------------------------------------


def test_calls_of_tools_and_their_results_are_kept() -> None:
    written = {**WEATHER, "arguments": json.dumps(WEATHER["arguments"])}
    call = {"role": "assistant", "content": None, "tool_calls": [{**CALL, "id": "1", "function": written}]}
    result = {"role": "tool", "tool_call_id": "1", "content": ""}
    assert openai(HELLO[0], call, result, HELLO[1]) == [
        HELLO[0],
        {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "1"}]},
        result,
        HELLO[1],
    ]


@pytest.mark.parametrize(
    "call",
    [
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [WEATHER]},
        {"role": "assistant", "content": None, "tool_calls": json.dumps([CALL])},
        {"role": "assistant", "content": None, "tool_calls": None, "function_call": WEATHER},
        {"from": "function_call", "value": json.dumps(WEATHER)},
        {"from": "function_call", "value": json.dumps([WEATHER])},
    ],
)
def test_every_way_to_write_a_call_is_one(call: dict[str, Any]) -> None:
    keys = OPENAI if "role" in call else SHAREGPT
    assert read([call], keys) == [{"role": "assistant", "content": "", "tool_calls": [CALL]}]


def test_a_call_without_arguments() -> None:
    (message,) = read([{"role": "assistant", "tool_calls": [{"function": {"name": "now", "arguments": ""}}]}], OPENAI)
    assert message["tool_calls"][0]["function"] == {"name": "now", "arguments": {}}


@pytest.mark.parametrize(
    "call",
    [
        {"role": "assistant", "content": None, "tool_calls": ["weather"]},
        {"role": "assistant", "content": None, "tool_calls": [{"arguments": {}}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "weather", "arguments": "{city"}]},
        {"role": "assistant", "content": None, "tool_calls": [{"name": "weather", "arguments": "5"}]},
        {"from": "function_call", "value": "weather in Kyiv"},
    ],
)
def test_a_call_that_cannot_be_read_is_refused(call: dict[str, Any]) -> None:
    problem = refused(read, [call], OPENAI if "role" in call else SHAREGPT)
    assert "has a tool call that cannot be read" in problem.reason
    assert '{"name": …, "arguments": {…}}' in problem.fix


# ---- what is refused ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hi", "holds a str, not a list of messages"),
        (5, "holds a int, not a list of messages"),
        ([], "does not begin with a user message"),
        (["hi", "yo"], "message 0 is not a dict with 'role' and 'content'"),
        ([HELLO[0], None], "message 1 is not a dict with 'role' and 'content'"),
        ([{"role": "user"}], "message 0 is not a dict with 'role' and 'content'"),
        ([{"role": None, "content": "a"}], "message 0 is not a dict with 'role' and 'content'"),
        ([{"role": "asistant", "content": "a"}], "message 0 has the role 'asistant'; did you mean 'assistant'?"),
        ([{"role": 3, "content": "a"}], "message 0 has the role 3"),
        ([HELLO[0], {"role": "assistant", "content": ""}], "message 1 (assistant) is empty"),
        ([HELLO[0], {"role": "assistant", "content": None, "tool_calls": []}], "message 1 (assistant) is empty"),
        ([HELLO[0], {"role": "assistant", "content": [1]}], "message 1 (assistant) holds a list, not text"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "message 0 (user) holds 'image_url', not text"),
        ([HELLO[0]], "would train nothing: no message is the assistant's"),
        (HELLO[::-1], "does not begin with a user message"),
        ([*HELLO, {"role": "system", "content": "s"}], "has a system message that is not the first"),
        ([HELLO[0], {"role": "tool", "content": "5"}, HELLO[1]], "message 1 (tool) does not follow the assistant"),
    ],
)
def test_malformed_conversations_are_refused(messages: object, reason: str) -> None:
    assert reason in refused(lambda: validated(read(messages, OPENAI))).reason


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([{"from": "human"}], "message 0 is not a dict with 'from' and 'value'"),
        ([SHARED[0], {"from": "gpt", "value": ""}], "message 1 (gpt) is empty"),
        ([{"from": "humman", "value": "hi"}], "message 0 has the role 'humman'; did you mean 'human'?"),
        (SHARED[::-1], "does not begin with a user message"),
    ],
)
def test_malformed_sharegpt_is_refused(messages: object, reason: str) -> None:
    assert reason in refused(lambda: validated(read(messages, SHAREGPT))).reason


def test_the_other_style_is_named() -> None:
    assert refused(read, SHARED, OPENAI).fix == "set format='sharegpt'"
    assert refused(read, HELLO, SHAREGPT).fix == "set format='messages'"


# ---- pairs -------------------------------------------------------------------------------------

WORSE = {"role": "assistant", "content": "no"}


def test_a_pair_is_a_prompt_and_two_answers() -> None:
    assert split_pair(HELLO[:1], HELLO[1:], [WORSE]) == (HELLO[:1], HELLO[1:], [WORSE])


def test_conversations_share_their_prompt() -> None:
    longer = [*HELLO, {"role": "user", "content": "bye"}]
    assert split_pair([], [*longer, HELLO[1]], [*longer, WORSE]) == (longer, HELLO[1:], [WORSE])
    system = {"role": "system", "content": "Be kind."}
    assert split_pair([system, HELLO[0]], HELLO, [HELLO[0], WORSE])[0] == [system, HELLO[0]]
    assert split_pair([system], [system, *HELLO], [system, HELLO[0], WORSE])[0] == [system, HELLO[0]]


@pytest.mark.parametrize(
    ("prompt", "chosen", "rejected", "reason"),
    [
        (HELLO[:1], HELLO[1:], HELLO[1:], "chosen and rejected are the same"),
        ([], HELLO[1:], [WORSE], "has no prompt"),
        ([{"role": "user", "content": "else"}], HELLO, [HELLO[0], WORSE], "the prompt is not how chosen and rejected"),
        ([], HELLO, [{"role": "user", "content": "ho"}, WORSE], "chosen has no answer of its own"),
        ([], [*HELLO, *HELLO], HELLO, "chosen has no answer of its own"),
        ([], HELLO, HELLO[:1], "rejected has no answer of its own"),
        (HELLO[:1], [], [WORSE], "chosen has no answer of its own"),
        (HELLO[1:], HELLO[1:], [WORSE], "does not begin with a user message"),
    ],
)
def test_pairs_that_compare_nothing_are_refused(prompt: Any, chosen: Any, rejected: Any, reason: str) -> None:
    assert reason in refused(split_pair, prompt, chosen, rejected).reason


def test_an_answer_of_weight_0_is_kept_and_not_learned() -> None:
    said = openai({**HELLO[0]}, {**HELLO[1], "weight": 0}, {**HELLO[0]}, {**HELLO[1], "weight": 1})
    assert [message.get("weight") for message in said] == [None, 0, None, None]
    problem = refused(openai, HELLO[0], {**HELLO[1], "weight": 0})
    assert problem.reason == "would train nothing: every answer is marked as not learned"
