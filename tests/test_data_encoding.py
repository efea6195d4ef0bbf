from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from peft_nb.data.encoding import BATCH, DEFAULT_TEMPLATE, Encoded, Renderer, encode, render, split
from peft_nb.data.formats import detect
from peft_nb.errors import DataError, ModelError

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (  # BOS written by the template, no end after a user's turn
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
OPEN = (
    "{% for message in messages %}### {{ message.role }}\n{{ message.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant\n{% endif %}"
)
THINKING = CHATML.replace(
    "{{ message.content }}",
    "{% if message.role == 'assistant' and loop.last %}<think>\n</think>\n{% endif %}{{ message.content }}",
)
FORCED = CHATML.replace("<|im_start|>assistant\n{% endif %}", "<|im_start|>assistant\n<think>\n{% endif %}")
ENDS_LAST = CHATML.replace("<|im_end|>", "{% if loop.last or message.role == 'user' %}<|im_end|>{% endif %}")

WORDS = "Where is my parcel? It is on its way.\n\n\nUser: hello\nAssistant: Ahoy there! ### user assistant system"
ROW = {"question": "Where is my parcel?", "answer": "It is on its way."}
CHAT = [
    {"role": "user", "content": "hello"},
    {"role": "assistant", "content": "Ahoy there!"},
    {"role": "user", "content": "Where is my parcel?"},
    {"role": "assistant", "content": "It is on its way."},
]


def tokenizer(template: str | None = CHATML, *, adds_bos: bool = False, **special: str | None) -> Any:
    """Build a byte-level tokenizer; by default pad is eos and bos opens every turn, as in SmolLM2."""
    special = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>", **special}
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    names = ["<|im_start|>", "<|im_end|>", "<s>", "</s>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, special_tokens=names, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator([WORDS] * 20, trainer)
    if adds_bos:
        bos = special["bos_token"]
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    built = PreTrainedTokenizerFast(tokenizer_object=core, **{name: token for name, token in special.items() if token})
    built.chat_template = template
    return built


@pytest.fixture(scope="module")
def chatml() -> Any:
    return tokenizer()


def encoded(tok: Any, rows: list[dict[str, Any]], *, max_length: int = 1024, **options: Any) -> Encoded:
    return encode(rows, detect(rows), tok, max_length=max_length, **options)


def trained(tok: Any, example: Any) -> list[str]:
    """Decode the stretches that are trained on."""
    assert len(example.ids) == len(example.supervised)
    spans: list[list[int]] = []
    for place, (id, target) in enumerate(zip(example.ids, example.supervised, strict=True)):
        if target:
            if not place or not example.supervised[place - 1]:
                spans.append([])
            spans[-1].append(id)
    return [tok.decode(span) for span in spans]


def refused(tok: Any, rows: list[dict[str, Any]], **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        encoded(tok, rows, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ---- what is trained on ------------------------------------------------------------------------


def test_the_answer_and_its_end_are_trained_on_and_nothing_after(chatml: Any) -> None:
    example = encoded(chatml, [ROW]).examples[0]
    assert trained(chatml, example) == ["It is on its way.<|im_end|>"]
    assert example.ids[-1] == chatml.eos_token_id == chatml.pad_token_id
    assert chatml.decode(list(example.ids)).startswith("<|im_start|>user\nWhere is my parcel?<|im_end|>\n")


def test_every_answer_of_a_conversation_is_trained_on(chatml: Any) -> None:
    example = encoded(chatml, [{"messages": CHAT}]).examples[0]
    assert trained(chatml, example) == ["Ahoy there!<|im_end|>", "It is on its way.<|im_end|>"]


def test_what_follows_the_last_answer_is_left_out(chatml: Any) -> None:
    thanks = {"role": "user", "content": "thanks"}
    rows = [{"messages": CHAT}, {"messages": [*CHAT, thanks]}]
    first, second = encoded(chatml, rows).examples
    assert first == second


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
@pytest.mark.parametrize("loss_on", ["completion", "all"])
def test_every_example_trains_something_and_its_end_with_any_template(template: str | None, loss_on: Any) -> None:
    tok = tokenizer(template, bos_token="<s>")
    result = encoded(tok, [ROW, {"question": "hello", "answer": "Ahoy there!"}], loss_on=loss_on)
    for example in result.examples:
        assert example.supervised[0] == 0
        assert example.supervised[-1] == 1
        assert example.ids[-1] == tok.eos_token_id


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


# ---- lengths and refusals ----------------------------------------------------------------------


def test_long_rows_are_cut_and_counted(chatml: Any) -> None:
    long = {**ROW, "answer": "It is on its way. " * 50}
    result = encoded(chatml, [ROW, long, ROW, long], max_length=64)
    assert result.report.truncated == (1, 3)
    assert [len(example.ids) <= 64 for example in result.examples] == [True] * 4
    assert len(result.examples[1].ids) == len(result.examples[1].supervised) == 64
    assert "2 rows cut at 64 tokens" in str(result.report)


def test_a_row_whose_prompt_fills_max_length_is_refused(chatml: Any) -> None:
    prompt = len(render(chatml, [{"role": "user", "content": ROW["question"]}], generation=True))
    assert sum(encoded(chatml, [ROW], max_length=prompt + 1).examples[0].supervised) == 1
    message = refused(chatml, [{"question": "hello", "answer": "yo"}, ROW], max_length=prompt)
    assert f"row 1: would train nothing: its prompt alone is {prompt} tokens and max_length is {prompt}" in message
    assert message.endswith("raise max_length or shorten the prompt")


def test_all_bad_rows_of_all_kinds_and_batches_are_reported_at_once(chatml: Any) -> None:
    rows = [dict(ROW) for _ in range(2 * BATCH + 10)]
    rows[3]["answer"] = ""
    rows[BATCH]["answer"] = "<|im_end|>"
    rows[2 * BATCH + 1]["question"] = "Where? " * 2000
    message = refused(chatml, rows, row_name="held-out row")
    assert message.startswith(f"3 of {len(rows):,} held-out rows cannot be used (counting from 0): ")
    assert f"held-out row 3: column 'answer' is empty; held-out row {BATCH}: an answer contains" in message
    assert f"held-out row {2 * BATCH + 1}: would train nothing" in message


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
        f"2 rows, {2 * tokens} tokens, {2 * supervised} of them trained on"
    )


def test_progress_ends_at_the_last_row(chatml: Any) -> None:
    seen: list[tuple[int, int]] = []
    encoded(chatml, [ROW] * (BATCH + 1), progress=lambda done, total: seen.append((done, total)))
    assert seen == [(BATCH, BATCH + 1), (BATCH + 1, BATCH + 1)]


def test_examples_cannot_be_changed_and_are_small(chatml: Any) -> None:
    example = encoded(chatml, [ROW]).examples[0]
    assert not hasattr(example, "__dict__")
    assert example.ids.itemsize == 4
    with pytest.raises(AttributeError):
        example.supervised = b""  # type: ignore[misc]


def test_the_default_template_ends_its_prompt_without_a_space() -> None:
    assert DEFAULT_TEMPLATE.endswith("Assistant:{% endif %}")


# ---- split -------------------------------------------------------------------------------------


def test_a_split_is_the_same_on_every_machine() -> None:
    assert split(10, 0.3, seed=42) == ([0, 2, 3, 4, 5, 6, 8], [1, 7, 9])


@pytest.mark.parametrize(
    ("rows", "fraction", "held"),
    [
        (10, 0.1, 1),
        (10, 0, 0),
        (1, 0.5, 0),
        (2, 0.01, 1),
        (2, 0.5, 1),
        (3, 1.0, 2),
        (0, 0.5, 0),
        (1000, 0.25, 250),
    ],
)
def test_a_split_sets_aside_the_share_asked_for(rows: int, fraction: float, held: int) -> None:
    train, evaluation = split(rows, fraction, seed=1)
    assert len(evaluation) == held
    assert sorted(train + evaluation) == list(range(rows))
    assert (train, evaluation) == (sorted(train), sorted(evaluation))


def test_another_seed_splits_otherwise() -> None:
    assert split(1000, 0.1, seed=1) != split(1000, 0.1, seed=2)
