"""A base with a head on top, and the base left as it was."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from peft_nb.errors import ModelError
from peft_nb.models import head as heads
from peft_nb.models.load import Base, load
from peft_nb.models.resolve import resolve

NAMES = ("fruit", "tool", "bird")
SINGLE, MULTI = "single_label_classification", "multi_label_classification"


def loaded(folder: Path) -> Base:
    return load(resolve(str(folder)), kind=None)


def padded(folder: Path, texts: list[str]) -> dict[str, torch.Tensor]:
    inputs = AutoTokenizer.from_pretrained(folder)(texts, padding=True, return_tensors="pt")
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def test_an_encoder_pools_as_the_file_beside_it_says(encoder: Path, plain_encoder: Path, tmp_path: Path) -> None:
    assert heads.pooling(loaded(encoder)) == "mean"
    assert heads.pooling(loaded(plain_encoder)) == ""
    for told, pooling in (
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, ""),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, ""),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        shutil.copytree(encoder, folder)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(told))
        assert heads.pooling(loaded(folder)) == pooling


def test_mean_pooling_counts_no_padding(encoder: Path) -> None:
    model, new = heads.build(loaded(encoder), NAMES, SINGLE)
    assert (type(model).__name__, new) == ("MeanPooled", ["classifier"])
    inputs = padded(encoder, ["a red owl", "we saw a fig in the yard"])
    logits = model(**inputs).logits
    alone = AutoModel.from_pretrained(encoder).eval()
    for row, length in enumerate(inputs["attention_mask"].sum(1)):
        hidden = alone(inputs["input_ids"][row : row + 1, :length]).last_hidden_state
        torch.testing.assert_close(model.classifier(hidden.mean(1)), logits[row : row + 1])


@pytest.mark.parametrize("family", ["encoder", "causal"])
def test_where_nothing_is_said_the_head_is_transformers_own(family: str, plain_encoder: Path, base: Path) -> None:
    folder = plain_encoder if family == "encoder" else base
    torch.manual_seed(0)
    model, new = heads.build(loaded(folder), NAMES, MULTI)
    stock = AutoModelForSequenceClassification.from_pretrained(folder, config=model.config).eval()
    assert type(model) is type(stock)
    assert new == {"encoder": ["classifier"], "causal": ["score"]}[family]
    stock.load_state_dict({name: model.state_dict()[name] for name in stock.state_dict()})
    inputs = padded(folder, ["a red owl", "we saw a fig in the yard"])
    torch.testing.assert_close(model(**inputs).logits, stock(**inputs).logits)
    head = model.get_submodule(new[0]).weight
    assert 0.5 < head.std() / model.config.initializer_range < 2


def test_the_classes_are_kept_in_the_configuration(encoder: Path) -> None:
    for kind in (SINGLE, MULTI):
        config = heads.build(loaded(encoder), NAMES, kind)[0].config
        assert (config.num_labels, config.problem_type, config.pad_token_id) == (3, kind, 0)
        assert config.id2label == {0: "fruit", 1: "tool", 2: "bird"}
        assert config.label2id == {"fruit": 0, "tool": 1, "bird": 2}


def test_the_base_is_shared_and_stays_as_it_was(base: Path) -> None:
    known = load(resolve(str(base)))
    assert loaded(base) is known
    before = {name: (tensor.data_ptr(), tensor.clone()) for name, tensor in known.model.state_dict().items()}
    modules, config = [name for name, _ in known.model.named_modules()], known.model.config.to_dict()
    model, _ = heads.build(known, NAMES, SINGLE)
    pointers = {place for place, _ in before.values()}
    assert {tensor.data_ptr() for tensor in model.base_model.state_dict().values()} <= pointers
    assert model.score.weight.data_ptr() not in pointers
    assert [name for name, _ in known.model.named_modules()] == modules
    assert known.model.config.to_dict() == config
    assert all(torch.equal(known.model.state_dict()[name], tensor) for name, (_, tensor) in before.items())
    assert isinstance(known.model, type(AutoModelForCausalLM.from_pretrained(base)))


def test_a_pooler_that_the_files_lack_is_trained_and_saved(plain_encoder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "masked"
    shutil.copytree(plain_encoder, folder)
    weights = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert heads.build(loaded(folder), NAMES, SINGLE)[1] == ["classifier", "pooler"]


def test_heads_are_in_float32_over_a_base_in_bfloat16(encoder: Path, plain_encoder: Path, base: Path) -> None:
    for folder in (encoder, plain_encoder, base):
        model, new = heads.build(load(resolve(str(folder)), kind=None, dtype="bfloat16"), NAMES, SINGLE)
        assert {one.dtype for one in model.base_model.parameters()} == {torch.bfloat16}
        assert {one.dtype for name in new for one in model.get_submodule(name).parameters()} == {torch.float32}
        assert model(**padded(folder, ["a red owl", "one fig"])).logits.dtype == torch.float32


def test_a_kind_of_model_without_a_classifier_is_refused_in_a_line(tmp_path: Path, base: Path) -> None:
    from transformers import VitsConfig

    with pytest.raises(ModelError, match=r"^x is a vits model, for which transformers has no classifier; take another"):
        heads._stock(VitsConfig(), "x")
