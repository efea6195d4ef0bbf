from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from peft_nb.data import RowProblem
from peft_nb.data.rendering import DEFAULT_TEMPLATE, Renderer, TemplateProblem, render
from peft_nb.errors import DataError, ModelError
from tests.templates import (
    CHAT,
    CHATML,
    ENDS_LAST,
    FORCED,
    INST,
    OPEN,
    ROW,
    THINKING,
    WORDS,
    encoded,
    refused,
    tokenizer,
    trained,
)


@pytest.fixture(scope="module")
def chatml() -> Any:
    return tokenizer()


# ---- one function for training and generation --------------------------------------------------


@pytest.mark.parametrize("template", [CHATML, INST, OPEN, THINKING, None])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_training_goes_on_exactly_where_generation_begins(template: str | None, adds_bos: bool) -> None:
    tok = tokenizer(template, adds_bos=adds_bos, bos_token="<s>")
    system = None if template == INST else "Be brief."
    example = encoded(tok, [ROW], system=system).examples[0]
    messages = [{"role": "user", "content": ROW["question"]}, {"role": "assistant", "content": ROW["answer"]}]
    prompt = render(tok, messages[:1], system=system, generation=True)
    assert prompt == list(example.ids)[: example.supervised.index(1)]
    assert prompt == render(tok, messages, system=system, generation=True)
    assert list(example.ids) == render(tok, messages, system=system)


def test_plain_texts_go_on_exactly_where_generation_begins() -> None:
    tok = tokenizer(None, adds_bos=True, bos_token="<s>", eos_token="</s>")
    whole = render(tok, "hello there")
    assert render(tok, "hello there", generation=True) == whole[:-1]
    assert list(encoded(tok, [{"text": "hello there"}]).examples[0].ids) == whole


@pytest.mark.parametrize("template", [INST, CHATML, "{{ bos_token }}" + CHATML, "{{ bos_token * 2 }}" + CHATML, None])
@pytest.mark.parametrize("adds_bos", [False, True])
def test_bos_comes_once_or_not_at_all(template: str | None, adds_bos: bool) -> None:
    tok = tokenizer(template, adds_bos=adds_bos, bos_token="<s>")
    wanted = "bos_token" in template if template else adds_bos
    example = encoded(tok, [ROW], loss_on="all").examples[0]
    assert list(example.ids).count(tok.bos_token_id) == wanted
    assert (example.ids[0] == tok.bos_token_id) == wanted
    assert render(tok, [{"role": "user", "content": "hello"}], generation=True)[:2].count(tok.bos_token_id) == wanted


def test_a_bos_that_also_opens_turns_is_left_alone(chatml: Any) -> None:
    example = encoded(chatml, [{"messages": CHAT}]).examples[0]
    assert list(example.ids).count(chatml.bos_token_id) == 4


def test_system_goes_in_front_where_the_row_has_none(chatml: Any) -> None:
    own = [{"role": "system", "content": "Be long."}, *CHAT]
    first, second = encoded(chatml, [{"messages": CHAT}, {"messages": own}], system="Be brief.").examples
    assert chatml.decode(list(first.ids)).startswith("<|im_start|>system\nBe brief.<|im_end|>\n")
    assert "Be brief." not in chatml.decode(list(second.ids))
    assert trained(chatml, first) == trained(chatml, second)


def test_a_conversation_without_a_question_or_answer_is_refused(chatml: Any) -> None:
    with pytest.raises(DataError, match="has no question"):
        render(chatml, CHAT[1:2], generation=True)
    with pytest.raises(DataError, match="has no answer"):
        render(chatml, CHAT[:1])


# ---- templates ---------------------------------------------------------------------------------


def test_a_model_without_a_template_gets_the_stated_default() -> None:
    tok = tokenizer(None, eos_token="</s>")
    result = encoded(tok, [ROW], system="Be brief.")
    written = "Be brief.\n\nUser: Where is my parcel?\nAssistant: It is on its way.</s>"
    assert tok.decode(list(result.examples[0].ids)) == written
    assert trained(tok, result.examples[0]) == [" It is on its way.</s>"]
    note = "no chat template in the model: turns are written 'User: …' and 'Assistant: …'"
    assert result.report.template == f"{note}, </s> ends every answer"


def test_a_template_that_leaves_answers_open_has_them_ended() -> None:
    tok = tokenizer(OPEN, eos_token="</s>")
    result = encoded(tok, [{"messages": CHAT}])
    assert trained(tok, result.examples[0]) == ["Ahoy there!</s>", "It is on its way.</s>"]
    assert result.report.template == "the model's own chat template, </s> ends every answer"


def test_the_end_of_a_turn_need_not_be_eos() -> None:
    tok = tokenizer(CHATML, eos_token="</s>", pad_token="</s>")
    assert Renderer(tok).end == tok.convert_tokens_to_ids("<|im_end|>")
    assert trained(tok, encoded(tok, [ROW]).examples[0]) == ["It is on its way.<|im_end|>"]


def test_a_model_that_could_never_stop_is_refused() -> None:
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        encoded(tokenizer(None, eos_token=None), [ROW])


def test_a_template_that_cannot_write_an_answer_is_refused() -> None:
    with pytest.raises(ModelError, match="never"):
        encoded(tokenizer("{{ raise_exception('never') }}"), [ROW])


def test_a_template_that_leaves_answers_out_is_refused_by_row() -> None:
    tok = tokenizer("{% for message in messages if message.role == 'user' %}{{ message.content }}{% endfor %}")
    assert "row 0: the model's chat template does not end its answers" in refused(tok, [ROW])


def test_a_template_that_writes_earlier_turns_differently_still_trains_on_all_of_them() -> None:
    tok = tokenizer(THINKING)
    example = encoded(tok, [{"messages": CHAT}]).examples[0]
    assert trained(tok, example) == [
        "Ahoy there!<|im_end|>",
        "<think>\n</think>\nIt is on its way.<|im_end|>",
    ]


def test_a_prompt_that_is_no_prefix_is_refused_with_the_reason() -> None:
    message = refused(tokenizer(FORCED), [ROW])
    assert "row 0: the model's chat template writes the prompt differently once its answer is known" in message
    assert encoded(tokenizer(FORCED), [ROW], loss_on="all").examples


def test_an_answer_that_melts_into_its_prompt_is_refused_with_the_reason() -> None:
    tok = tokenizer(CHATML)
    assert len(tok("\n\n")["input_ids"]) == 1
    message = refused(tok, [ROW, {**ROW, "answer": "\n\nIt is on its way."}])
    assert "1 of 2 rows" in message
    assert "row 1: the first characters of an answer form one token with the end of its prompt" in message
    assert "remove white space from the beginning of the answer" in message


def test_a_template_that_ends_only_the_last_answer_is_refused_for_longer_conversations() -> None:
    tok = tokenizer(ENDS_LAST)
    assert trained(tok, encoded(tok, [ROW]).examples[0]) == ["It is on its way.<|im_end|>"]
    assert "row 0: the model's chat template does not end earlier answers" in refused(tok, [{"messages": CHAT}])


def test_an_answer_with_the_end_token_in_it_is_refused(chatml: Any) -> None:
    message = refused(chatml, [{**ROW, "answer": "It is.<|im_end|>"}])
    assert "an answer contains <|im_end|>; remove it: it is added for you" in message


def test_what_the_template_refuses_is_told_by_row_and_the_rest_is_not_lost() -> None:
    tok = tokenizer(INST, bos_token="<s>")
    rows = [{"messages": CHAT}, {"messages": [CHAT[0], *CHAT]}, {"messages": CHAT[:2]}]
    message = refused(tok, rows)
    assert message.startswith("1 of 3 rows cannot be used (counting from 0): row 1: the model's chat template")
    assert "refuses it (roles must alternate)" in message
    assert len(encoded(tok, rows[::2]).examples) == 2


def test_prefixes_are_of_tokens_with_a_tokenizer_that_marks_word_starts() -> None:
    core = Tokenizer(models.Unigram())
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=90, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    core.train_from_iterator([WORDS + INST] * 20, trainer)
    tok = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    tok.chat_template = INST
    example = encoded(tok, [{"messages": CHAT}]).examples[0]
    assert [text.strip() for text in trained(tok, example)] == ["Ahoy there!</s>", "It is on its way.</s>"]
    assert example.ids[0] == tok.bos_token_id


def test_truncation_left_on_in_the_tokenizer_does_not_cut_anything() -> None:
    tok = tokenizer(bos_token=None)
    tok.backend_tokenizer.enable_truncation(4)
    assert trained(tok, encoded(tok, [ROW]).examples[0]) == ["It is on its way.<|im_end|>"]


def test_the_default_template_ends_its_prompt_without_a_space() -> None:
    assert DEFAULT_TEMPLATE.endswith("Assistant:{% endif %}")


# ---- tools -------------------------------------------------------------------------------------

CALL = {"type": "function", "function": {"name": "track", "arguments": {"parcel": 7}}}
USE = [
    {"role": "user", "content": "Where is my parcel?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "track", "content": "in Oslo"},
    {"role": "assistant", "content": "It is in Oslo."},
]
CONTENT = "{{ message.content }}"
CALLS = "{% for call in message.tool_calls or [] %}<call>{{ call.function | tojson }}</call>{% endfor %}"
TOOLS = CHATML.replace(CONTENT, CONTENT + CALLS)
MISREAD = (
    "{% for message in messages %}{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


def learned(tok: Any, messages: list[dict[str, Any]]) -> list[str]:
    renderer = Renderer(tok)
    lesson = next(renderer.rendered([messages], "assistant"))
    if isinstance(lesson, RowProblem):
        raise lesson
    ids, spans = lesson
    return [tok.decode(ids[start:stop]) for start, stop in spans]


def test_calls_of_tools_are_learned_and_what_tools_return_is_not() -> None:
    tok = tokenizer(TOOLS)
    call = '<call>{"name": "track", "arguments": {"parcel": 7}}</call><|im_end|>'
    assert learned(tok, USE) == [call, "It is in Oslo.<|im_end|>"]
    asked = render(tok, USE[:3], generation=True)
    assert render(tok, USE)[: len(asked)] == asked
    assert "<|im_start|>tool\nin Oslo<|im_end|>" in tok.decode(asked)


def test_the_default_template_names_the_turns_of_tools_and_writes_calls() -> None:
    tok = tokenizer(None, eos_token="</s>")
    written = tok.decode(render(tok, USE))
    assert "\nTool: in Oslo\nAssistant: It is in Oslo.</s>" in written
    call, answer = learned(tok, USE)
    assert '"name": "track", "arguments": {"parcel": 7}' in call
    assert call.endswith("]</s>")
    assert answer == " It is in Oslo.</s>"


@pytest.mark.parametrize("template", [CHATML, OPEN, MISREAD, OPEN.replace(CONTENT, CONTENT + CALLS)])
def test_a_template_that_leaves_calls_out_or_after_the_end_is_refused_with_the_reason(template: str) -> None:
    says = "the model's chat template does not write calls of tools; use a model whose"
    with pytest.raises(TemplateProblem, match=says) as caught:
        learned(tokenizer(template), USE)
    assert caught.value.part == "tool_calls"
    assert "tool_calls" in Renderer(tokenizer(template)).unwritten


def test_a_template_that_takes_what_a_tool_returns_for_an_answer_is_refused() -> None:
    said = [USE[0], {"role": "assistant", "content": "track(7)"}, *USE[2:]]
    with pytest.raises(TemplateProblem, match="does not write what tools return; use a model whose template does"):
        learned(tokenizer(MISREAD), said)
    with pytest.raises(RowProblem, match="refuses it .roles must alternate"):
        learned(tokenizer(INST, bos_token="<s>"), said)
    assert set(Renderer(tokenizer(TOOLS)).unwritten) == {"tools", "reasoning_content"}
    assert Renderer(tokenizer(None, eos_token="</s>")).unwritten == {}
    assert learned(tokenizer(CHATML), said) == ["track(7)<|im_end|>", "It is in Oslo.<|im_end|>"]


DEFINED = [{"type": "function", "function": {"name": "track", "description": "Where it is", "parameters": {}}}]
EQUIPPED = "{% if tools %}<tools>{{ tools | tojson }}</tools>{% endif %}" + TOOLS


def test_definitions_of_tools_reach_the_template_each_row_with_its_own() -> None:
    tok, other = tokenizer(EQUIPPED), [{"type": "function", "function": {"name": "weigh", "parameters": {}}}]
    rows = [[USE[0] | {"tools": tools} if tools else USE[0], *USE[1:]] for tools in (DEFINED, None, other)]
    written = [tok.decode(lesson.ids) for lesson in Renderer(tok).rendered(rows, "assistant")]
    assert [one.count("<tools>") for one in written] == [1, 0, 1]
    assert '"description": "Where it is"' in written[0]
    assert '"name": "weigh"' in written[2]
    assert learned(tok, rows[0]) == learned(tok, USE)
    assert "<tools>" in tok.decode(render(tok, rows[0][:1], generation=True))


def test_a_template_that_leaves_definitions_of_tools_out_is_refused() -> None:
    with pytest.raises(TemplateProblem, match="does not write definitions of tools; use a model") as caught:
        learned(tokenizer(TOOLS), [USE[0] | {"tools": DEFINED}, *USE[1:]])
    assert caught.value.part == "tools"


@pytest.mark.parametrize("name", ["reasoning_content", "thinking"])
def test_reasoning_reaches_the_template_and_is_learned(name: str) -> None:
    template = CHATML.replace(
        CONTENT, "{% if message." + name + " %}<think>{{ message." + name + " }}</think>{% endif %}" + CONTENT
    )
    said = [USE[0], {"role": "assistant", "content": "In Oslo.", "reasoning_content": "It left Bergen."}]
    assert learned(tokenizer(template), said) == ["<think>It left Bergen.</think>In Oslo.<|im_end|>"]
    assert "reasoning_content" not in Renderer(tokenizer(template)).unwritten
    assert "reasoning_content" in Renderer(tokenizer(CHATML)).unwritten
    plain = learned(tokenizer(None, eos_token="</s>"), said)
    assert plain == [" <think>\nIt left Bergen.\n</think>\n\nIn Oslo.</s>"]
