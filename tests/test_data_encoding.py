from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import pytest

from peft_nb.data.encoding import BATCH
from peft_nb.data.rendering import render
from tests.templates import CHAT, CHATML, ENDS_LAST, INST, OPEN, ROW, THINKING, encoded, refused, tokenizer, trained


@pytest.fixture(scope="module")
def chatml() -> Any:
    return tokenizer()


# ---- what is trained on ------------------------------------------------------------------------


def test_the_answer_and_its_end_are_trained_on_and_nothing_after(chatml: Any) -> None:
    example = encoded(chatml, [ROW]).examples[0]
    assert trained(chatml, example) == ["It is on its way.<|im_end|>"]
    assert example.ids[-1] == chatml.eos_token_id == chatml.pad_token_id
    assert chatml.decode(list(example.ids)).startswith("<|im_start|>user\nWhere is my parcel?<|im_end|>\n")


def test_every_answer_of_a_conversation_is_trained_on(chatml: Any) -> None:
    example = encoded(chatml, [{"messages": CHAT}]).examples[0]
    assert trained(chatml, example) == ["Ahoy there!<|im_end|>", "It is on its way.<|im_end|>"]


@pytest.mark.parametrize("loss_on", ["assistant", "completion"])
@pytest.mark.parametrize("template", [CHATML, None])
def test_an_answer_of_weight_0_is_read_only(template: str | None, loss_on: str) -> None:
    tok = tokenizer(template)
    last = CHAT[-1] | {"weight": 0}
    result = encoded(tok, [{"messages": [*CHAT[:-1], last]}], loss_on=loss_on)
    (text,) = trained(tok, result.examples[0])
    assert text.strip() == "Ahoy there!<|im_end|>"


def test_what_follows_the_last_answer_is_left_out(chatml: Any) -> None:
    thanks = {"role": "user", "content": "thanks"}
    rows = [{"messages": CHAT}, {"messages": [*CHAT, thanks]}]
    first, second = encoded(chatml, rows).examples
    assert first == second


@pytest.mark.parametrize("template", [CHATML, ENDS_LAST, None])
def test_the_completion_is_the_last_answer_alone(template: str | None) -> None:
    tok = tokenizer(template)
    example = encoded(tok, [{"messages": CHAT}], loss_on="completion").examples[0]
    assert [text.strip() for text in trained(tok, example)] == ["It is on its way.<|im_end|>"]
    assert "Ahoy there!" in tok.decode(list(example.ids))


def test_loss_on_all_trains_on_everything_but_the_first_token(chatml: Any) -> None:
    example = encoded(chatml, [{"messages": CHAT}], loss_on="all").examples[0]
    assert example.supervised == b"\x00" + b"\x01" * (len(example.ids) - 1)
    assert example.ids[-1] == chatml.eos_token_id


def test_plain_texts_are_trained_on_as_a_whole_and_end() -> None:
    tok = tokenizer(adds_bos=True, bos_token="<s>", eos_token="</s>")
    rows = [{"text": "hello there"}, {"text": "hello there</s>"}, {"text": "<s>hello there"}]
    result = encoded(tok, rows)
    assert len({tuple(example.ids) for example in result.examples}) == 1
    assert tok.decode(list(result.examples[0].ids)) == "<s>hello there</s>"
    assert trained(tok, result.examples[0]) == ["hello there</s>"]
    assert result.report.template == "plain texts, no template"


def test_an_end_token_with_id_zero_is_still_added() -> None:
    tok = tokenizer(CHATML, eos_token="<|im_start|>", bos_token=None)
    assert tok.eos_token_id == 0
    assert encoded(tok, [{"text": "hello"}]).examples[0].ids[-1] == 0
    tok.chat_template = None
    assert encoded(tok, [ROW]).examples[0].ids[-1] == 0


@pytest.mark.parametrize("template", [CHATML, INST, OPEN, THINKING, None])
@pytest.mark.parametrize("loss_on", ["assistant", "completion", "all"])
def test_every_example_trains_something_and_its_end_with_any_template(template: str | None, loss_on: Any) -> None:
    tok = tokenizer(template, bos_token="<s>")
    result = encoded(tok, [ROW, {"question": "hello", "answer": "Ahoy there!"}], loss_on=loss_on)
    for example in result.examples:
        assert example.supervised[0] == 0
        assert example.supervised[-1] == 1
        assert example.ids[-1] == tok.eos_token_id


# ---- lengths and refusals ----------------------------------------------------------------------


def test_long_rows_are_cut_and_counted(chatml: Any) -> None:
    long = {**ROW, "answer": "It is on its way. " * 50}
    result = encoded(chatml, [ROW, long, ROW, long], max_length=64)
    assert result.report.long == (1, 3)
    assert [len(example.ids) <= 64 for example in result.examples] == [True] * 4
    assert len(result.examples[1].ids) == len(result.examples[1].supervised) == 64
    assert "2 rows cut at 64 tokens" in str(result.report)


def test_a_row_whose_prompt_fills_max_length_is_dropped_and_counted(chatml: Any) -> None:
    prompt = len(render(chatml, [{"role": "user", "content": ROW["question"]}], generation=True))
    assert sum(encoded(chatml, [ROW], max_length=prompt + 1).examples[0].supervised) == 1
    result = encoded(chatml, [{"question": "hello", "answer": "yo"}, ROW], max_length=prompt)
    assert result.examples.rows.tolist() == [0]
    assert result.report.dropped == (1,)
    assert str(result.report).endswith(", 1 row dropped: the prompt alone fills max_length")
    message = refused(chatml, [ROW, ROW], max_length=prompt)
    assert message == (
        f"the prompt alone of every row fills max_length ({prompt} tokens); "
        f"raise max_length above {prompt}, or shorten the prompts"
    )


def test_all_bad_rows_of_all_kinds_and_batches_are_reported_at_once(chatml: Any) -> None:
    rows = [dict(ROW) for _ in range(2 * BATCH + 10)]
    rows[3]["answer"] = ""
    rows[BATCH]["answer"] = "<|im_end|>"
    message = refused(chatml, rows, row_name="evaluation row")
    assert message.startswith(f"2 of {len(rows):,} evaluation rows cannot be used (counting from 0): ")
    assert f"evaluation row 3: column 'answer' is empty; evaluation row {BATCH}: an answer contains" in message


def test_examples_keep_the_order_of_the_rows(chatml: Any) -> None:
    rows = [{"question": f"Where is {number}?", "answer": f"It is {number}."} for number in range(BATCH + 7)]
    result = encoded(chatml, rows)
    answers = [trained(chatml, example) for example in result.examples]
    assert answers == [[f"It is {number}.<|im_end|>"] for number in range(BATCH + 7)]


def test_the_report_counts(chatml: Any) -> None:
    result = encoded(chatml, [ROW, ROW])
    tokens = len(result.examples[0].ids)
    supervised = sum(result.examples[0].supervised)
    report = result.report
    assert (report.rows, report.tokens, report.supervised_tokens) == (2, 2 * tokens, 2 * supervised)
    assert str(report) == (
        "columns question, answer → question_answer; the model's own chat template; "
        f"2 rows, {2 * tokens} tokens, {2 * supervised} of them in the loss"
    )


def test_progress_ends_at_the_last_row(chatml: Any) -> None:
    seen: list[tuple[float, str]] = []
    encoded(chatml, [ROW] * (BATCH + 1), progress=lambda *said: seen.append(said))
    assert seen == [(BATCH / (BATCH + 1), "tokenizing"), (1.0, "tokenizing")]


def test_examples_cannot_be_changed_and_are_small(chatml: Any) -> None:
    example = encoded(chatml, [ROW]).examples[0]
    assert not hasattr(example, "__dict__")
    assert example.ids.itemsize == 4
    with pytest.raises(AttributeError):
        example.supervised = b""  # type: ignore[misc]


# ---- too long ----------------------------------------------------------------------------------

FOX = [{"text": "the quick brown fox"}, {"text": "jumps over the lazy dog " * 20}, {"text": "and rests"}]


def exchanges(count: int, words: int = 5) -> list[dict[str, str]]:
    """A conversation of questions and answers that tell their numbers."""
    roles = ("user", "q"), ("assistant", "a")
    return [{"role": role, "content": f"{mark}{i} " + "hm " * words} for i in range(count) for role, mark in roles]


def test_long_rows_are_left_out_and_counted_where_asked(chatml: Any) -> None:
    result = encoded(chatml, FOX, max_length=32, too_long="drop")
    kept = encoded(chatml, FOX[::2]).examples
    assert list(result.examples) == list(kept)
    assert result.examples.rows.tolist() == [0, 2]
    assert (result.report.rows, result.report.examples, result.report.long) == (3, 2, (1,))
    assert str(result.report).endswith(", 1 row over 32 tokens dropped")


def test_a_long_row_whose_prompt_fills_max_length_is_left_out_too(chatml: Any) -> None:
    rows = [ROW, {**ROW, "question": "Where? " * 100}]
    assert encoded(chatml, rows, max_length=64, too_long="drop").examples.rows.tolist() == [0]
    for treatment in ("truncate", "split"):
        result = encoded(chatml, rows, max_length=64, too_long=treatment)
        assert (result.examples.rows.tolist(), result.report.dropped) == ([0], (1,))


def test_of_a_long_conversation_only_the_exchange_that_does_not_fit_is_dropped(chatml: Any) -> None:
    turns = [*exchanges(1), {"role": "user", "content": "Where? " * 100}, {"role": "assistant", "content": "There."}]
    result = encoded(chatml, [{"messages": [*turns, *exchanges(1)]}], max_length=64, too_long="split")
    assert [trained(chatml, one) for one in result.examples] == [
        trained(chatml, one) for one in encoded(chatml, [{"messages": exchanges(1)}] * 2).examples
    ]
    assert result.report.dropped == (0,)


def test_what_is_split_keeps_its_tools() -> None:
    chatml = tokenizer("{{ tools | tojson if tools }}" + CHATML)
    tools = [{"type": "function", "function": {"name": "lookup", "parameters": {}}}]
    whole = encoded(chatml, [{"messages": exchanges(1), "tools": tools}]).examples[0]
    rows = [{"messages": exchanges(3), "tools": tools}]
    parts = encoded(chatml, rows, max_length=len(whole.ids) + 1, too_long="split").examples
    assert len(parts) == 3
    assert all("lookup" in chatml.decode(part.ids) for part in parts)


def test_data_of_which_nothing_is_left_are_refused(chatml: Any) -> None:
    message = refused(chatml, FOX[1:2] * 2, max_length=32, too_long="drop")
    assert message == "every row is over 32 tokens and dropped; raise max_length"


@pytest.mark.parametrize("length", range(8, 24))
def test_a_long_text_becomes_windows_that_train_on_every_token_once(chatml: Any, length: int) -> None:
    result = encoded(chatml, FOX, max_length=length, too_long="split")
    for number, row in enumerate(FOX):
        whole = encoded(chatml, [row]).examples[0]
        parts = [part for part, at in zip(result.examples, result.examples.rows, strict=True) if at == number]
        assert all(len(part.ids) <= length for part in parts)
        assert [id for part in parts for id in part.ids[1:]] == list(whole.ids[1:])
        assert all(part.supervised == b"\x00" + b"\x01" * (len(part.ids) - 1) for part in parts)
    parts = len(result.examples) - 3 + len(result.report.long)
    rows = "1 row" if len(result.report.long) == 1 else f"{len(result.report.long)} rows"
    assert str(result.report).endswith(f", {rows} over {length} tokens split into {parts} examples")


def test_a_long_conversation_trained_on_as_a_whole_becomes_windows_too(chatml: Any) -> None:
    rows = [{"messages": exchanges(6)}]
    whole = encoded(chatml, rows, loss_on="all").examples[0]
    parts = encoded(chatml, rows, loss_on="all", max_length=50, too_long="split").examples
    assert [id for part in parts for id in part.ids[1:]] == list(whole.ids[1:])


@pytest.mark.parametrize("length", [80, 120, 170])
@pytest.mark.parametrize("template", [CHATML, OPEN, None])
def test_a_long_conversation_becomes_several_of_whole_exchanges(template: str | None, length: int) -> None:
    tok = tokenizer(template, bos_token="<s>")
    rows = [{"messages": [{"role": "system", "content": "Be brief."}, *exchanges(7)]}]
    whole = encoded(tok, rows).examples[0]
    result = encoded(tok, rows, max_length=length, too_long="split")
    assert len(result.examples) > 1
    assert [text for part in result.examples for text in trained(tok, part)] == trained(tok, whole)
    assert result.report.supervised_tokens == sum(whole.supervised)
    for part in result.examples:
        assert len(part.ids) <= length
        assert tok.decode(list(part.ids)).count("Be brief.") == 1
    sizes = [len(part.ids) for part in result.examples]
    assert all(one + two > length for one, two in pairwise(sizes))  # as many as fit


def test_an_answer_too_long_for_an_example_of_its_own_is_cut(chatml: Any) -> None:
    talk = [*exchanges(1), *exchanges(1, words=80), *exchanges(1)]
    parts = encoded(chatml, [{"messages": [*talk[:2], talk[0], talk[3], *talk[4:]]}], max_length=50, too_long="split")
    assert [len(trained(chatml, part)) for part in parts.examples] == [1, 1, 1]
    assert len(parts.examples[1].ids) == 50
    assert parts.examples[0] == parts.examples[2]


def test_for_the_completion_alone_as_many_last_exchanges_are_kept_as_fit(chatml: Any) -> None:
    rows = [{"messages": exchanges(6)}]
    (part,) = encoded(chatml, rows, loss_on="completion", max_length=100, too_long="split").examples
    assert [text[:2] for text in trained(chatml, part)] == ["a5"]
    fitting = [encoded(chatml, [{"messages": exchanges(6)[2 * i :]}]).examples[0] for i in range(6)]
    longest = next(one for one in fitting if len(one.ids) <= 100)
    assert part.ids == longest.ids
    assert len(longest.ids) > len(fitting[-1].ids)


# ---- what breaks in the field ------------------------------------------------------------------


def test_the_end_is_learned_even_where_it_is_also_what_fills_up(chatml: Any) -> None:
    from peft_nb.training.packing import pad

    short, long = encoded(chatml, [ROW, {**ROW, "answer": "hm " * 9}]).examples
    batch = pad([short, long], chatml.pad_token_id)
    assert chatml.pad_token_id == chatml.eos_token_id
    for example, labels in zip((short, long), batch["labels"].tolist(), strict=True):
        assert labels[len(example.ids) - 1] == chatml.eos_token_id
        assert set(labels[len(example.ids) :]) <= {-100}


def test_no_example_without_a_target_comes_through_whatever_the_settings(chatml: Any) -> None:
    rows = [{"messages": exchanges(count)} for count in range(1, 6)]
    for loss_on, treatment in product(("assistant", "completion", "all"), ("truncate", "drop", "split")):
        options = {"max_length": 60, "loss_on": loss_on, "too_long": treatment}
        result = encoded(chatml, rows, **options)
        assert all(1 in example.supervised for example in result.examples)
        assert len(result.report.dropped) == (4 if (loss_on, treatment) == ("completion", "truncate") else 0)
