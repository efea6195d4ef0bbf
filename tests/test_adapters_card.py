"""Model cards: what hubs read, what people read, and what must not stand in them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import AutoTokenizer

from peft_nb.adapters.card import CardInput, card, fenced
from peft_nb.adapters.usage import usage
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Facts, Store

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
TRAINED = {"examples": 2000, "eval_examples": 300, "steps": 750}
AWKWARD = """ "quoted" 'and' \\n `{x}` {{y}} %s $z \n```\n\"\"\" \u2028\x85\t\N{SNOWMAN} \\"""
TESTED = {"base_eval_loss": 3.0, "eval_loss": 2.0, "forgetting": 0.1, "score": 0.9}


@pytest.fixture
def given() -> CardInput:
    """Of a run of three epochs on rows from the hub, with nothing to complain about but what always holds."""
    spec = RunSpec(data="owner/tickets", batch_size=8, method="lora")
    facts = Facts(data="hub data set owner/tickets")
    return CardInput(HUB, spec, facts, {**TRAINED, **TESTED}, "print(1)", {"findings": []})


def section(text: str, title: str) -> str:
    return text.partition(f"\n## {title}\n\n")[2].partition("\n\n## ")[0]


def limits(given: CardInput, **metrics: Any) -> str:
    return section(card(replace(given, metrics={**given.metrics, **metrics})), "Limits")


def test_hubs_can_read_the_metadata(given: CardInput) -> None:
    data = ModelCard(card(given)).data
    assert (data.base_model, data.library_name, data.pipeline_tag) == (HUB, "peft", "text-generation")
    assert (data.tags, data.datasets, data.license) == (
        ["peft", "lora", "peft_nb"],
        ["owner/tickets"],
        "apache-2.0",
    )
    tagged = ModelCard(card(replace(given, tags=("baseline", "lora")))).data
    assert tagged.tags == ["peft", "lora", "peft_nb", "baseline"]
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_type) == ("loss", 2.0, "owner/tickets")


@pytest.mark.parametrize(
    ("fields", "measured", "listed"),
    [
        ({"task": "dpo"}, "preference_accuracy", ("accuracy", "preference accuracy")),
        ({"task": "kto"}, "preference_accuracy", ("accuracy", "preference accuracy")),
        ({"task": "grpo", "reward": "length:12"}, "eval_reward", ("mean_reward", "reward")),
    ],
    ids=str,
)
def test_hubs_find_what_was_learned_of_judgements(
    given: CardInput, fields: dict[str, Any], measured: str, listed: tuple[str, str]
) -> None:
    spec = RunSpec(data="owner/tickets", method="lora", **fields)
    data = ModelCard(card(replace(given, spec=spec, metrics={**TRAINED, measured: 0.75}))).data
    assert data.tags == ["peft", "lora", "peft_nb", fields["task"]]
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_name, result.metric_value) == (*listed, 0.75)
    assert result.task_type == "text-generation"


def test_what_hubs_do_not_have_is_not_in_the_metadata(given: CardInput) -> None:
    facts = Facts(data="DataFrame `tickets`")
    data = ModelCard(card(replace(given, base="/home/anna/models/tiny", facts=facts, metrics={}))).data
    assert (data.base_model, data.datasets, data.eval_results) == (None, None, None)
    assert data.license is None


def test_every_section_is_there_and_told_from_the_facts(given: CardInput) -> None:
    found = {"title": "2 duplicate rows", "level": "harms"}
    data = {"layout": "messages", "findings": [found], "lengths": {"shortest": 3, "median": 50, "longest": 1200}}
    more = {**given.metrics, "verdict": "accepted: better than the base", "perplexity": 7.4, "train_loss": 1.25}
    text = card(replace(given, data=data, metrics=more, curves=True))
    titles = ["Base", "Data", "Spec", "Training", "Results", "Verdict", "Limits", "How to use"]
    assert re.findall("^## (.*)$", text, re.M) == titles
    assert "License of its weights: Apache-2.0" in section(text, "Base")
    assert "    - 2 duplicate rows\n" in section(text, "Data") + "\n"
    assert "3 the shortest, 50 tokens at the median, 1,200 the longest" in section(text, "Data")
    assert given.spec.to_yaml() in section(text, "Spec") + "\n"
    assert "](curves.png)" in section(text, "Training")
    assert "| train loss | 1.25 |" in section(text, "Training")
    assert "| eval loss | 3 | 2 |\n| perplexity |  | 7.4 |" in section(text, "Results")
    assert re.search(r"^\| loss change on general text .*\|  \| 0.1 \|$", section(text, "Results"), re.M)
    assert section(text, "Verdict") == "accepted: better than the base"
    assert "Its data had flaws: 2 duplicate rows." in section(text, "Limits")
    assert "```python\nprint(1)\n```" in section(text, "How to use")
    assert "curves.png" not in card(given)


def test_limits_are_what_was_not_done(given: CardInput) -> None:
    assert len(limits(given).splitlines()) == 1  # what nobody tests
    assert "Little data: 10 training examples, where lora usually needs 50." in limits(given, examples=10)
    assert "Little data: 900 training examples." in limits(given, examples=900)
    assert "Every example was seen at most once." in limits(given, steps=250)
    assert "at most once" not in limits(given, steps=251)
    assert "Stopped early: 700 of 750 steps were taken." in limits(given, steps=700)
    assert "there was no evaluation set" in limits(given, eval_examples=0)
    assert "Hardly tested: 7 evaluation examples" in limits(given, eval_examples=7)
    assert "Not tested: bias, safety, and" in limits(given)
    assert "Not tested: safety, and" in limits(given, bias_shift=0.01)
    assert "no lower than the base's" in limits(given, eval_loss=3.0)
    assert "(forgetting)" in limits(given, forgetting=None)
    assert "not whether its own answers are right" in limits(given, score=None)


def test_neither_paths_nor_secrets_nor_foreign_markup_come_through(given: CardInput) -> None:
    key = "sk-proj-Zq8vT3nB6xWm2LpR9cYd4KfH7sJg"
    paths = {"data": "/home/anna/tickets.csv", "model": "/home/anna/tiny", "eval_data": "~anna/held.csv"}
    paths |= {"regression": "../anna/own.jsonl", "method_options": {"rotation": "/home/anna/r.safetensors"}}
    spec = RunSpec(
        **paths, name=key, system=f"Say ``` and use\n>>> {key}."
    )  # written in quotes, where its n would hide the key
    facts, metrics = (
        Facts(data="/home/anna/tickets.csv"),
        {"verdict": "<script>alert(1)</script> | [x](http://y)\n# Best"},
    )
    found = {"title": "few rows of '**<img src=x>**'", "level": "note"}
    text = card(CardInput("/home/anna/tiny", spec, facts, metrics, f'"{key}"', {"findings": [found]}))
    assert "anna" not in text
    assert key not in text
    assert "- Source: tickets.csv" in section(text, "Data")
    assert "model: tiny\n" in section(text, "Spec")
    assert "regression: own.jsonl\n" in section(text, "Spec")
    assert section(text, "Verdict") == r"\<script\>alert(1)\</script\> \| \[x\](http://y) \# Best"
    assert r"'\*\*\<img src=x\>\*\*'" in text
    assert section(text, "Spec").startswith("````yaml\n")


@pytest.mark.parametrize("name", ["DATABASE", "INPUTS MESSAGES TEXT", "END BASE LOADED TOKENIZER LENGTH LABELS"])
@pytest.mark.parametrize("more", ["", AWKWARD])
@pytest.mark.parametrize("template", [True, False])
def test_whatever_a_text_says_the_lines_of_python_hold_it_as_it_is(
    base: Path, given: CardInput, name: str, more: str, template: bool
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = tokenizer.chat_template if template else None
    spec = RunSpec(data=f"{name}.csv", columns={"prompt": name}, system=name + more)
    lines = usage(f"path/to/{name}", spec, given.facts, tokenizer)
    block = section(card(replace(given, spec=spec, usage=lines)), "How to use")
    fence = block.partition("python")[0]
    code = block.partition("\n")[2].rpartition(f"\n{fence}")[0]
    told = [one.value for one in ast.walk(ast.parse(code)) if isinstance(one, ast.Constant)]
    assert f"path/to/{name}" in told
    asked = f"{name}{more}\n\nUser: What can you do?\nAssistant:"
    assert (name + more if template else asked) in told


@pytest.mark.parametrize("text", ["use\nsk-proj-Zq8vT3nB6xWm2LpR9cYd4KfH7sJg", 'token: abcdefg123456789\\"x'])
def test_without_its_secrets_python_stays_python(given: CardInput, text: str) -> None:
    block = section(card(replace(given, usage=f"print({json.dumps(text)}, 'ok')")), "How to use")
    (call,) = ast.parse(block.split("\n")[1]).body
    (told, ok) = call.value.args  # type: ignore[attr-defined]
    assert "[secret]" in told.value
    assert ok.value == "ok"


def test_a_fence_is_longer_than_any_in_the_text() -> None:
    assert fenced("", "a ```` b") == "`````\na ```` b\n`````"


def test_the_store_holds_a_card_with_the_curves_and_saving_tells_what_is_known_later(
    spec: Callable[..., RunSpec], rows: list[Any], store: Store, tmp_path: Path
) -> None:
    run: Run = begin(spec(name="desk"), data=[*rows, rows[3]], store=store).wait()
    text = (run.adapter_dir / "README.md").read_text()
    assert "\n# desk\n" in text
    assert str(Path(run.spec.model).parent) not in text
    assert "1 duplicate row" in section(text, "Data")
    assert f"| eval loss | {run.metrics['base_eval_loss']:.4g} | {run.metrics['eval_loss']:.4g} |" in text
    assert rows[3]["answer"] not in text
    picture = (run.adapter_dir / "curves.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert section(text, "Verdict") == "No criteria given."
    store.set_metrics(run.id, {"verdict": "accepted"})
    folder = load(run.id, store=store).save(tmp_path / "adapter")
    assert section((folder / "README.md").read_text(), "Verdict") == "accepted"
    assert (folder / "curves.png").read_bytes() == picture
