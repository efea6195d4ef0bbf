"""A folder for Ollama: its Modelfile is parsed as Ollama documents it, its template rendered as Go's would be."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from peft_nb.adapters.exporters import Exportable
from peft_nb.adapters.exporters.ollama import EXPORTER, modelfile, turns_of
from peft_nb.adapters.gguf.proof import CHATS
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec
from tests import gguf_models

COMMANDS = {"FROM", "PARAMETER", "TEMPLATE", "SYSTEM", "ADAPTER", "LICENSE", "MESSAGE"}


def parsed(text: str) -> list[tuple[str, str]]:
    """The commands of a Modelfile: a name and what follows, to the end of the line or between three quotes."""
    found, rest = [], text
    while rest := rest.lstrip("\n"):
        if rest.startswith("#"):
            _, _, rest = rest.partition("\n")
            continue
        name, _, rest = rest.partition(" ")
        assert name in COMMANDS
        if rest.startswith('"""'):
            value, ended, rest = rest[3:].partition('"""')
            assert ended
        else:
            value, _, rest = rest.partition("\n")
        found.append((name, value))
    return found


def gone(template: str, system: str, messages: list[dict[str, str]]) -> str:
    """What Go makes of the few constructs that are used; Ollama's messages hold the system prompt too."""
    begin, turns = re.fullmatch(r"(.*)\{\{ range \.Messages \}\}(.*)\{\{ end \}\}", template, re.S).groups()
    if found := re.fullmatch(r"\{\{ if \.System \}\}(.*)\{\{ else \}\}(.*)\{\{ end \}\}", begin, re.S):
        begin = found[1].replace("{{ .System }}", system) if system else found[2]
    user, assistant = re.fullmatch(
        r'\{\{ if eq \.Role "user" \}\}(.*)\{\{ else if eq \.Role "assistant" \}\}(.*)\{\{ end \}\}', turns, re.S
    ).groups()
    roles = {"user": user, "assistant": assistant, "system": ""}
    return begin + "".join(roles[turn["role"]].replace("{{ .Content }}", turn["content"]) for turn in messages)


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
ASSISTANT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
SYSTEM = "{% if messages[0].role != 'system' %}<|im_start|>system\nBe good.<|im_end|>\n{% endif %}"
TEMPLATES = {
    "chatml": CHATML + ASSISTANT,
    "chatml with a system prompt of its own": SYSTEM + CHATML + ASSISTANT,
    "llama 3": "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{{ m.content | trim }}<|eot_id|>{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant"
    "<|end_header_id|>\n\n{% endif %}",
    "gemma": "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first }}{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
    "phi 3": "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
}


def tokenizer(template: str, kind: str = "llama-bpe") -> Any:
    made = copy.deepcopy(gguf_models.tokenizer(kind))
    made.chat_template = template
    return made


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_of_known_kinds_say_the_same_in_gos_language(name: str) -> None:
    reader = tokenizer(TEMPLATES[name])
    template = dict(parsed(modelfile(reader, {}, None, True)))["TEMPLATE"]
    for chat in CHATS:
        said = [{**turn, "content": turn["content"].strip()} for turn in chat]
        system = next((turn["content"] for turn in said if turn["role"] == "system"), "")
        wanted = reader.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        # llama.cpp puts bos_token before every text itself.
        assert gone(template, system, said) == wanted.removeprefix(reader.bos_token)


@pytest.mark.parametrize(
    "template",
    [
        TEMPLATES["chatml"] + "{{ strftime_now('%d') if strftime_now }}",
        "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}",
        TEMPLATES["chatml"].replace("<|im_end|>", '"""'),
    ],
)
def test_what_is_no_fixed_text_is_left_to_ollama_with_a_word(template: str) -> None:
    assert turns_of(tokenizer(template)) is None
    text = modelfile(tokenizer(template), {}, None, True)
    assert "TEMPLATE" not in dict(parsed(text))
    assert "# No TEMPLATE" in text


def test_parameters_are_those_of_the_model() -> None:
    drawn = {"do_sample": True, "temperature": 0.6, "top_k": 20, "repetition_penalty": 1.1, "eos_token_id": [2, 3]}
    commands = parsed(modelfile(tokenizer(TEMPLATES["chatml"]), drawn, 'Say "yes".', True))
    assert commands[0] == ("FROM", "./model.gguf")
    assert ("SYSTEM", 'Say "yes".') in commands
    parameters = [value for name, value in commands if name == "PARAMETER"]
    assert parameters == [
        'stop "<|im_end|>"', 'stop "<|im_start|>"', "temperature 0.6", "top_k 20", "repeat_penalty 1.1",
    ]  # fmt: skip
    plain = parsed(modelfile(tokenizer(""), {"temperature": 0.6}, None, False))
    assert plain == [
        ("FROM", "./model.gguf"), ("TEMPLATE", "{{ .Prompt }}"), ("PARAMETER", 'stop "<|im_end|>"'),
        ("PARAMETER", "temperature 0"),
    ]  # fmt: skip


def test_a_system_prompt_that_no_modelfile_can_hold_is_refused() -> None:
    spec = RunSpec(data="a", system='Say """yes""".')
    run = Exportable("one", spec, {}, pytest.fail, pytest.fail, pytest.fail)
    assert EXPORTER.obstacle(run).startswith('system: it holds """, which ends every text of a Modelfile; --as gguf')


def test_a_run_becomes_a_folder_for_ollama(finished: Run, tmp_path: Path) -> None:
    made = finished.export(tmp_path / "desk", "ollama", outtype="q8_0")
    assert {path.name for path in Path(made).iterdir()} == {"Modelfile", "model.gguf", "proof.json"}
    commands = parsed((tmp_path / "desk" / "Modelfile").read_text())
    assert [name for name, _ in commands] == ["FROM", "TEMPLATE", "PARAMETER", "PARAMETER"]
    lines = repr(made).splitlines()
    assert "; not run in Ollama" in lines[0]
    assert lines[1] == f"ollama create {finished.id} -f {tmp_path / 'desk' / 'Modelfile'}"
