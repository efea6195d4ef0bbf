from __future__ import annotations

import ast
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from peft_nb.adapters.usage import usage
from peft_nb.runs.run import begin
from peft_nb.spec import RunSpec
from peft_nb.store import Facts, Store
from tests.conftest import KINDS, Python

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"


LIKE_THE_README = """
import json, sys
from contextlib import redirect_stdout
from io import StringIO

for folder, base in json.loads(sys.argv[1]):
    lines = open(folder + "/README.md").read().split("```python\\n")[1].split("```")[0]
    lines = lines.replace("path/to/this/folder", folder).replace("path/to/" + base.rpartition("/")[2], base)
    said = StringIO()
    with redirect_stdout(said):
        exec(lines, {})
    print(json.dumps([said.getvalue(), any(name.startswith("peft_nb") for name in sys.modules)]))
"""


@pytest.mark.exhaustive
def test_the_lines_of_the_card_do_what_the_run_does(
    spec: Callable[..., RunSpec],
    rows: list[Any],
    store: Store,
    base: Path,
    encoder: Path,
    labelled: Any,
    python: Python,
) -> None:
    lora = begin(spec(system="Be brief."), data=rows, store=store).wait()
    text = begin(spec(), data=[{"text": row["answer"]} for row in rows], store=store).wait()
    classes = spec(task="classification", model=str(encoder), max_steps=20)
    classifier = begin(classes, data=labelled, store=store).wait()
    bottleneck = begin(spec(method="bottleneck"), data=rows, store=store).wait()
    runs = [lora, text, classifier, bottleneck]
    given = [(str(run.adapter_dir), run.spec.model) for run in runs]
    output, _ = python("-c", LIKE_THE_README, json.dumps(given)).communicate()
    said, ours = zip(*map(json.loads, output.splitlines()), strict=True)
    assert ours == (False, False, False, True)
    question = "What can you do?"
    assert said[0].strip() == lora.generate(question)
    assert said[1].strip() == text.generate("It begins")
    assert eval(said[2]) == classifier.predict(["a text", "another, somewhat longer one"]).label.tolist()
    assert set(eval(said[2])) <= set(KINDS)
    assert said[3].strip() == bottleneck.generate(question) != bottleneck.generate(question, adapter=False)


def test_without_a_template_the_prompt_is_written_out(spec: Callable[..., RunSpec], base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert "apply_chat_template" in usage(HUB, spec(), Facts(), tokenizer)
    tokenizer.chat_template = None
    lines = usage(HUB, spec(system="Be brief."), Facts(), tokenizer)
    assert r'tokenizer("Be brief.\n\nUser: What can you do?\nAssistant:"' in lines


@pytest.mark.parametrize("name", [HUB, r"C:\models\tiny", 'a "quoted" name', "/srv/Basismodell für Ärzte"])
def test_the_name_of_the_base_is_quoted(spec: Callable[..., RunSpec], base: Path, name: str) -> None:
    lines = usage(name, spec(), Facts(), AutoTokenizer.from_pretrained(base))
    found = [one.value for one in ast.walk(ast.parse(lines)) if isinstance(one, ast.Constant)]
    assert name in found
    assert json.dumps(name, ensure_ascii=False) in lines


@pytest.mark.parametrize(("method", "first"), [("lora", "from peft import"), ("bottleneck", "import peft_nb.methods")])
def test_peft_nb_is_imported_for_its_own_tuners_alone(
    spec: Callable[..., RunSpec], base: Path, method: str, first: str
) -> None:
    lines = usage(HUB, spec(method=method), Facts(), AutoTokenizer.from_pretrained(base))
    assert lines.startswith(first)
    assert ("peft_nb" in lines) == (method == "bottleneck")


def test_a_prompt_is_the_beginning_of_a_text_or_a_conversation(spec: Callable[..., RunSpec], base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert 'tokenizer("It begins"' in usage(HUB, spec(), Facts(layout="text"), tokenizer)
    asked = usage(HUB, spec(system='Say "yes"'), Facts(layout="messages"), tokenizer)
    (messages,) = [one.value for one in ast.parse(asked).body if "messages =" in ast.unparse(one)]  # type: ignore[attr-defined]
    assert ast.literal_eval(messages) == [
        {"role": "system", "content": 'Say "yes"'},
        {"role": "user", "content": "What can you do?"},
    ]
