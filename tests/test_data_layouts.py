"""What rows become, in the layouts of real data sets: each a few hand-made rows with their columns."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_nb.data import RowProblem, detection, layouts
from peft_nb.data.detection import detect
from peft_nb.data.layouts import Layout, LayoutType
from peft_nb.data.sources import read
from peft_nb.errors import DataError
from peft_nb.spec.names import NAMES
from peft_nb.tasks import for_kind
from tests.images import drawing
from tests.speech import sound

Row = dict[str, Any]


def layout(**options: Any) -> Layout:
    """Recognise rows as they come from a list of dicts, every one with all columns."""
    return detect(read(options.pop("rows")).train, **options)


def turns(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in messages]


def hello(*keys: str, user: str = "user", assistant: str = "assistant") -> list[dict[str, str]]:
    who, what = keys or ("role", "content")
    return [{who: user, what: "hi"}, {who: assistant, what: "yo"}]


HI_YO = [("user", "hi"), ("assistant", "yo")]
SHAREGPT = hello("from", "value", user="human", assistant="gpt")
TOOLS = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": "Weather in Kyiv?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kyiv"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "1", "content": "4 °C"},
    {"role": "assistant", "content": "4 °C."},
]
TOOL_TURNS = [
    ("system", "Be brief."),
    ("user", "Weather in Kyiv?"),
    ("assistant", ""),
    ("tool", "4 °C"),
    ("assistant", "4 °C."),
]
GLAIVE = [
    {"from": "system", "value": ""},
    {"from": "human", "value": "2+2?"},
    {"from": "function_call", "value": '{"name": "add", "arguments": {"a": 2, "b": 2}}'},
    {"from": "observation", "value": "4"},
    {"from": "gpt", "value": "4."},
]
SQUAD = {"id": "1", "title": "T", "context": "Kyiv is in Ukraine.", "question": "Where is Kyiv?"}
ALPACA = {"instruction": "Add.", "input": "1 2", "output": "3"}
HH = "\n\nHuman: hi\n\nAssistant: "
LAYOUTS: dict[str, tuple[list[Row], str, Any]] = {
    "OpenAI fine-tuning jsonl": ([{"messages": hello()}], "messages", HI_YO),
    "OpenAI fine-tuning with tools": ([{"messages": TOOLS, "tools": []}], "messages", TOOL_TURNS),
    "OpenAI rows in a csv file": ([{"messages": json.dumps(hello())}], "messages", HI_YO),
    "a DataFrame of messages saved by to_csv": ([{"messages": str(hello())}], "messages", HI_YO),
    "UltraChat 200k": ([{"prompt": "hi", "prompt_id": "x", "messages": hello()}], "messages", HI_YO),
    "LMSYS-Chat-1M": ([{"conversation_id": "x", "model": "m", "conversation": hello(), "turn": 1}], "messages", HI_YO),
    "OpenAssistant threads": ([{"messages": hello(user="prompter"), "lang": "en"}], "messages", HI_YO),
    "ShareGPT, Vicuna": ([{"id": "x", "conversations": SHAREGPT}], "sharegpt", HI_YO),
    "ShareGPT under the name messages": ([{"messages": SHAREGPT}], "sharegpt", HI_YO),
    "ToolACE": ([{"system": "s", "conversations": SHAREGPT}], "sharegpt", [("system", "s"), *HI_YO]),
    "Glaive function calling": (
        [{"conversations": GLAIVE, "tools": "[]"}],
        "sharegpt",
        [("user", "2+2?"), ("assistant", ""), ("tool", "4"), ("assistant", "4.")],
    ),
    "Alpaca": ([ALPACA, {**ALPACA, "input": ""}], "instruction", [("user", "Add.\n\n1 2"), ("assistant", "3")]),
    "Alpaca, empty input": ([{**ALPACA, "input": ""}], "instruction", [("user", "Add."), ("assistant", "3")]),
    "Dolly 15k": (
        [{"instruction": "Who?", "context": "", "response": "I.", "category": "open_qa"}],
        "instruction",
        [("user", "Who?"), ("assistant", "I.")],
    ),
    "Bitext customer support": (
        [{"flags": "B", "instruction": "hi", "category": "ORDER", "intent": "cancel", "response": "yo"}],
        "instruction",
        HI_YO,
    ),
    "GSM8K": (
        [{"question": "6·7?", "answer": "#### 42"}],
        "question_answer",
        [("user", "6·7?"), ("assistant", "#### 42")],
    ),
    "OpenOrca": (
        [{"id": "1", "system_prompt": "s", "question": "hi", "response": "yo"}],
        "question_answer",
        [("system", "s"), *HI_YO],
    ),
    "SQuAD": (
        [{**SQUAD, "answers": {"text": ["Ukraine", "In Ukraine"], "answer_start": [11, 8]}}],
        "question_answer",
        [("user", "Kyiv is in Ukraine.\n\nWhere is Kyiv?"), ("assistant", "Ukraine")],
    ),
    "Natural Questions": ([{"question": "hi", "answer": ["yo", "hey"]}], "question_answer", HI_YO),
    "a FAQ with its source": ([{"question": "hi", "answer": "yo", "source": "https://"}], "question_answer", HI_YO),
    "TRL prompt-completion": ([{"prompt": "hi", "completion": "yo"}], "prompt_completion", HI_YO),
    "TRL conversational prompt-completion": (
        [{"prompt": TOOLS[:2], "completion": TOOLS[2:]}],
        "prompt_completion",
        TOOL_TURNS,
    ),
    "XSum": ([{"document": "hi", "summary": "yo", "id": "1"}], "prompt_completion", HI_YO),
    "MetaMathQA": ([{"type": "GSM", "query": "hi", "response": "yo"}], "prompt_completion", HI_YO),
    "plain corpus": ([{"text": "Once upon a time."}], "text", "Once upon a time."),
    "C4": ([{"text": "Once.", "timestamp": "2019", "url": "https://"}], "text", "Once."),
    "OpenAssistant Guanaco": ([{"text": "### Human: hi### Assistant: yo"}], "text", "### Human: hi### Assistant: yo"),
    "Yelp stars as a score": ([{"text": "Fine.", "target": 3.75}], "text", "Fine."),
    "IMDB": ([{"text": "Bad.", "label": 0}], "text_label", ("Bad.", ("0",))),
    "IMDB on Kaggle": ([{"review": "Bad.", "sentiment": "negative"}], "text_label", ("Bad.", ("negative",))),
    "AG News": ([{"text": "Stocks fell.", "label": 2}], "text_label", ("Stocks fell.", ("2",))),
    "SST-2": ([{"sentence": "fine", "label": 1, "idx": 0}], "text_label", ("fine", ("1",))),
    "Amazon polarity": ([{"label": 1, "title": "t", "content": "Good."}], "text_label", ("Good.", ("1",))),
    "Banking77": ([{"text": "Where is my card?", "label": 11}], "text_label", ("Where is my card?", ("11",))),
    "CLINC150": ([{"text": "hi", "intent": "greeting"}], "text_label", ("hi", ("greeting",))),
    "GoEmotions": ([{"text": "ha!", "labels": [1, 17], "id": "x"}], "text_label", ("ha!", ("1", "17"))),
    "GoEmotions in a csv file": (
        [{"text": "ha!", "labels": "['joy', 'love']"}],
        "text_label",
        ("ha!", ("joy", "love")),
    ),
    "support tickets csv": (
        [{"subject": "Card", "body": "Lost it.", "category": " cards "}],
        "text_label",
        ("Lost it.", ("cards",)),
    ),
    "HH-RLHF": ([{"chosen": f"{HH}yo", "rejected": f"{HH}no"}], "preference", ([("user", "hi")], "yo", "no")),
    "Orca DPO pairs": (
        [{"system": "s", "question": "hi", "chosen": "yo", "rejected": "no"}],
        "preference",
        ([("system", "s"), ("user", "hi")], "yo", "no"),
    ),
    "UltraFeedback binarized (TRL)": (
        [{"chosen": hello(), "rejected": [*hello()[:1], {"role": "assistant", "content": "no"}], "score_chosen": 9.0}],
        "preference",
        ([("user", "hi")], "yo", "no"),
    ),
    "TRL conversational preference": (
        [{"prompt": hello()[:1], "chosen": hello()[1:], "rejected": [{"role": "assistant", "content": "no"}]}],
        "preference",
        ([("user", "hi")], "yo", "no"),
    ),
    "HH-RLHF of several turns": (
        [{"chosen": f"{HH}yo\n\nHuman: and?\n\nAssistant: ok", "rejected": f"{HH}yo\n\nHuman: and?\n\nAssistant: no"}],
        "preference",
        ([*HI_YO, ("user", "and?")], "ok", "no"),
    ),
    "LLaMA-Factory, ShareGPT pairs": (
        [{"conversations": SHAREGPT[:1], "chosen": SHAREGPT[1], "rejected": {"from": "gpt", "value": "no"}}],
        "preference",
        ([("user", "hi")], "yo", "no"),
    ),
    "the same with role and content": (
        [{"conversations": hello()[:1], "chosen": hello()[1], "rejected": {"role": "assistant", "content": "no"}}],
        "preference",
        ([("user", "hi")], "yo", "no"),
    ),
    "the same in a csv file": (
        [
            {
                "conversations": str(hello()[:1]),
                "chosen": json.dumps(hello()[1]),
                "rejected": "{'role': 'assistant', 'content': 'no'}",
            }
        ],
        "preference",
        ([("user", "hi")], "yo", "no"),
    ),
    "LLaMA-Factory, Alpaca pairs": (
        [{"instruction": "Add.", "input": "1 2", "chosen": "3", "rejected": "4", "system": "s", "history": []}],
        "preference",
        ([("system", "s"), ("user", "Add.\n\n1 2")], "3", "4"),
    ),
    "OpenAI pairs": (
        [
            {
                "input": {"messages": hello()[:1], "tools": [], "parallel_tool_calls": True},
                "preferred_output": hello()[1:],
                "non_preferred_output": [{"role": "assistant", "content": "no"}],
            }
        ],
        "preference",
        ([("user", "hi")], "yo", "no"),
    ),
    "chosen_messages and rejected_messages": (
        [{"chosen_messages": hello(), "rejected_messages": [*hello()[:1], {"role": "assistant", "content": "no"}]}],
        "preference",
        ([("user", "hi")], "yo", "no"),
    ),
    "UltraFeedback": (
        [
            {
                "source": "evol",
                "instruction": "hi",
                "models": ["a", "b", "c"],
                "completions": [
                    {"model": "a", "response": "so-so", "overall_score": 7.0},
                    {"model": "b", "response": "yo", "overall_score": 8.5},
                    {"model": "c", "response": "no", "overall_score": 2.0},
                    {"model": "d", "response": "lost", "overall_score": None},
                ],
            }
        ],
        "ranked",
        ([("user", "hi")], "yo", "no"),
    ),
    "Nectar": (
        [{"prompt": HH, "answers": [{"answer": "no", "model": "m", "rank": 2.0}, {"answer": "yo", "rank": 1.0}]}],
        "ranked",
        ([("user", "hi")], "yo", "no"),
    ),
    "responses with scores": (
        [{"prompt": "hi", "responses": ["no", "yo", "hm"], "scores": [-1, 0.5, 0]}],
        "ranked",
        ([("user", "hi")], "yo", "no"),
    ),
    "completions with ranks": (
        [{"question": "hi", "completions": ["no", "yo", "hm"], "rankings": [3, 1, 2], "system": "s"}],
        "ranked",
        ([("system", "s"), ("user", "hi")], "yo", "no"),
    ),
    "answers with ratings in a csv file": (
        [{"question": "hi", "answers": "['no', 'yo']", "ratings": "[2.0, 5.0]"}],
        "ranked",
        ([("user", "hi")], "yo", "no"),
    ),
    "responses as messages": (
        [
            {
                "prompt": hello()[:1],
                "responses": [[{"role": "assistant", "content": "no"}], hello()[1:]],
                "rewards": [0, 1],
            }
        ],
        "ranked",
        ([("user", "hi")], "yo", "no"),
    ),
    "KTO of TRL": (
        [{"prompt": "hi", "completion": "yo", "label": True}, {"prompt": "hi", "completion": "no", "label": False}],
        "rated",
        (HI_YO, True),
    ),
    "KTO of LLaMA-Factory, Alpaca": (
        [{**ALPACA, "kto_tag": False}, {**ALPACA, "kto_tag": True}],
        "rated",
        ([("user", "Add.\n\n1 2"), ("assistant", "3")], False),
    ),
    "KTO of LLaMA-Factory, ShareGPT": (
        [{"conversations": SHAREGPT, "kto_tag": True}, {"conversations": SHAREGPT, "kto_tag": False}],
        "rated",
        (HI_YO, True),
    ),
    "a chat log with thumbs": (
        [{"messages": [*hello(), *hello()[:1]], "thumbs": "👎"}, {"messages": hello(), "thumbs": "👍🏽"}],
        "rated",
        (HI_YO, False),
    ),
    "a FAQ that was judged": (
        [
            {"question": "hi", "answer": "yo", "feedback": "thumbs_up"},
            {"question": "a", "answer": "b", "feedback": "Down"},
        ],
        "rated",
        (HI_YO, True),
    ),
}
REFUSED: dict[str, tuple[list[Row], str]] = {
    "Alpaca with its text": (
        [{**ALPACA, "text": "Below is an instruction"}],
        "can be read in 2 ways; say which: format='instruction', columns=",
    ),
    "UltraFeedback binarized with all its splits' columns": (
        [{"prompt": "hi", "messages": hello(), "chosen": hello(), "rejected": hello()}],
        "format='messages', columns={'messages': 'messages'} or format='preference', columns={'prompt': 'prompt', ",
    ),
    "SNLI": ([{"premise": "a", "hypothesis": "b", "label": 1}], "fit no known layout"),
    "one message a row": ([{"conversation_id": 1, "role": "user", "content": "hi"}], "fit no known layout"),
    "support tickets of Kaggle": (
        [{"Ticket Subject": "Card", "Ticket Description": "Lost it.", "Resolution": "Sent."}],
        "format='prompt_completion', columns={'prompt': 'Ticket Subject', 'completion': 'Ticket Description'}",
    ),
}
MALFORMED: dict[str, tuple[Row, str]] = {
    "LIMA, strings for messages": (
        {"conversations": ["hi", "yo"]},
        "message 0 is not a dict with 'role' and 'content'",
    ),
    "a transcript of its own kind": ({"messages": "me: hi, you: yo"}, "holds a str, not a list of messages"),
    "broken JSON in a csv cell": ({"messages": '[{"role": "user", "cont'}, "holds a str, not a list of messages"),
    "from without value": ({"conversations": [{"from": "human"}]}, "message 0 is not a dict with 'from' and 'value'"),
    "ShareGPT that begins with the answer": ({"conversations": SHAREGPT[1:]}, "does not begin with a user message"),
    "an unknown role": ({"messages": hello(assistant="asistant")}, "the role 'asistant'; did you mean 'assistant'?"),
    "an unknown speaker": ({"conversations": hello("from", "value", user="narrator")}, "has the role 'narrator'"),
    "an empty answer": ({"question": "hi", "answer": " "}, "column 'answer' is empty"),
    "SQuAD 2, no answer": ({**SQUAD, "answers": {"text": [], "answer_start": []}}, "column 'answers' holds no answer"),
    "a conversation as the completion": (
        {"prompt": "hi", "completion": hello()},
        "does not begin with the assistant's",
    ),
    "equal answers": ({"prompt": "hi", "chosen": "yo", "rejected": "yo"}, "chosen and rejected are the same"),
    "a prompt that is not that of the conversations": (
        {"prompt": "bye", "chosen": hello(), "rejected": [*hello()[:1], {"role": "assistant", "content": "no"}]},
        "the prompt is not how chosen and rejected begin",
    ),
    "answers that all have one score": (
        {"prompt": "hi", "responses": ["a", "b"], "scores": [1, 1.0]},
        "all answers have the same score, and none is better",
    ),
    "answers of which one has a score": (
        {"prompt": "hi", "responses": ["a", "b"], "scores": [1, None]},
        "has fewer than two answers with a score",
    ),
    "fewer scores than answers": (
        {"prompt": "hi", "responses": ["a", "b", "c"], "scores": [1, 2]},
        "has 3 answers and 2",
    ),
    "a word for a score": (
        {"prompt": "hi", "responses": ["a", "b"], "scores": [1, "ok"]},
        "column 'scores' holds 'ok', not a number",
    ),
    "the best answer says what the worst says": (
        {"prompt": "hi", "responses": ["a", "a"], "scores": [1, 2]},
        "the best answer and the worst are the same",
    ),
    "an answer without its text": (
        {"prompt": "hi", "responses": [{"score": 1}, {"score": 2}]},
        "column 'responses' holds an answer without its text",
    ),
    "answers without a prompt": ({"chosen": "yo", "rejected": "no"}, "has no prompt"),
    "no label": ({"text": "hi", "label": None}, "column 'label' is empty"),
    "an empty text": ({"text": "", "label": 1}, "column 'text' is empty"),
    "a fraction for a label": ({"text": "hi", "label": 0.5}, "column 'label' holds 0.5, not a class"),
    "a dict for a label": ({"text": "hi", "label": {"a": 1}}, "column 'label' holds a dict, not a class"),
    "an empty name among labels": ({"text": "hi", "labels": ["a", ""]}, "column 'labels' holds '', not a class"),
}


def use(found: Layout, row: Row) -> Any:
    if found.kind == "chat":
        return turns(found.messages(row))
    if found.kind == "preference":
        (prompt, *answers), *_ = found.pairs(row)
        return (turns(prompt), *(answer[0]["content"] for answer in answers))
    if found.kind == "rated":
        messages, good = found.rated(row)
        return (turns(messages), good)
    return (found.text(row), found.labels(row)) if found.kind == "labelled" else found.text(row)


@pytest.mark.parametrize(("rows", "name", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_the_layouts_of_real_data_sets(rows: list[Row], name: str, expected: Any) -> None:
    found = layout(rows=rows)
    assert found.name == name
    assert use(found, rows[0]) == expected
    assert "\n" not in found.why


@pytest.mark.parametrize(("rows", "reason"), REFUSED.values(), ids=REFUSED)
def test_real_data_sets_that_need_a_word(rows: list[Row], reason: str) -> None:
    with pytest.raises(DataError) as caught:
        layout(rows=rows)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("row", "reason"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_rows_are_refused_one_by_one(row: Row, reason: str) -> None:
    names = {"label": "text_label", "labels": "text_label"}
    format = next((names[column] for column in row if column in names), "auto")
    with pytest.raises(RowProblem) as caught:
        use(layout(rows=[row], format=format), row)
    assert reason in caught.value.reason
    assert "\n" not in str(caught.value)


# ---- chats -------------------------------------------------------------------------------------


def test_a_system_prompt_of_the_row() -> None:
    found = layout(rows=[{"system": "s", "prompt": "hi", "completion": "yo"}])
    row = {"system": "Be kind.", "prompt": "hi", "completion": "yo"}
    assert turns(found.messages(row)) == [("system", "Be kind."), *HI_YO]
    assert turns(found.messages({**row, "system": None})) == HI_YO
    assert turns(found.messages({**row, "system": " "})) == HI_YO


def test_a_system_message_comes_before_the_column() -> None:
    own = [{"role": "system", "content": "own"}, *hello()]
    row = {"system": "column", "messages": own}
    assert turns(layout(rows=[row]).messages(row)) == [("system", "own"), *HI_YO]


def test_numbers_are_text() -> None:
    row = {"question": "6·7?", "answer": 42}
    assert turns(layout(rows=[row]).messages(row))[1] == ("assistant", "42")


@pytest.mark.parametrize("value", [None, "", " \n"])
def test_an_empty_cell_is_refused(value: object) -> None:
    with pytest.raises(RowProblem, match="column 'completion' is empty"):
        layout(rows=[{"prompt": "a", "completion": "b"}]).messages({"prompt": "a", "completion": value})


@pytest.mark.parametrize(("value", "kind"), [([1], "list"), ([], "list"), ({"a": 1}, "dict")])
def test_a_cell_of_another_kind_is_refused(value: object, kind: str) -> None:
    with pytest.raises(RowProblem, match=f"column 'completion' holds a {kind}, not text"):
        layout(rows=[{"prompt": "a", "completion": "b"}]).messages({"prompt": "a", "completion": value})


def test_text_that_only_looks_like_a_list_is_text() -> None:
    row = {"prompt": "[1, 2]", "completion": '["a"]'}
    assert turns(layout(rows=[row]).messages(row)) == [("user", "[1, 2]"), ("assistant", '["a"]')]


# ---- texts and labels --------------------------------------------------------------------------


def test_texts_are_not_conversations() -> None:
    found = layout(rows=[{"text": "a"}])
    assert (found.kind, found.plain) == ("text", True)
    assert found.text({"text": " Once upon "}) == " Once upon "
    assert layout(rows=[{"text": "a", "label": 1}]).plain
    assert not layout(rows=[{"messages": hello()}]).plain


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("spam", ("spam",)),
        (3, ("3",)),
        (3.0, ("3",)),
        ("3", ("3",)),
        (True, ("True",)),
        (["b", "a", "b"], ("b", "a")),
        ([2, 0], ("2", "0")),
        ([], ()),
        ("[1, 2]", ("1", "2")),
        ("[other]", ("[other]",)),
    ],
)
def test_labels_are_names(cell: object, labels: tuple[str, ...]) -> None:
    assert layout(rows=[{"text": "a", "label": cell}]).labels({"text": "a", "label": cell}) == labels


def test_whole_numbers_survive_pandas() -> None:
    import pandas

    frame = pandas.DataFrame({"text": ["a", "b", "c"], "label": [0, None, 2]})
    rows = read(frame).train
    found = detect(rows)
    assert [found.labels(rows[i]) for i in (0, 2)] == [("0",), ("2",)]
    with pytest.raises(RowProblem, match="column 'label' is empty"):
        found.labels(rows[1])


# ---- pairs -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("HH-RLHF", "format='sharegpt', columns={'messages': 'chosen'}"),
        ("UltraFeedback binarized (TRL)", "format='messages', columns={'messages': 'chosen'}"),
        (
            "Orca DPO pairs",
            "format='prompt_completion', columns={'prompt': 'question', 'system': 'system', 'completion': 'chosen'}",
        ),
        (
            "TRL conversational preference",
            "format='prompt_completion', columns={'prompt': 'prompt', 'completion': 'chosen'}",
        ),
    ],
)
def test_chosen_answers_can_be_trained_on_alone(name: str, advice: str) -> None:
    (row, *_), _, (prompt, chosen, _) = LAYOUTS[name]
    found = layout(rows=[row])
    assert found.alone(row) == f"to train on the chosen answers alone, set {advice}"
    said = eval(f"dict({advice})")
    assert turns(layout(rows=[row], **said).messages(row)) == [*prompt, ("assistant", chosen)]
    assert turns(found.messages(row)) == [*prompt, ("assistant", chosen)]


def test_all_rated_answers_can_be_trained_on_alike() -> None:
    rows, _, (conversation, _) = LAYOUTS["KTO of LLaMA-Factory, ShareGPT"]
    advice = "format='sharegpt', columns={'messages': 'conversations'}"
    assert layout(rows=rows).alone(rows[0]) == f"to train on all answers alike, set {advice}"
    told = layout(rows=rows, **eval(f"dict({advice})"))
    assert (told.kind, turns(told.messages(rows[0]))) == ("chat", conversation)
    assert layout(rows=[LAYOUTS["Nectar"][0][0]]).alone({}) == ""


def said(pairs: list[layouts.Pair]) -> list[tuple[str, str]]:
    return [(chosen[0]["content"], rejected[0]["content"]) for _, chosen, rejected in pairs]


def test_pairs_have_the_rows_tools_and_system_prompt() -> None:
    call = {"role": "assistant", "content": "", "tool_calls": TOOLS[2]["tool_calls"]}
    row = {"prompt": "Weather?", "chosen": [call, *TOOLS[3:]], "rejected": "Cold.", "tools": [TOOL], "system": "s"}
    ((prompt, chosen, rejected),) = layout(rows=[row]).pairs(row)
    assert turns(prompt) == [("system", "s"), ("user", "Weather?")]
    assert [turn.get("tools") for turn in prompt] == [[TOOL], None]
    assert turns(chosen) == TOOL_TURNS[2:]
    assert turns(rejected) == [("assistant", "Cold.")]
    whole = {"chosen": [*hello()[:1], call, *TOOLS[3:]], "rejected": hello(), "functions": json.dumps([TOOL])}
    ((prompt, *_),) = layout(rows=[whole]).pairs(whole)
    assert prompt == [{"role": "user", "content": "hi", "tools": [TOOL]}]
    openai = {"input": {"messages": hello()[:1], "tools": [TOOL]}, "chosen": "yo", "rejected": "no", "system": "s"}
    ((prompt, *_),) = layout(rows=[openai]).pairs(openai)
    assert prompt == [{"role": "system", "content": "s", "tools": [TOOL]}, {"role": "user", "content": "hi"}]


def test_context_and_input_stand_around_the_question_of_a_pair() -> None:
    row = {"prompt": "Where?", "context": "Oslo.", "input": "A city", "chosen": "a", "rejected": "b"}
    ((prompt, *_),) = layout(rows=[row]).pairs(row)
    assert turns(prompt) == [("user", "Oslo.\n\nWhere?\n\nA city")]
    bare = {"context": "Where?", "chosen": "a", "rejected": "b", "history": [["Hello?", "Yes."]]}
    ((prompt, *_),) = layout(rows=[bare]).pairs(bare)
    assert turns(prompt) == [("user", "Hello?"), ("assistant", "Yes."), ("user", "Where?")]
    whole = {"context": "Where?", "chosen": hello(), "rejected": hello()[:1] + TOOLS[-1:]}
    with pytest.raises(RowProblem, match="the prompt is not how chosen and rejected begin"):
        layout(rows=[whole]).pairs(whole)


def test_answers_that_are_json_stay_text() -> None:
    row = {"prompt": "hi", "chosen": '{"role": "admin", "content": 1}', "rejected": "[1, 2]"}
    assert said(layout(rows=[row]).pairs(row)) == [(row["chosen"], row["rejected"])]


# ---- rated answers -----------------------------------------------------------------------------


def test_a_rated_answer_ends_its_conversation() -> None:
    rows = [{"messages": [*hello(), *TOOLS[1:], {"role": "user", "content": "thanks"}], "good": "yes"}, {"good": "no"}]
    messages, good = layout(rows=rows).rated(rows[0])
    assert (turns(messages), good) == ([*HI_YO, *TOOL_TURNS[1:]], True)


def test_a_rating_that_says_nothing_is_refused_row_by_row() -> None:
    rows = [{"prompt": "hi", "completion": "yo", "label": cell} for cell in (True, False, "maybe", None)]
    found = layout(rows=rows[:2])
    assert [found.rated(row)[1] for row in rows[:2]] == [True, False]
    with pytest.raises(RowProblem, match="^column 'label' holds 'maybe', which says neither good nor bad; write true"):
        found.rated(rows[2])
    with pytest.raises(RowProblem, match="^column 'label' is empty"):
        found.rated(rows[3])


# ---- anything at all ---------------------------------------------------------------------------

KEYS = ["role", "content", "from", "value", "tool_calls", "name", "arguments", "type", "text"]
WORDS = ["", "hi\n", "user", "gpt", "function_call", '[{"role"', "\n\nHuman: hi\n\nAssistant: "]
CELLS = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.sampled_from(WORDS),
    lambda cells: st.lists(cells, max_size=3) | st.dictionaries(st.sampled_from(KEYS), cells) | cells.map(repr),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(list(layouts.LAYOUTS.values())), st.data())
def test_whatever_cells_hold_a_row_is_read_or_refused_in_one_line(entry: LayoutType, data: st.DataObject) -> None:
    row = {role.name: data.draw(CELLS) for role in entry.roles}
    refusals = []
    try:
        use(layout(rows=[row], format=entry.name), row)
    except DataError as refusal:
        refusals.append(str(refusal))
    assert "\n" not in "".join(refusals)


def test_a_registered_layout_is_recognised_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    riddle = LayoutType("riddle", (layouts.Role("riddle"),), lambda cells: cells["riddle"], "text")
    monkeypatch.setitem(NAMES, "format", dict(NAMES["format"]))
    monkeypatch.setattr(layouts, "LAYOUTS", dict(layouts.LAYOUTS))
    monkeypatch.setattr(detection, "LAYOUTS", layouts.LAYOUTS)
    layouts.register(riddle)
    rows = [{"riddle": "What has keys and opens nothing?"}]
    found = detection.detect(rows)
    assert (found.name, found.plain, found.text(rows[0])) == ("riddle", True, rows[0]["riddle"])
    with pytest.raises(ValueError, match="^there is a layout 'riddle' already"):
        layouts.register(LayoutType("riddle", (), str))


# ---- nothing that could change what is learned goes unnamed -----------------------------------------

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {}}}
EXTRA_COLUMNS: dict[str, Any] = {
    "system": "Be brief.",
    "system_prompt": "Be brief.",
    "tools": [TOOL],
    "functions": json.dumps([TOOL["function"]]),
    "choices": ["Oslo", "Rome"],
    "options": {"A": "Oslo", "B": "Rome"},
    "history": [["Hello?", "Yes."]],
    "chat_history": "Hello there, I am back again.",
    "images": ["a.jpg"],
    "image": {"bytes": b"1", "path": None},
    "audio": {"array": [0.5], "sampling_rate": 8000},
    "video": "a.mp4",
    "weight": 0.5,
    "loss_mask": [0, 1],
    "rating": 4,
    "score": 0.25,
    "good": True,
    "label": "good",
    "feedback": "no",
    "reasoning": "Two and two are four.",
    "thinking": "Hm.",
    "rationale": "It is so.",
    "context": "Rome",
    "explanation": "Because it was said so before.",
    "title": "A way to say hello",
    "turns": [{"a": 1}],
    "schema": {"a": 1},
    "id": 7,
    "topic": "hello",
    "source": "mails",
    "metadata": {"a": 1},
    "Unnamed: 0": 0,
    "": 0,
    "__index_level_0__": 0,
}
MESSAGE_KEYS: dict[str, Any] = {
    "name": "Ann",
    "tool_call_id": "c1",
    "reasoning_content": "Two and two.",
    "thinking": "Two and two.",
    "weight": 0,
    "loss": False,
    "train": False,
    "training": "false",
    "trainable": 0,
    "loss_weight": 0.0,
    "loss_mask": 0,
    "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Kyiv"}}}],
    "rating": 4,
    "good": True,
    "citations": ["a"],
    "images": ["a.jpg"],
    "refusal": "No.",
    "emotion": "joy",
    "id": 7,
    "timestamp": 1.5,
}
TALK = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
SOUND = {"array": sound("low"), "sampling_rate": 16_000}
SAMPLES = ("hi there", TALK, SHAREGPT, True, drawing("cross", 1), SOUND)
SCORED = {"responses": ["yo", "no"], "scores": [1, 0]}


def example(entry: LayoutType) -> Row:
    """A row of a layout, by trying for each role what its kind of cell could be."""
    row: Row = {}
    for role in entry.roles:
        if role.required:
            able = [cell for cell in SAMPLES if role.looks(cell) and not problem(role.parse, cell)]
            row[role.name] = f"{able[0]} {role.name}" if isinstance(able[0], str) else able[0]
    if entry.kind == "preference":
        row |= {"prompt": "hi there"} | (SCORED if "responses" in row else {})
    return row


def problem(parse: Any, cell: Any) -> bool:
    try:
        parse(cell)
    except RowProblem:
        return True
    return False


def becomes(found: Layout, row: Row) -> Any:
    if found.kind == "preference":
        return found.pairs(row)
    if found.kind == "rated":
        return found.rated(row)
    if found.kind == "audio":
        return found.spoken(row)
    if found.kind == "captioned":
        return found.text(row), found.caption(row)
    return (found.text(row), found.kind != "text" and found.labels(row)) if found.plain else found.messages(row)


def named(found: Layout, rows: list[Row]) -> str:
    return " ".join([found.why, *(finding.title for finding in for_kind(found.kind).check(rows, found).findings)])


@pytest.mark.parametrize("column", EXTRA_COLUMNS)
@pytest.mark.parametrize("name", list(layouts.LAYOUTS))
def test_every_column_that_people_have_is_used_or_named(name: str, column: str) -> None:
    bare = example(layouts.LAYOUTS[name])
    row = {column: EXTRA_COLUMNS[column], **bare}
    found = layout(rows=[row, row], format=name, columns={role: role for role in bare})
    used = becomes(found, row) != becomes(layout(rows=[bare], format=name), bare)
    assert column in bare or (used and column in found.columns.values()) or (column or repr("")) in named(found, [row])
    if column in ("", "Unnamed: 0", "__index_level_0__"):
        assert not used
        assert f"the row index {column!r}" in found.why


CONVERSATIONS = [name for name in layouts.LAYOUTS if isinstance(example(layouts.LAYOUTS[name]).get("messages"), list)]


@pytest.mark.parametrize("key", MESSAGE_KEYS)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_every_key_of_a_message_that_people_have_is_used_or_named(name: str, key: str) -> None:
    bare = example(layouts.LAYOUTS[name])
    asked, answer = bare["messages"]
    row = {"messages": [asked, answer, asked, {**answer, key: MESSAGE_KEYS[key]}]}
    found = layout(rows=[row], format=name)
    used = becomes(found, row) != becomes(found, {"messages": [asked, answer] * 2})
    assert used or key in named(found, [row])
    row = {"messages": [{**asked, key: MESSAGE_KEYS[key]}, answer]}
    said = key in ("weight", "loss", "train", "training", "trainable", "loss_weight", "loss_mask")  # none of a question
    assert said or becomes(found, row) != becomes(found, bare) or key in named(found, [row])


def test_tools_choices_and_history_become_part_of_the_conversation() -> None:
    row = {
        "question": "Which is the capital?",
        "choices": {"text": ["Rome", "Oslo"], "label": ["A", "B"]},
        "answerKey": "B",
        "history": [["Norway?", "A country."]],
        "tools": json.dumps([TOOL["function"]]),
        "system": "Be brief.",
    }
    told = layout(rows=[row]).messages(row)
    assert turns(told) == [
        ("system", "Be brief."),
        ("user", "Norway?"),
        ("assistant", "A country."),
        ("user", "Which is the capital?\n\nA. Rome\nB. Oslo"),
        ("assistant", "B"),
    ]
    assert [message.get("tools") for message in told] == [[TOOL], None, None, None, None]


def test_the_number_of_a_choice_counts_from_0_and_that_is_said() -> None:
    rows = [{"question": "Which?", "choices": ["Rome", "Oslo"], "answer": number} for number in (1, 0)]
    found = layout(rows=rows)
    assert [found.messages(row)[-1]["content"] for row in rows] == ["B", "A"]
    assert "2 rows whose answer is the number of a choice, taken to count from 0" in named(found, rows)
    with pytest.raises(RowProblem, match="the answer 2 is none of 2 choices; count them from 0"):
        found.messages({**rows[0], "answer": 2})
    kept = {"question": "Which?", "choices": ["3", "5"], "answer": "5"}
    assert found.messages(kept)[-1]["content"] == "5"


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        ({"answer": "B"}, ["A", "B"]),
        ({"answer": 0}, ["A", "B"]),
        ({"answer": "Oslo"}, ["Rome", "Oslo"]),
        ({"answer": "Oslo", "choices": ["Oslo", " Rome "]}, ["Oslo", "Rome"]),
        ({"answer": "Paris"}, []),
        ({"answer": "B", "choices": "A. Rome or B. Oslo"}, []),
        ({"answer": "B", "choices": None}, []),
    ],
    ids=str,
)
def test_what_could_be_answered_is_written_as_the_answer_is(cells: dict[str, Any], options: list[str]) -> None:
    row = {"question": "Which?", "choices": ["Rome", "Oslo"], "answer": "A"}
    assert layout(rows=[row]).options(row | cells) == options
    assert layout(rows=[bare := {"question": "Which?", "answer": "A"}]).options(bare) == []


@pytest.mark.parametrize("cell", ['["38", "39"]', "[]", '[{"a": 1}, {"b": 2}]', "['a' 'b']", '{"text": ["x"]}'])
@pytest.mark.parametrize("name", ["answer", "output", "completion", "reply"])
def test_text_stays_text(name: str, cell: str) -> None:
    row = {
        "question" if name == "answer" else "prompt" if name in ("completion", "reply") else "instruction": "?",
        name: cell,
    }
    assert layout(rows=[row]).messages(row)[-1]["content"] == cell


@pytest.mark.parametrize(
    "cell",
    [
        ["Oslo", "Oslo, Norway"],
        '["Oslo", "Oslo, Norway"]',
        "['Oslo' 'Oslo, Norway']",
        {"text": ["Oslo"], "answer_start": [3]},
        "{'text': array(['Oslo'], dtype=object), 'answer_start': array([3], dtype=int32)}",
    ],
)
def test_of_several_answers_the_first_is_learned_also_from_a_csv_cell(cell: Any) -> None:
    row = {"question": "Capital?", "answers": cell}
    assert layout(rows=[row]).messages(row)[-1]["content"] == "Oslo"


def test_labels_that_numpy_printed_are_told_apart_or_refused() -> None:
    rows = [{"text": "a b", "label": "['sad' 'angry']"}, {"text": "c d", "label": "[0 2]"}]
    found = layout(rows=rows)
    assert [found.labels(row) for row in rows] == [("sad", "angry"), ("0", "2")]
    with pytest.raises(RowProblem, match="a list that numpy printed without its middle"):
        found.labels({"text": "a", "label": "['a' 'b' ... 'y' 'z']"})
