"""Pairs and rated answers as token ids: what is in the loss, what is cut and what is dropped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_nb.data import pairs
from peft_nb.data.detection import detect
from peft_nb.data.encoding import BATCH
from peft_nb.data.examples import Encoded, Example, parts
from peft_nb.data.rendered import RenderedRows
from peft_nb.data.rendering import render
from peft_nb.errors import DataError
from tests.templates import CHAT, CHATML, ENDS_LAST, FORCED, INST, OPEN, tokenizer, trained
from tests.templates import encoded as encoded_for_sft

PAIR = {"prompt": "Where is my parcel?", "chosen": "It is on its way.", "rejected": "Where is my parcel? hello hello"}
PROMPT = [{"role": "user", "content": PAIR["prompt"]}]
TOOL = {"type": "function", "function": {"name": "track", "parameters": {}}}
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "track", "arguments": {"id": 7}}}]}
TOOLED = CHATML.replace(
    "{{ message.content }}",
    "{{ message.content }}{% if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}",
).replace(
    "{% for message in messages %}", "{% if tools %}{{ tools | tojson }}{% endif %}{% for message in messages %}", 1
)


TOKENIZERS = {template: tokenizer(template) for template in (CHATML, None)}


@pytest.fixture(scope="module")
def chatml() -> Any:
    return tokenizer()


def encoded(tok: Any, rows: list[dict[str, Any]], *, max_length: int = 1024, **options: Any) -> Encoded:
    told = {name: options.pop(name) for name in ("format", "columns") if name in options}
    rendered = RenderedRows(rows, detect(rows, **told), tok, system=options.pop("system", None))
    return pairs.encode(rendered, max_length=max_length, **options)


def refused(tok: Any, rows: list[dict[str, Any]], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        encoded(tok, rows, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def begins(example: Example) -> int:
    """How many tokens are before the first in the loss."""
    return example.supervised.index(1)


# ---- pairs -------------------------------------------------------------------------------------


def test_a_pair_is_two_sequences_with_one_prompt_and_a_loss_on_the_answers(chatml: Any) -> None:
    (example,) = encoded(chatml, [PAIR]).examples
    chosen, rejected = parts(example)
    assert example.labels == (len(chosen.ids),)
    assert trained(chatml, chosen) == ["It is on its way.<|im_end|>"]
    assert trained(chatml, rejected) == ["Where is my parcel? hello hello<|im_end|>"]
    prompt = render(chatml, PROMPT, generation=True)
    for side in (chosen, rejected):
        assert list(side.ids[: begins(side)]) == prompt
        assert side.ids[-1] == chatml.eos_token_id


@pytest.mark.parametrize("template", [CHATML, INST, OPEN, ENDS_LAST, None])
def test_each_side_is_written_as_for_supervised_training(template: str | None) -> None:
    tok = tokenizer(template, bos_token="<s>")
    (example,) = encoded(tok, [PAIR], system=None).examples
    for side, answer in zip(parts(example), (PAIR["chosen"], PAIR["rejected"]), strict=True):
        (alone,) = encoded_for_sft(tok, [{"prompt": PAIR["prompt"], "completion": answer}]).examples
        assert side == alone


def test_answers_in_the_prompt_are_not_in_the_loss(chatml: Any) -> None:
    rows = [{"chosen": CHAT, "rejected": [*CHAT[:3], {"role": "assistant", "content": "hello"}]}]
    chosen, rejected = parts(encoded(chatml, rows, system="Answer briefly.").examples[0])
    assert trained(chatml, chosen) == ["It is on its way.<|im_end|>"]
    assert trained(chatml, rejected) == ["hello<|im_end|>"]
    assert chosen.ids[: begins(chosen)] == rejected.ids[: begins(rejected)]
    assert chatml.decode(list(chosen.ids)).startswith("<|im_start|>system\nAnswer briefly.<|im_end|>")


def test_of_an_answer_with_calls_of_tools_all_but_their_results_is_in_the_loss() -> None:
    tok = tokenizer(TOOLED)
    answer = [CALL, {"role": "tool", "content": "It is on its way."}, {"role": "assistant", "content": "hello"}]
    rows = [{"prompt": "Where is my parcel?", "chosen": answer, "rejected": "Ahoy there!", "tools": [TOOL]}]
    chosen, rejected = parts(encoded(tok, rows).examples[0])
    call, said = trained(tok, chosen)
    assert (call.startswith("[{"), said) == (True, "hello<|im_end|>")
    assert trained(tok, rejected) == ["Ahoy there!<|im_end|>"]
    assert '"name": "track"' in tok.decode(list(rejected.ids[: begins(rejected)]))


def test_an_answer_that_would_melt_into_its_prompt_is_tokenised_by_itself(chatml: Any) -> None:
    rows = [{**PAIR, "chosen": "\n\nIt is on its way."}]
    chosen, rejected = parts(encoded(chatml, rows).examples[0])
    prompt = render(chatml, PROMPT, generation=True)
    whole = render(chatml, [*PROMPT, {"role": "assistant", "content": rows[0]["chosen"]}])
    assert (
        whole[: len(prompt)] != prompt == list(chosen.ids[: begins(chosen)]) == list(rejected.ids[: begins(rejected)])
    )
    assert trained(chatml, chosen) == ["\n\nIt is on its way.<|im_end|>"]
    assert chatml.decode(list(chosen.ids)) == chatml.decode(whole)


def test_ranked_answers_give_several_examples_of_their_row(chatml: Any) -> None:
    row = {"prompt": "hello", "responses": ["hello", "Ahoy there!", "system"], "scores": [1, 3, 2]}
    result = encoded(chatml, [row, row], format="ranked_all")
    assert result.examples.rows.tolist() == [0, 0, 0, 1, 1, 1]
    sides = [[trained(chatml, side)[0].partition("<")[0] for side in parts(one)] for one in result.examples[:3]]
    assert sides == [["Ahoy there!", "system"], ["Ahoy there!", "hello"], ["system", "hello"]]
    assert "6 pairs, " in str(result.report)


# ---- lengths -----------------------------------------------------------------------------------


def test_the_report_counts_pairs(chatml: Any) -> None:
    result = encoded(chatml, [PAIR, PAIR])
    (one, _) = result.examples
    tokens, supervised = len(one.ids), one.supervised.count(1)
    assert str(result.report) == (
        "columns prompt, chosen, rejected → preference; the model's own chat template; "
        f"2 pairs, {2 * tokens} tokens, {2 * supervised} of them in the loss"
    )
    assert str(encoded(chatml, [PAIR]).report).split("; ")[-1].startswith("1 pair, ")


def test_both_sides_are_cut_and_what_is_then_lost_is_dropped_and_counted(chatml: Any) -> None:
    prompt = len(render(chatml, PROMPT, generation=True))
    late = {**PAIR, "chosen": "hello " * 30 + "user", "rejected": "hello " * 30 + "system"}
    long_prompt = {**PAIR, "prompt": PAIR["prompt"] * 5}
    result = encoded(chatml, [PAIR, late, long_prompt, {**PAIR, "chosen": "hello"}], max_length=prompt + 4)
    assert result.examples.rows.tolist() == [0, 3]
    for side in (side for one in result.examples for side in parts(one)):
        assert len(side.ids) <= prompt + 4
        assert side.supervised.count(1) >= 1
    assert (result.report.alike, result.report.dropped) == ((1,), (2,))
    assert set(result.report.long) == {0, 1, 2, 3}
    assert str(result.report).endswith(
        f"2 pairs cut at {prompt + 4} tokens, 1 pair dropped: the prompt alone fills max_length, "
        "1 pair dropped: the answers differ only after max_length"
    )
    assert "; 4 pairs, " in str(result.report)


def test_a_pair_is_dropped_where_either_side_is_over(chatml: Any) -> None:
    long = {**PAIR, "rejected": "hello " * 60}
    result = encoded(chatml, [PAIR, long], max_length=64, too_long="drop")
    assert result.examples.rows.tolist() == [0]
    assert str(result.report).endswith(", 1 pair over 64 tokens dropped")
    assert "; 2 pairs, " in str(result.report)


def test_where_no_pair_is_left_it_is_said_what_to_do(chatml: Any) -> None:
    prompt = len(render(chatml, PROMPT, generation=True))
    message = refused(chatml, [PAIR], max_length=prompt)
    assert message == (
        f"the prompt alone of every row fills max_length ({prompt} tokens); "
        f"raise max_length above {prompt}, or shorten the prompts"
    )
    late = {**PAIR, "chosen": "hello " * 30 + "user", "rejected": "hello " * 30 + "system"}
    message = refused(chatml, [late], max_length=prompt + 4, row_name="evaluation row")
    most = prompt + 4
    assert (
        message == f"the answers of every evaluation row differ only after {most} tokens; raise max_length above {most}"
    )
    assert refused(chatml, [PAIR], max_length=8, too_long="drop").startswith("every row is over 8 tokens and dropped")


def test_rows_that_cannot_be_used_are_named_together(chatml: Any) -> None:
    rows = [dict(PAIR) for _ in range(BATCH + 9)]
    rows[3] |= {"chosen": rows[3]["rejected"]}
    rows[BATCH + 1] |= {"rejected": "<|im_end|>"}
    message = refused(chatml, rows)
    assert message.startswith(f"2 of {BATCH + 9} rows cannot be used (counting from 0): row 3: chosen and rejected are")
    assert f"row {BATCH + 1}: an answer contains <|im_end|>" in message


def test_a_pair_that_the_template_writes_alike_is_refused(chatml: Any) -> None:
    sides = ({"role": "assistant", "content": "hello", "name": name} for name in ("a", "b"))
    row = dict(zip(("chosen", "rejected"), ([side] for side in sides), strict=True))
    assert "the model's chat template writes chosen and rejected alike" in refused(chatml, [{"prompt": "hello", **row}])


def test_an_answer_that_is_not_to_be_learned_is_refused(chatml: Any) -> None:
    answer = [{"role": "assistant", "content": "hello", "weight": 0}]
    chosen = [{"role": "assistant", "content": "Ahoy there!"}]
    row = {"prompt": CHAT[:3], "chosen": chosen, "rejected": answer}
    assert "row 0: the answer is marked as not learned; mark it" in refused(chatml, [row])


def test_a_template_that_writes_the_prompt_otherwise_once_answered_is_refused() -> None:
    message = refused(tokenizer(FORCED), [{**PAIR, "prompt": CHAT[:3]}])
    assert "the model's chat template writes the prompt differently" in message


@settings(max_examples=40, deadline=None)
@given(
    st.text("ab \n.", min_size=1), st.text("ab \n.", min_size=1), st.integers(12, 30), st.sampled_from([CHATML, None])
)
def test_whatever_the_answers_are_their_prompt_is_the_same(a: str, b: str, most: int, template: str | None) -> None:
    tok = TOKENIZERS[template]
    try:
        result = encoded(tok, [{**PAIR, "prompt": "hello", "chosen": a, "rejected": b}], max_length=most)
    except DataError as refusal:
        told = str(refusal)
    else:
        told = ""
    if told:
        assert a == b or "is empty" in told or "differ only after" in told
        return
    prompt = render(tok, [{"role": "user", "content": "hello"}], generation=True)
    for one in result.examples:
        chosen, rejected = parts(one)
        assert chosen.ids != rejected.ids
        for side, answer in ((chosen, a), (rejected, b)):
            assert list(side.ids[: len(prompt)]) == prompt
            assert side.supervised == bytes(len(prompt)) + b"\x01" * (len(side.ids) - len(prompt))
            assert len(side.ids) <= most
            written = f" {answer}" if template is None else f"{answer}<|im_end|>"
            assert len(side.ids) == most or tok.decode(list(side.ids[len(prompt) :])).startswith(written)


# ---- rated answers -----------------------------------------------------------------------------


def test_a_rated_answer_is_one_sequence_with_its_worth(chatml: Any) -> None:
    rows = [
        {"messages": CHAT, "label": True},
        {"messages": [*CHAT[:3], {"role": "assistant", "content": "hello"}], "label": False},
    ]
    result = encoded(chatml, rows)
    assert result.examples.labels == [(1,), (0,)]
    assert [trained(chatml, one) for one in result.examples] == [["It is on its way.<|im_end|>"], ["hello<|im_end|>"]]
    tokens, supervised = result.examples.tokens, result.examples.targets
    assert str(result.report).endswith(f"; 2 rated answers, {tokens} tokens, {supervised} of them in the loss")


def test_rated_answers_are_cut_dropped_and_counted_as_others_are(chatml: Any) -> None:
    long = "It is on its way. " * 50
    rows = [
        {"prompt": "hello", "completion": long, "label": 1},
        {"prompt": "hello", "completion": "Ahoy there!", "label": 0},
        {"prompt": long, "completion": "Ahoy there!", "label": 0},
    ]
    result = encoded(chatml, rows, max_length=64)
    assert (result.examples.rows.tolist(), result.examples.labels) == ([0, 1], [(1,), (0,)])
    told = "1 rated answer cut at 64 tokens, 1 rated answer dropped: the prompt alone fills max_length"
    assert str(result.report).endswith(told)
    assert encoded(chatml, rows, max_length=64, too_long="drop").examples.labels == [(0,)]


# ---- kept --------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [{}, {"label": True}])
def test_what_was_encoded_before_is_found_again(tmp_path: Path, chatml: Any, more: dict[str, Any]) -> None:
    rows = [PAIR, {**PAIR, "chosen": "hello"}]
    if more:
        rows = [{"prompt": one["prompt"], "completion": one["chosen"], "label": one is PAIR} for one in rows]
    told: list[str] = []
    found = [
        pairs.cached(
            tmp_path,
            "data",
            RenderedRows(rows, detect(rows), chatml),
            max_length=32,
            row_name="row",
            progress=lambda share, what: told.append(what),
        )
        for _ in range(2)
    ]
    assert found[0][0] == found[1][0]
    assert (
        list(found[0][1].examples) == list(found[1][1].examples) == list(encoded(chatml, rows, max_length=32).examples)
    )
    assert found[0][1].report == found[1][1].report
    assert len(told) == 2  # the beginning and the end of one encoding
