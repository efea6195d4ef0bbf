from __future__ import annotations

from typing import get_args

import pytest

from peft_nb.data import RowProblem, refusal
from peft_nb.data.formats import FORMATS, Layout, detect
from peft_nb.data.sources import read
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec

HELLO = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]


def table(*columns: str) -> list[dict[str, str]]:
    return [dict.fromkeys(columns, "x")]


def refused(*columns: str, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        detect(table(*columns), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def turns(layout: Layout, row: dict[str, object]) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in layout.messages(row)]


def test_every_layout_can_be_named_in_a_spec() -> None:
    assert set(get_args(RunSpec.model_fields["format"].annotation)) == {"auto", *FORMATS}


@pytest.mark.parametrize(
    ("columns", "name", "used"),
    [
        ("prompt completion", "prompt_completion", "prompt=prompt completion=completion"),
        ("prompt response", "prompt_completion", "prompt=prompt completion=response"),
        ("input output", "prompt_completion", "prompt=input completion=output"),
        ("question answer topic", "question_answer", "question=question answer=answer"),
        ("Question Answer", "question_answer", "question=Question answer=Answer"),
        ("system_prompt q a", "question_answer", "question=q answer=a system=system_prompt"),
        ("instruction output", "instruction", "instruction=instruction output=output"),
        ("instruction input output", "instruction", "instruction=instruction input=input output=output"),
        (
            "instruction context response category",
            "instruction",
            "instruction=instruction input=context output=response",
        ),
        ("prompt prompt_id messages", "messages", "messages=messages"),
        ("text label", "text", "text=text"),
    ],
)
def test_layouts_are_recognised_by_their_columns(columns: str, name: str, used: str) -> None:
    layout = detect(table(*columns.split()))
    assert layout.name == name
    assert layout.columns == dict(pair.split("=") for pair in used.split())


def test_why_says_what_was_used_and_what_was_not() -> None:
    assert detect(table("question", "answer")).why == "columns question, answer → question_answer"
    why = detect(table("topic", "question", "answer")).why
    assert why == "columns question, answer → question_answer (not used: topic)"


def test_a_column_that_only_later_rows_have_is_seen() -> None:
    rows = [{"instruction": "a", "output": "b"}] * 2000 + [{"instruction": "a", "input": "c", "output": "b"}]
    assert "input" in detect(rows).columns
    assert "input" in detect(read(rows).train).columns


# ---- saying what is meant ----------------------------------------------------------------------


def test_columns_name_the_roles() -> None:
    layout = detect(table("ask", "answer"), columns={"prompt": "ask"})
    assert (layout.name, layout.columns) == ("prompt_completion", {"prompt": "ask", "completion": "answer"})
    layout = detect(table("frage", "antwort"), columns={"question": "frage", "answer": "antwort"})
    assert layout.name == "question_answer"


def test_a_column_that_was_given_a_role_is_not_taken_for_another() -> None:
    layout = detect(table("answer", "response", "q"), columns={"question": "answer", "answer": "response"})
    assert layout.columns == {"question": "answer", "answer": "response"}


def test_format_chooses_among_readings() -> None:
    columns = ("instruction", "input", "output", "text")
    message = refused(*columns)
    assert "can be read in 2 ways" in message
    assert "format='instruction', columns={'instruction': 'instruction'" in message
    assert "format='text', columns={'text': 'text'}" in message
    assert detect(table(*columns), format="instruction").name == "instruction"
    assert detect(table(*columns), format="text").plain


def test_two_columns_for_one_role_are_ambiguous_unless_one_has_its_very_name() -> None:
    message = refused("prompt", "response", "output")
    assert "'completion': 'response'" in message
    assert "'completion': 'output'" in message
    assert detect(table("prompt", "response", "completion")).columns["completion"] == "completion"


def test_questions_with_messages_are_ambiguous() -> None:
    assert "can be read in 2 ways" in refused("question", "answer", "messages")


@pytest.mark.parametrize(
    ("columns", "options", "expected"),
    [
        (
            "frage antwort",
            {},
            "columns 'frage', 'antwort' fit no known layout; say which column is which, such as "
            "format='prompt_completion', columns={'prompt': 'frage', 'completion': 'antwort'}",
        ),
        ("body", {}, "such as format='text', columns={'text': 'body'}"),
        ("prompt chosen rejected", {}, "fit no known layout"),
        ("a b", {"format": "question_answer"}, "do not fit question_answer, which needs question, answer"),
        ("a b", {"format": "qustion_answer"}, "did you mean 'question_answer'?"),
        ("a b", {"columns": {"promt": "a"}}, "'promt' is not a role; did you mean 'prompt'?"),
        ("ask b", {"columns": {"prompt": "aks"}}, "no column 'aks' for prompt; did you mean 'ask'?"),
        ("ask b", {"columns": {"prompt": "zzz"}}, "no column 'zzz' for prompt; there are 'ask', 'b'"),
        ("a b", {"columns": {"prompt": "a", "text": "b"}}, "fit no known layout"),
        ("a b", {"format": "text", "columns": {"prompt": "a"}}, "'prompt' is not a role"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_way_to_say_it(
    columns: str, options: dict[str, object], expected: str
) -> None:
    assert expected in refused(*columns.split(), **options)


def test_rows_without_columns_are_refused() -> None:
    with pytest.raises(DataError, match="columns none fit no known layout"):
        detect([{}])


# ---- rows --------------------------------------------------------------------------------------


def test_rows_become_conversations() -> None:
    layout = detect(table("system", "prompt", "completion"))
    row = {"system": "Be kind.", "prompt": "hi", "completion": "yo"}
    assert turns(layout, row) == [("system", "Be kind."), ("user", "hi"), ("assistant", "yo")]
    assert turns(layout, {**row, "system": None}) == [("user", "hi"), ("assistant", "yo")]
    assert turns(layout, {**row, "system": " "}) == [("user", "hi"), ("assistant", "yo")]


def test_an_instruction_comes_with_its_input() -> None:
    layout = detect(table("instruction", "input", "output"))
    assert turns(layout, {"instruction": "Add.", "input": "1 2", "output": "3"})[0] == ("user", "Add.\n\n1 2")
    assert turns(layout, {"instruction": "Add.", "input": "", "output": "3"})[0] == ("user", "Add.")


def test_messages_keep_role_and_content_only() -> None:
    layout = detect(table("messages"))
    assert layout.messages({"messages": [{**message, "name": "x"} for message in HELLO]}) == HELLO


def test_texts_are_not_conversations() -> None:
    layout = detect(table("text"))
    assert layout.plain
    assert layout.text({"text": " Once upon "}) == " Once upon "
    assert not detect(table("messages")).plain


def test_numbers_are_text() -> None:
    assert turns(detect(table("question", "answer")), {"question": "6·7?", "answer": 42})[1] == (
        "assistant",
        "42",
    )


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "column 'answer' is empty"),
        ("", "column 'answer' is empty"),
        (" \n", "column 'answer' is empty"),
        (["a"], "column 'answer' holds a list, not text"),
        ({"a": 1}, "column 'answer' holds a dict, not text"),
    ],
)
def test_a_cell_that_cannot_be_trained_on_is_refused(value: object, reason: str) -> None:
    with pytest.raises(RowProblem, match=reason):
        detect(table("question", "answer")).messages({"question": "a", "answer": value})


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("hi", "holds a str, not a list of messages"),
        ([], "does not begin with a user message"),
        (["hi"], "message 0 is not a dict with 'role' and 'content'"),
        ([{"from": "human", "value": "hi"}], "message 0 is not a dict with 'role' and 'content'"),
        (
            [{"role": "asistant", "content": "a"}],
            "message 0 has the role 'asistant'; did you mean 'assistant'?",
        ),
        ([HELLO[0], {"role": "assistant", "content": ""}], r"message 1 \(assistant\) is empty"),
        ([HELLO[0], {"role": "assistant", "content": None}], r"message 1 \(assistant\) is empty"),
        (
            [HELLO[0], {"role": "assistant", "content": [1]}],
            r"message 1 \(assistant\) holds a list, not text",
        ),
        ([HELLO[0]], "would train nothing: no message is the assistant's"),
        (HELLO[::-1], "does not begin with a user message"),
        ([*HELLO, {"role": "system", "content": "s"}], "has a system message that is not the first"),
    ],
)
def test_malformed_conversations_are_refused(messages: object, reason: str) -> None:
    with pytest.raises(RowProblem, match=reason):
        detect(table("messages")).messages({"messages": messages})


def test_a_refusal_counts_all_rows_and_names_five() -> None:
    problems = {number: RowProblem("column 'a' is empty") for number in range(9, 0, -1)}
    message = str(refusal(problems, 1200))
    assert message.startswith("9 of 1,200 rows cannot be used (counting from 0): row 1: column 'a' is empty; row 2:")
    assert "row 5" in message
    assert "row 6" not in message
    assert message.endswith("and 4 more; fill it or drop the row")
    assert str(refusal({0: RowProblem("is odd", "mend it")}, 1, "held-out row")) == (
        "1 of 1 held-out row cannot be used (counting from 0): held-out row 0: is odd; mend it"
    )
