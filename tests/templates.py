"""Chat templates as models have them, a small tokenizer to put them on, and what rows become with it."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from peft_nb.data import labels
from peft_nb.data.detection import detect
from peft_nb.data.encoding import encode
from peft_nb.data.examples import Encoded
from peft_nb.data.labels import Classes
from peft_nb.data.rendered import RenderedRows
from peft_nb.errors import DataError

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


def encoded(tok: Any, rows: list[dict[str, Any]], *, max_length: int = 1024, **options: Any) -> Encoded:
    rendering = {name: options.pop(name) for name in ("loss_on", "system") if name in options}
    return encode(RenderedRows(rows, detect(rows), tok, **rendering), max_length=max_length, **options)


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


def learned(rendered: RenderedRows, classes: Classes) -> tuple[RenderedRows, list[tuple[int, ...]], str]:
    """What encoding labelled texts is given: the rows, the numbers of their classes, and what these are."""
    return rendered, [own for _, own in labels.read(rendered.rows, rendered.layout, classes)], str(classes)
