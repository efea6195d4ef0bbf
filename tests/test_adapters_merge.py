"""Merging: what is written does what the live model does, which never notices."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from transformers import AutoModelForCausalLM, AutoTokenizer

from peft_nb.adapters import merge as merging
from peft_nb.errors import MergeError, MethodError, ModelError, StoreError
from peft_nb.models.plain import bare, copied
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import METHODS, RunSpec
from peft_nb.store import Store
from tests import tiny
from tests.conftest import few, file_size_limit, in_turn
from tests.shell import refused

pytestmark = pytest.mark.exhaustive

IDS = torch.tensor([[1, 60, 7, 100, 9, 300, 12, 2]])


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folders of tiny models of other families, with the tokenizer of the usual one."""

    def make(family: str, **changes: Any) -> Path:
        folder = tmp_path_factory.mktemp(family)
        shutil.copytree(base, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("*model*", "config.json"))
        tiny.base(family, vocab_size=512, eos_token_id=2, pad_token_id=0, **changes).save_pretrained(folder)
        return folder

    return make


@pytest.fixture(scope="module")
def learn(spec: Callable[..., RunSpec], rows: list[dict[str, str]], tmp_path_factory: Any) -> Callable[..., Run]:
    store = Store(tmp_path_factory.mktemp("merge"))

    def learn(**fields: Any) -> Run:
        model = fields.pop("pair", None)
        return begin(spec(**{"max_steps": 4, **fields}), data=rows, model=model, store=store).wait()

    return learn


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        return model(input_ids=IDS).logits.float()


def everything(model: Any) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items() if torch.is_tensor(tensor)}


def unchanged(model: Any, before: dict[str, torch.Tensor]) -> bool:
    after = everything(model)
    return after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before)


def merged(run: Run, folder: Path, **options: Any) -> Any:
    """Merge, check that the live model stays as it is to the last bit, and load the result by transformers alone."""
    before, said = everything(run.model), logits(run.model)
    result = run.merge(folder, **options)
    assert unchanged(run.model, before)
    assert torch.equal(logits(run.model), said)
    assert [path.name for path in folder.parent.iterdir() if path.name.startswith(".")] == []
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert result.dtype == str(again.dtype).removeprefix("torch.")
    return again.eval()


NEEDED: dict[str, dict[str, Any]] = {
    "trainable-tokens": {"method_options": {"token_indices": [1, 2]}, "learning_rate": 0.3},
    "bitfit": {"method_options": {"add": "all"}},
    "eva": {"r": 4},
}
MERGING = [name for name in METHODS if name not in {"prompt", "prefix", "p-tuning", "adaption-prompt", "bottleneck"}]


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", [name for name in MERGING if name not in {"bitfit", "qlora"}])
def test_every_method_that_merges_gives_the_live_models_logits(
    learn: Callable[..., Run], method: str, tmp_path: Path
) -> None:
    run = learn(method=method, **NEEDED.get(method, {}))
    again = merged(run, tmp_path / "merged")
    with run.model.disable_adapter():
        assert (logits(run.model) - logits(again)).abs().max() > 1e-3  # it has learned something
    torch.testing.assert_close(logits(again), logits(run.model), atol=1e-4, rtol=1e-4)
    assert type(again).__name__ == "LlamaForCausalLM"
    assert not hasattr(again.config, "quantization_config")


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    ("family", "method"),
    in_turn(
        product(("gpt2", "gpt-neox", "phi"), ("lora", "bitfit", "full")),
        # the weights of GPT-2's layers are turned, so that it meets every method
        {("gpt2", "lora"), ("gpt2", "bitfit"), ("gpt2", "full"), ("gpt-neox", "bitfit"), ("phi", "lora")},
    ),
)
def test_biases_and_other_families(
    folders: Callable[..., Path], learn: Callable[..., Run], family: str, method: str, tmp_path: Path
) -> None:
    run = learn(model=str(folders(family)), method=method)
    torch.testing.assert_close(logits(merged(run, tmp_path / "merged")), logits(run.model), atol=1e-4, rtol=1e-4)


TIED = {
    "all-linear": {},
    "the head": {"target_modules": ["lm_head"]},
    "the embeddings": {"target_modules": ["embed_tokens"]},
    "both": {"target_modules": ["embed_tokens", "lm_head", "q_proj"]},
    "rows": {"method": "trainable-tokens", **NEEDED["trainable-tokens"]},
    "rows beside": {"method_options": {"trainable_token_indices": [1, 2]}},
    "everything": {"method": "full", "learning_rate": 1e-3},
    "one layer": {"method": "full", "target_modules": ["layers.0"]},
}


@pytest.mark.parametrize("what", few(TIED, "all-linear", "the head"))
def test_tied_embeddings_stay_tied_only_where_they_are_still_equal(
    folders: Callable[..., Path], learn: Callable[..., Run], what: str, tmp_path: Path
) -> None:
    folder = folders("llama", tie_word_embeddings=True)
    run = learn(model=str(folder), **TIED[what])
    again = merged(run, tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(run.model), atol=1e-4, rtol=1e-4)
    one_end = what in ("the head", "the embeddings", "both")
    assert again.config.tie_word_embeddings == (not one_end)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == (not one_end)


@pytest.mark.parametrize("tied", few([True, False], True))
def test_modules_that_are_saved_whole_are_merged_too(
    folders: Callable[..., Path], learn: Callable[..., Run], tied: bool, tmp_path: Path
) -> None:
    from peft import LoraConfig, get_peft_model

    run = learn(model=str(folders("llama", tie_word_embeddings=tied)))
    config = LoraConfig(target_modules=["q_proj"], modules_to_save=["embed_tokens"], task_type="CAUSAL_LM")
    model = get_peft_model(bare(run.model), config).eval()
    model.get_input_embeddings().modules_to_save["default"].weight.data.mul_(1.5)
    run.adapter.hold(model, run.tokenizer)
    again = merged(run, tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(model), atol=1e-4, rtol=1e-4)
    assert not torch.equal(again.lm_head.weight, again.model.embed_tokens.weight)


@pytest.mark.exhaustive
def test_a_quantized_base_is_merged_into_what_its_quantization_left_of_it(
    base: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    run = learn(method="qlora")
    run.generate(["Hello", "Where is it?"], max_new_tokens=4)  # after a forward pass weights are repacked as a rule
    again = merged(run, tmp_path / "merged", max_kl=0.01)
    result = run.merge(tmp_path / "again", max_kl=0.01)
    assert list(result.table["candidate"]) == ["original weights", "NF4 round trip", "read back from disk"]
    assert result.chosen == "NF4 round trip"
    original, chosen, read = result.table["KL"]
    assert chosen == pytest.approx(read, rel=0.1, abs=1e-6)
    assert chosen < 1e-4 < original
    torch.testing.assert_close(logits(again), logits(run.model), atol=1e-3, rtol=1e-3)
    weights = AutoModelForCausalLM.from_pretrained(base).model.layers[0].mlp.up_proj.weight.data
    packed, state = quantize_4bit(weights, quant_type="nf4", compress_statistics=True)
    assert torch.equal(copied(bare(run.model)).model.layers[0].mlp.up_proj.weight.data, dequantize_4bit(packed, state))
    assert not hasattr(again.config, "quantization_config")


def test_a_live_quantized_pair_that_has_run_before_is_merged_all_the_same(
    base: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    from transformers import BitsAndBytesConfig

    options = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(
        base, dtype=torch.float32, device_map={"": "cpu"}, quantization_config=options
    )
    logits(model.eval())
    repacked = bool(model.model.layers[0].mlp.up_proj.support_avx512bf16_for_cpu)
    run = learn(method="qlora", model="(in memory)", pair=(model, AutoTokenizer.from_pretrained(base)))
    again = merged(run, tmp_path / "merged")
    torch.testing.assert_close(logits(again), logits(run.model), atol=1e-3, rtol=1e-3)
    if repacked:  # what the live model is never asked for
        naive = model.dequantize()
        assert (logits(naive) - logits(bare(run.model))).abs().max() > 1


@pytest.mark.exhaustive
def test_int8_has_its_own_round_trip(learn: Callable[..., Run], tmp_path: Path) -> None:
    run = learn(quantization="8bit")
    result = run.merge(tmp_path / "merged")
    assert set(result.table["candidate"]) == {"original weights", "int8 round trip", "read back from disk"}
    assert result.table["KL"].max() < 0.005


def test_a_live_pair_is_copied(base: Path, learn: Callable[..., Run], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    model.model.norm.weight.data.mul_(1.2)  # it is no longer what its folder holds
    before = everything(model)
    run = learn(model="(in memory)", pair=(model, AutoTokenizer.from_pretrained(base)))
    torch.testing.assert_close(logits(merged(run, tmp_path / "merged")), logits(run.model), atol=1e-4, rtol=1e-4)
    assert unchanged(model, before)


def test_a_run_from_the_store_is_merged_on_its_held_out_rows(learn: Callable[..., Run], tmp_path: Path) -> None:
    run = learn()
    again = load(run.id, store=run.store)
    result = again.merge(tmp_path / "merged", dtype="bfloat16")
    assert result.judged_on == "2 evaluation rows"
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "merged").dtype == torch.bfloat16
    assert result.mb == pytest.approx(sum(file.stat().st_size for file in result.folder.iterdir()) / 1e6, rel=0.02)
    for name in ("examples.json", "labelled.safetensors"):
        (run.folder / name).unlink(missing_ok=True)
    assert run.merge(tmp_path / "asked", prompts=["Where is my order?"]).judged_on == "1 prompts"
    assert run.merge(tmp_path / "built-in").judged_on == "6 built-in prompts"


def test_the_folder_is_all_that_others_need(learn: Callable[..., Run], tmp_path: Path) -> None:
    run = learn(name="desk")
    result = run.merge(tmp_path / "merged")
    files = {path.name for path in result.folder.iterdir()}
    assert files >= {"README.md", "config.json", "generation_config.json", "model.safetensors", "tokenizer.json"}
    assert not any(name.startswith("adapter") for name in files)
    readme = (result.folder / "README.md").read_text()
    for told in ("# desk\n", "base_model: ", "\nbatch_size: 5\n", "| read back from disk |"):
        assert told in readme
    model, tokenizer = (kind.from_pretrained(result.folder) for kind in (AutoModelForCausalLM, AutoTokenizer))
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hello"}], add_generation_prompt=True, return_tensors="pt"
    )
    made = model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(made, skip_special_tokens=True).strip() == run.generate("Hello", max_new_tokens=8)
    assert "original weights" in repr(result)
    assert "<table" in result._repr_html_()


def test_a_model_without_a_chat_template_is_given_the_one_it_was_taught_with(
    base: Path, learn: Callable[..., Run], tmp_path: Path
) -> None:
    folder = shutil.copytree(base, tmp_path / "base", ignore=shutil.ignore_patterns("chat_template*"))
    run = learn(model=str(folder))
    run.merge(tmp_path / "merged")
    assert run.tokenizer.chat_template is None
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    asked = tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], add_generation_prompt=True)
    assert tokenizer.decode(asked["input_ids"]) == "User: Hello\nAssistant:"


def test_in_float32_a_run_in_16_bits_is_held_to_its_adapter_and_not_to_its_rounding(
    learn: Callable[..., Run], tmp_path: Path
) -> None:
    run = learn(dtype="bfloat16")
    exact = run.merge(tmp_path / "exact", dtype="float32")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "exact")
    assert again.dtype == torch.float32
    from_live = torch.nn.functional.kl_div(
        logits(again).log_softmax(-1), logits(run.model).log_softmax(-1), log_target=True, reduction="sum"
    )
    assert exact.kl < 2e-5 < float(from_live) / IDS.numel()  # the base in bfloat16, and its rounding in every layer


def test_over_the_bound_nothing_is_kept_and_the_table_is_shown(finished: Run, tmp_path: Path) -> None:
    with pytest.raises(MergeError, match="every candidate differs from the live model by") as refused:
        finished.merge(tmp_path / "merged", dtype="bfloat16", max_kl=1e-12)
    assert list(tmp_path.iterdir()) == []
    line, *table = refused.value._render_traceback_()
    assert "nothing is kept" in line
    assert "original weights" in table[1]


def test_large_models_are_written_in_shards(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "SHARD", "100KB")
    again = merged(finished, tmp_path / "merged")
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 3
    torch.testing.assert_close(logits(again), logits(finished.model), atol=1e-4, rtol=1e-4)


def test_what_fails_leaves_nothing_behind(finished: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = everything(finished.model)
    with file_size_limit(200_000), pytest.raises(StoreError, match="cannot write"):
        finished.merge(tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []

    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(merging, "_card", interrupted)  # when everything else has been written
    with pytest.raises(KeyboardInterrupt):
        finished.merge(tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []
    assert unchanged(finished.model, before)
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(StoreError, match="it holds 'thesis.tex' already; choose another folder"):
        finished.merge(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ModelError, match="unknown dtype 'bfloat'; did you mean 'bfloat16'"):
        finished.merge(tmp_path / "merged", dtype="bfloat")


@pytest.mark.parametrize(
    "method", few(["prompt", "prefix", "p-tuning", "adaption-prompt", "bottleneck", "bitfit"], "prefix", "bottleneck")
)
def test_a_method_that_cannot_merge_says_what_works(learn: Callable[..., Run], method: str, tmp_path: Path) -> None:
    run = learn(method=method, max_steps=1)
    with pytest.raises(MethodError) as refused:
        run.merge(tmp_path / "merged")
    assert "\n" not in str(refused.value)
    for told in ("save", "lora"):
        assert told in str(refused.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
def test_classifiers_with_a_head_of_transformers_are_merged(
    plain_encoder: Path, labelled: list[dict[str, str]], spec: Callable[..., RunSpec], store: Store, tmp_path: Path
) -> None:
    from transformers import AutoModelForSequenceClassification

    asked = {"task": "classification", "max_steps": 6, "eval_steps": 6, "batch_size": 32}
    run = begin(spec(model=str(plain_encoder), **asked), data=labelled, store=store).wait()
    texts = [row["text"] for row in labelled[:8]]
    before, said = everything(run.model), run.predict(texts)
    result = run.merge(tmp_path / "merged")
    assert unchanged(run.model, before)
    assert result.table["KL"].max() < 1e-6
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "merged").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "merged")
    found = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1)
    assert [model.config.id2label[best] for best in found.argmax(-1).tolist()] == list(said["label"])
    torch.testing.assert_close(found.max(-1).values.tolist(), list(said["probability"]), atol=1e-4, rtol=1e-4)
    assert run.merge(tmp_path / "small", dtype="bfloat16", prompts=texts).judged_on == "8 prompts"


def test_a_classifier_that_transformers_has_no_class_for_says_what_works(
    encoder: Path, labelled: list[dict[str, str]], spec: Callable[..., RunSpec], store: Store, tmp_path: Path
) -> None:
    run = begin(spec(model=str(encoder), task="classification", max_steps=1), data=labelled, store=store).wait()
    with pytest.raises(MethodError, match=r"no class of transformers holds this classifier, .*; save\(path\) writes"):
        run.merge(tmp_path / "merged")
    assert list(tmp_path.glob("merged*")) == []


def test_the_command_merges_and_shows_the_table(shell: InteractiveShell, finished: Run, tmp_path: Path) -> None:
    shell.user_ns["run"] = finished
    found = shell.run_line_magic("peft", f"merge run {tmp_path / 'merged'} --dtype=bfloat16 --max-kl 0.1")
    assert (found.dtype, found.folder) == ("bfloat16", tmp_path / "merged")
    refused(shell, f"%peft merge run {tmp_path / 'other'} --dtype bfloat16 --max-kl 1e-12", MergeError)
