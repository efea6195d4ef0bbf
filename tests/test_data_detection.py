from __future__ import annotations

import json

import pytest

from peft_nb.data import LOOKED, RowProblem, Rows
from peft_nb.data.detection import detect
from peft_nb.data.layouts import LAYOUTS, Layout
from peft_nb.data.sources import read
from peft_nb.errors import DataError
from peft_nb.spec import RunSpec

HELLO = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}]
SHARED = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yo"}]


def table(*columns: str) -> list[dict[str, str]]:
    return [dict.fromkeys(columns, "x")]


def refused(*columns: str, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        detect(table(*columns), **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def unclear(*rows: dict[str, object], **options: object) -> str:
    with pytest.raises(DataError) as caught:
        detect(read(list(rows)).train, **options)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_every_layout_can_be_named_in_a_spec() -> None:
    (format,) = (field for field in RunSpec.describe() if field.name == "format")
    assert format.choices == ("auto", *LAYOUTS)


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
        ("text label", "text_label", "text=text label=label"),
        ("id comment sentiment", "text_label", "text=comment label=sentiment"),
        ("text label label_text", "text_label", "text=text label=label"),
        ("question passage answers", "question_answer", "question=question context=passage answer=answers"),
        ("article highlights id", "prompt_completion", "prompt=article completion=highlights"),
        ("input chosen rejected", "preference", "prompt=input chosen=chosen rejected=rejected"),
        ("chosen rejected", "preference", "chosen=chosen rejected=rejected"),
        (
            "instruction input chosen rejected",
            "preference",
            "prompt=instruction chosen=chosen rejected=rejected input=input",
        ),
        (
            "query response_chosen response_rejected",
            "preference",
            "prompt=query chosen=response_chosen rejected=response_rejected",
        ),
        (
            "question chosen_answer rejected_answer",
            "preference",
            "prompt=question chosen=chosen_answer rejected=rejected_answer",
        ),
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
    assert "can be read in 2 ways" in unclear({"question": "hi", "answer": "yo", "messages": HELLO})
    assert detect(table("question", "answer", "messages")).name == "question_answer"  # no messages in the cells


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
        ("x chosen", {}, "format='preference', columns={'chosen': 'chosen', 'rejected': 'x'}"),
        ("ticket answer", {}, "format='prompt_completion', columns={'prompt': 'ticket', 'completion': 'answer'}"),
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


# ---- cells -------------------------------------------------------------------------------------


def test_cells_decide_where_names_do_not() -> None:
    assert detect([{"messages": HELLO}]).name == "messages"
    assert detect([{"messages": SHARED}]).name == "sharegpt"
    assert detect([{"chat_log": HELLO}], columns={"messages": "chat_log"}).name == "messages"
    assert detect([{"chat_log": SHARED}], columns={"messages": "chat_log"}).name == "sharegpt"


def test_empty_columns_are_not_read() -> None:
    row = {"messages": HELLO, "prompt": None, "completion": ""}
    assert detect([row]).name == "messages"
    assert detect([{"text": "a", "label": None}]).name == "text"


def test_columns_that_no_row_fills_are_left_to_the_rows() -> None:
    assert detect([{"messages": None}]).name == "messages"
    assert detect([{"instruction": "", "input": "", "output": "", "text": None}]).name == "instruction"


def test_a_few_empty_cells_change_nothing() -> None:
    rows = [{"text": "a", "label": None}, *table("text", "label") * 9]
    assert detect(rows).name == "text_label"


def test_why_says_what_the_cells_hold() -> None:
    assert detect([{"messages": HELLO}]).why == "columns messages (messages with role and content) → messages"
    why = detect([{"id": 1, "conversations": json.dumps(SHARED)}]).why
    assert why == "columns conversations (messages with from and value in text) → sharegpt (not used: id)"
    assert detect([{"text": "a", "labels": [1]}]).why == "columns text, labels (lists) → text_label"
    assert detect(table("a", "b"), columns={"text": "b"}).why == "columns b → text (as told; not used: a)"


def test_mixed_tables_are_refused_with_both_readings() -> None:
    pair = {"prompt": "hi", "completion": "yo"}
    assert unclear({"messages": HELLO}, pair) == (
        "rows are of 2 layouts (counting from 0): row 0 is format='messages', columns={'messages': 'messages'}, "
        "row 1 is format='prompt_completion', columns={'prompt': 'prompt', 'completion': 'completion'}; "
        "keep the rows of one layout or write all of them in one"
    )
    assert "row 0 is format='sharegpt'" in unclear({"messages": SHARED}, {"messages": HELLO})
    assert "row 3 is format='text'" in unclear(*[{"messages": HELLO}] * 3, {"text": "a"})


@pytest.mark.parametrize("total", [201, 1001, 100_000])
@pytest.mark.parametrize("pattern", ["halves", "alternating", "last"])
def test_mixed_tables_of_any_size_are_seen(total: int, pattern: str) -> None:
    second = {"halves": lambda i: i >= total // 2, "alternating": lambda i: i % 2, "last": lambda i: i == total - 1}
    rows = [{"text": "a"} if second[pattern](i) else {"messages": HELLO} for i in range(total)]
    assert "rows are of 2 layouts" in unclear(*rows)


def test_a_mixed_table_can_be_read_as_told_and_the_other_rows_are_refused() -> None:
    rows = read([{"messages": HELLO}, {"prompt": "hi", "completion": "yo"}]).train
    layout = detect(rows, format="messages")
    assert layout.messages(rows[0]) == HELLO
    with pytest.raises(RowProblem, match="column 'messages' is empty"):
        layout.messages(rows[1])


def test_a_million_rows_cost_as_much_as_a_hundred() -> None:
    fetched = []

    def fetch(start: int, stop: int) -> list[list[str]]:
        fetched.append(stop - start)
        return [["hi", "yo"]] * (stop - start)

    assert detect(Rows(["prompt", "completion"], 1_000_000, fetch)).name == "prompt_completion"
    assert sum(fetched) <= LOOKED + 1


# ---- rated answers -----------------------------------------------------------------------------

PAIR = {"prompt": "hi", "completion": "yo"}


def rated(column: str, *values: object, **options: object) -> Layout:
    return detect(read([{**PAIR, column: value} for value in values]).train, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "means"),
    [
        ((True, False), "true is good, false is bad"),
        ((False, True, None), "true is good, false is bad"),
        (("True", "False"), "true is good, false is bad"),
        ((1, 0), "1 is good, 0 is bad"),
        (("1.0", "0.0"), "1.0 is good, 0.0 is bad"),
        ((1.0, 0.0, None), "1 is good, 0 is bad"),
        (("+1", "-1"), "+1 is good, -1 is bad"),
        ((-1, 1, 0), "1 is good, -1, 0 is bad"),
        ((1, 5), "5 is good, 1 is bad"),
        ((10, 0), "10 is good, 0 is bad"),
        (("yes", " No "), "yes is good, no is bad"),
        (("thumbs_up", "thumbs-down"), "thumbs_up is good, thumbs-down is bad"),
        (("up", "down"), "up is good, down is bad"),
        (("good", "bad"), "good is good, bad is bad"),
        (("👍", "👎"), "👍 is good, 👎 is bad"),
    ],
    ids=str,
)
@pytest.mark.parametrize("column", ["label", "rating", "Thumbs"])
def test_a_column_of_good_and_bad_makes_rated_answers(column: str, values: tuple[object, ...], means: str) -> None:
    layout = rated(column, *values)
    assert (layout.name, layout.kind) == ("rated", "rated")
    assert layout.columns == {"prompt": "prompt", "completion": "completion", "label": column}
    assert layout.why == f"columns prompt, completion, {column} → rated ({column}: {means})"


@pytest.mark.parametrize(
    "values",
    [(1, 2, 3), (4, 5), (1, 2), ("good", "bad", "so-so"), ("a", "b"), (True, True), ("good", "good"), (0.5, 0.25)],
    ids=str,
)
def test_other_ratings_leave_plain_answers_and_are_named(values: tuple[object, ...]) -> None:
    layout = rated("rating", *values)
    assert (layout.name, layout.why) == (
        "prompt_completion",
        "columns prompt, completion → prompt_completion (not used: rating)",
    )


def test_a_format_given_keeps_rated_answers_plain() -> None:
    layout = rated("label", True, False, format="prompt_completion")
    assert (layout.kind, layout.why) == (
        "chat",
        "columns prompt, completion → prompt_completion (as told; not used: label)",
    )


@pytest.mark.parametrize(
    "rows",
    [
        [{"text": "a", "label": one} for one in (0, 1)],
        [{"sentence": "a", "question": "b", "label": one} for one in (0, 1)],
        [{"premise": "x", "review": "a", "label": one} for one in (True, False)],
    ],
    ids=str,
)
def test_classes_of_texts_are_not_taken_for_ratings(rows: list[dict[str, object]]) -> None:
    assert detect(read(rows).train).name == "text_label"


def test_of_several_ratings_the_one_named_label_is_taken_and_others_have_to_be_named() -> None:
    rows = [{**PAIR, "liked": one, "vote": not one} for one in (True, False)]
    assert "format='rated', columns={'prompt': 'prompt', 'completion': 'completion', 'label': 'vote'}" in unclear(*rows)
    assert detect(rows, columns={"label": "vote"}).columns["label"] == "vote"
    assert detect([{**row, "label": True} for row in rows] + [{**PAIR, "label": 0}]).columns["label"] == "label"
    told = detect(
        [{**row, "label": word} for row, word in zip(rows, ("mail", "chat"), strict=True)], columns={"label": "liked"}
    )
    assert told.rated(rows[1])[1] is False


def test_one_bad_answer_among_very_many_is_seen() -> None:
    rows = [{**PAIR, "thumbs_up": number != 777} for number in range(5000)]
    layout = detect(read(rows).train)
    assert (layout.name, layout.rated(rows[777])[1]) == ("rated", False)
    assert detect(read([{**PAIR, "rating": 1 if number != 777 else 5} for number in range(5000)]).train).kind == "rated"


def test_rows_are_searched_for_a_bad_answer_only_where_they_may_be_rated() -> None:
    fetched: list[int] = []

    def fetch(start: int, stop: int) -> list[list[object]]:
        fetched.append(stop - start)
        return [["hi", "yo", True]] * (stop - start)

    assert detect(Rows(["text", "title", "label"], 100_000, fetch)).kind == "labelled"
    assert detect(Rows(["prompt", "completion", "label"], 100_000, fetch), format="prompt_completion").kind == "chat"
    assert sum(fetched) <= 2 * (LOOKED + 1)


def test_ratings_that_say_neither_are_refused_where_they_were_asked_for() -> None:
    rows: list[dict[str, object]] = [{**PAIR, "stars": stars} for stars in (1, 3, 5, 3)]
    told = "column 'stars' holds 1, 3, 5, and an answer is rated good or bad; "
    wanted = told + "write true for good answers and false for bad ones"
    assert unclear(*rows, format="rated", columns={"label": "stars"}) == wanted
    assert unclear(*rows, columns={"prompt": "prompt", "label": "stars"}) == wanted
    assert unclear(*({**row, "score": row["stars"]} for row in rows), format="rated") == wanted.replace(
        "stars", "score"
    )
    assert "do not fit rated, which needs prompt, completion, label" in unclear(PAIR, format="rated")
    assert rated("label", True, format="rated").kind == "rated"


def test_ranked_answers_want_their_scores() -> None:
    rows = [{"prompt": "hi", "responses": ["a", "b"], "score": 3}]
    with pytest.raises(RowProblem, match="^has fewer than two answers with a score; give at least two"):
        detect(rows).pairs(rows[0])
    assert detect([{"question": "hi", "answers": ["a", "b"]}]).name == "question_answer"
    assert detect([{"question": "hi", "answers": ["a", "b"], "scores": [1, 2]}]).name == "ranked"
    assert detect([{"question": "hi", "answers": ["a", "b"], "scores": 2}]).name == "question_answer"


# ---- other names -------------------------------------------------------------------------------


def test_a_roles_own_names_come_before_a_reading_of_other_names_alone() -> None:
    assert detect(table("question", "answer", "source")).name == "question_answer"
    assert detect(table("instruction", "response", "source")).name == "instruction"
    assert detect(table("source", "target")).name == "prompt_completion"


def test_a_system_prompt_decides_nothing() -> None:
    assert "can be read in 2 ways" in unclear({"system_prompt": "s", "q": "hi", "a": "yo", "messages": HELLO})
    assert detect(table("system", "prompt", "completion")).columns["system"] == "system"


def test_text_and_target_may_be_a_class_or_an_answer() -> None:
    assert detect(table("text", "target")).name == "text_label"
    message = refused("document", "target")
    assert "format='prompt_completion'" in message
    assert "format='text_label'" in message
