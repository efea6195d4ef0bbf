"""A live pair that is not the base it names: what is saved, told and put back."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

from peft_nb.data.sources import IN_MEMORY
from peft_nb.events import Event, Notice
from peft_nb.models.live import WEIGHTS
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import stop_at

NEW = ["<|order|>", "<|refund|>"]
TEMPLATE = (
    "{% for message in messages %}<|order|>{{ message.role }}: {{ message.content }}<|refund|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|order|>assistant: {% endif %}"
)
PLAIN = {"README.md", "curves.png", "adapter_config.json", "adapter_model.safetensors", "spec.yaml"}
EMBEDDING, HEAD = "model.model.embed_tokens.weight", "model.lm_head.weight"

OFFERS: list[dict[str, Any]] = [
    {"method_options": {"trainable_token_indices": {"embed_tokens": [512, 513], "lm_head": [512, 513]}}},
    {
        "method": "trainable-tokens",
        "target_modules": ["embed_tokens", "lm_head"],
        "method_options": {"token_indices": [512, 513]},
    },
]

Train = Callable[..., Run]


@pytest.fixture(scope="module")
def train(spec: Callable[..., RunSpec], rows: Any, tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Train two steps on a pair."""
    store = Store(tmp_path_factory.mktemp("live"))

    def train(pair: Any, *listeners: Any, data: Any = rows, **fields: Any) -> Run:
        wanted = spec(**{"model": IN_MEMORY, "max_steps": 2, "eval_steps": None, **fields})
        return begin(wanted, data=data, model=pair, store=store, listeners=listeners).wait()

    return train


def untouched(folder: Path, auto: Any = AutoModelForCausalLM) -> tuple[Any, Any]:
    """A pair as it is loaded."""
    return auto.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def changed(folder: Path, auto: Any = AutoModelForCausalLM) -> tuple[Any, Any]:
    """A pair with more tokens, another end, another template, and values of its own in some rows."""
    model, tokenizer = untouched(folder, auto)
    tokenizer.add_special_tokens({"additional_special_tokens": NEW})
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model.resize_token_embeddings(len(tokenizer))
        for end in filter(None, (model.get_input_embeddings(), model.get_output_embeddings())):
            end.weight.data[-2:] = torch.randn(2, end.weight.shape[1])
            end.weight.data[[1, 7]] *= -1.5
    tokenizer.chat_template, tokenizer.eos_token = TEMPLATE, "<|refund|>"
    return model, tokenizer


@pytest.fixture(scope="module")
def run(train: Train, base: Path) -> Run:
    """A run on a changed pair; its notices are kept."""
    heard: list[Event] = []
    made = train(changed(base), heard.append)
    made.heard = heard  # type: ignore[attr-defined]
    return made


def written(value: Any) -> str:
    """A value as YAML on one line."""
    return str(value).replace("'", "")


def weights(run: Run) -> set[str]:
    """What an adapter's file holds of the base."""
    keys = load_file(run.adapter_dir / WEIGHTS).keys()
    return {key.removeprefix("base_model.") for key in keys if "lora" not in key}


def by_the_card(run: Run, base: Path) -> dict[str, Any]:
    """Do what the card says, knowing nothing but the folder and the named base."""
    lines = (run.adapter_dir / "README.md").read_text().split("```python\n")[1].split("```")[0]
    lines = lines.replace("path/to/this/folder", str(run.adapter_dir)).replace(f"path/to/{base.name}", str(base))
    found: dict[str, Any] = {}
    with redirect_stdout(StringIO()), torch.no_grad():
        exec(lines, found)
    return found


def answer(run: Run) -> list[int]:
    """The ids that a run's live model writes after the card's question."""
    asked, tokenizer = [{"role": "user", "content": "What can you do?"}], run.tokenizer
    text = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    how = {"max_new_tokens": 128, "do_sample": False, "eos_token_id": tokenizer.eos_token_id}
    ids: list[int] = run.model.generate(**text, **how)[0].tolist()
    return ids


def test_an_untouched_pair_leaves_the_files_that_a_named_base_does(train: Train, base: Path, finished: Run) -> None:
    run = train(untouched(base))
    assert {path.name for path in run.adapter_dir.iterdir()} == PLAIN
    assert weights(run) == set()
    named, live = ((one.adapter_dir / "README.md").read_text().split("## How to use")[1] for one in (finished, run))
    assert live == named


def test_the_card_of_a_changed_pair_answers_as_it_did(run: Run, base: Path) -> None:
    assert {path.name for path in run.adapter_dir.iterdir()} >= PLAIN | {"tokenizer.json", "tokenizer_config.json"}
    assert weights(run) == {EMBEDDING, HEAD}
    found = by_the_card(run, base)
    assert found["made"][0].tolist() == answer(run)
    assert found["tokenizer"].chat_template == TEMPLATE


def test_new_tokens_that_are_not_trained_are_told_at_the_start_and_in_the_card(run: Run) -> None:
    (told,) = [one.text for one in run.heard if isinstance(one, Notice) and "new tokens" in one.text]  # type: ignore[attr-defined]
    assert told.startswith("2 new tokens have embeddings that this run does not train: <|order|>, <|refund|>; ")
    for offer in OFFERS:
        assert ", ".join(f"{field}: {written(value)}" for field, value in offer.items()) in told
    card = (run.adapter_dir / "README.md").read_text()
    assert "Untrained tokens: 2 new tokens have embeddings that this run does not train" in card
    assert (
        "- The tokenizer in this folder is not the base's\n- The embeddings in this folder are not the base's" in card
    )


@pytest.mark.parametrize("fields", [*OFFERS, {"target_modules": ["embed_tokens", "lm_head", "q_proj"]}])
def test_what_the_notice_offers_trains_them(train: Train, base: Path, fields: dict[str, Any]) -> None:
    heard: list[Event] = []
    run = train(changed(base), heard.append, **fields)
    assert not [one for one in heard if isinstance(one, Notice) and "new tokens" in one.text]
    assert "Untrained tokens" not in (run.adapter_dir / "README.md").read_text()
    assert by_the_card(run, base)["made"][0].tolist() == answer(run)


def test_the_run_is_opened_again_on_the_base_that_the_pair_was_made_of(run: Run, base: Path, tmp_path: Path) -> None:
    pair, ids = untouched(base), torch.tensor([[512, 60, 7, 513]])
    before = pair[0].get_input_embeddings().weight.clone()
    again = load(run.id, model=pair, store=run.store)
    with torch.inference_mode():
        assert torch.equal(again.model(input_ids=ids).logits, run.model(input_ids=ids).logits)
    assert again.tokenizer.chat_template == TEMPLATE
    assert torch.equal(pair[0].get_input_embeddings().weight, before)
    again.save(tmp_path / "again")
    assert load_file(tmp_path / "again" / WEIGHTS).keys() == load_file(run.adapter_dir / WEIGHTS).keys()


def test_what_cannot_be_compared_is_saved(train: Train, base: Path, tmp_path: Path) -> None:
    model, tokenizer = untouched(base)
    model.name_or_path = model.config._name_or_path = "nobody/nowhere"
    run = train((model, tokenizer))
    assert (run.adapter_dir / "tokenizer.json").exists()
    assert weights(run) == {EMBEDDING, HEAD}
    shutil.copytree(base, tmp_path / "base")
    model.name_or_path = model.config._name_or_path = str(tmp_path / "base")
    for file in (tmp_path / "base").glob("*.safetensors"):
        file.write_bytes(b"torn")
    assert weights(train((model, tokenizer))) == {EMBEDDING, HEAD}


def test_a_stopped_run_goes_on_with_what_it_began_with(train: Train, base: Path) -> None:
    run = train(changed(base), stop_at(1), max_steps=3)
    assert run.status == "stopped"
    assert load(run.id, model=untouched(base), store=run.store).resume().status == "finished"
    again = load(run.id, model=changed(base), store=run.store)
    whole = train(changed(base), max_steps=3)
    ids = torch.tensor([[512, 60, 7, 513]])
    with torch.inference_mode():
        torch.testing.assert_close(again.model(input_ids=ids).logits, whole.model(input_ids=ids).logits)


def test_a_merged_model_is_the_changed_one(run: Run, tmp_path: Path) -> None:
    run.merge(tmp_path / "merged")
    model, tokenizer = untouched(tmp_path / "merged")
    ids = torch.tensor([[512, 60, 7, 513]])
    with torch.inference_mode():
        torch.testing.assert_close(model(input_ids=ids).logits, run.model(input_ids=ids).logits, atol=1e-4, rtol=1e-4)
    assert (tokenizer.chat_template, tokenizer.eos_token) == (TEMPLATE, "<|refund|>")
    assert tokenizer.convert_tokens_to_ids(NEW) == [512, 513]


def test_tied_embeddings_are_saved_once_and_the_pair_may_be_in_other_numbers(
    train: Train, base: Path, tmp_path: Path
) -> None:
    model, tokenizer = untouched(base)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path)
    heard: list[Event] = []
    run = train(changed(tmp_path), heard.append, method="prompt", dtype="float32")
    assert weights(run) - {"prompt_embeddings"} == {EMBEDDING.removeprefix("model.")}
    assert any("trainable_token_indices: [512, 513]}" in one.text for one in heard if isinstance(one, Notice))
    assert by_the_card(run, tmp_path)["made"][0].tolist() == answer(run)
    model, tokenizer = untouched(tmp_path)
    model.to(torch.bfloat16).get_input_embeddings().weight.data[7] = 0
    run = train((model, tokenizer), dtype="float32")
    assert weights(run) == {EMBEDDING}
    assert not (run.adapter_dir / "tokenizer.json").exists()
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert weights(train((model, tokenizer), dtype="float32")) == set()


@pytest.mark.parametrize("pooled", [True, False])
def test_a_classifier_of_a_changed_encoder(
    train: Train, encoder: Path, plain_encoder: Path, labelled: Any, pooled: bool
) -> None:
    folder = encoder if pooled else plain_encoder
    model, tokenizer = changed(folder, AutoModel)
    tokenizer.pad_token = NEW[0]
    run = train((model, tokenizer), data=labelled, task="classification", model=IN_MEMORY)
    found = by_the_card(run, folder)
    wanted = run.predict(found["texts"])[sorted(run.facts.task["classes"])].values
    torch.testing.assert_close(found["logits"].softmax(-1), torch.tensor(wanted), atol=1e-5, rtol=1e-5)
