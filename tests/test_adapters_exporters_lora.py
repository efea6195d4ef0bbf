"""Adapters of other methods as LoRA, measured against what they were."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from peft_nb.adapters.exporters import Exportable, Exported
from peft_nb.adapters.exporters.lora import EXPORTER
from peft_nb.errors import MergeError, RunError
from peft_nb.methods import complete
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec


def refusal(**fields: Any) -> str:
    spec = complete(RunSpec(data="a", **fields))
    return EXPORTER.obstacle(Exportable("one", spec, {}, pytest.fail, pytest.fail, pytest.fail))


def test_what_cannot_become_a_lora_is_refused_with_what_works_instead() -> None:
    assert refusal(method="loha") == ""
    assert refusal(method="dora").startswith("method: dora is a kind of LoRA already; --as adapter writes it as it is")
    oft = "method: PEFT cannot convert oft to LoRA; --as adapter writes it as it is; --as merged writes a plain model"
    assert refusal(method="oft") == oft
    assert refusal(method="prompt") == "method: PEFT cannot convert prompt to LoRA; --as adapter writes it as it is"
    assert "trains a head too" in refusal(method="loha", task="classification", model="minilm-l6")


@pytest.fixture(scope="module")
def loha(learn: Callable[..., Run]) -> Run:
    return learn("loha")


def rows(found: object) -> list[dict[str, float]]:
    """The measurements: of the LoRA, and of the base model."""
    assert isinstance(found, Exported)
    assert found.table is not None
    return found.table.to_dict("records")


def test_at_full_rank_plain_peft_does_what_the_adapter_does(loha: Run, base: Path, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    found = loha.export(tmp_path / "out", "lora", rank=0.99999)
    near, bare = rows(found)
    assert near["KL"] < 1e-3 < bare["KL"]
    assert near["error of the logits"] < 0.05
    assert bare["error of the logits"] == 1
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out")).eval()
    ids = torch.tensor([[5, 60, 7, 100, 9]])
    with torch.inference_mode():
        wanted = loha.model(input_ids=ids).logits
        assert (plain(input_ids=ids).logits - wanted).norm() / wanted.norm() < 0.01
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"], config["rank_pattern"]) == ("LORA", "CAUSAL_LM", {})
    assert config["r"] == config["lora_alpha"]
    told = (tmp_path / "out" / "README.md").read_text()
    assert f"Converted by PEFT from loha to a LoRA of rank {config['r']}" in told


def test_a_low_rank_loses_more_and_says_so(loha: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = loha.export(tmp_path / "one", "lora", rank="1", max_kl="10")
    better = loha.export(tmp_path / "eight", "lora", rank="8", max_kl="10")
    (one, bare), (eight, _) = rows(found), rows(better)
    assert eight["KL"] < one["KL"] < bare["KL"]
    assert 0 < eight["error of the logits"] < one["error of the logits"] < 1
    assert (
        f"LoRA of rank 1, an approximation: it lacks {one['error of the logits']:.1%} of what the loha adapter"
        in repr(found)
    )
    with pytest.raises(
        MergeError, match=r"^a LoRA of rank 1 differs .*, more than max_kl, 1e-09, so nothing is kept"
    ) as over:
        loha.export(tmp_path / "none", "lora", rank="1", max_kl="1e-9")
    assert "base model" in over.value.table
    monkeypatch.setattr("peft_nb.adapters.exporters.lora.HALF", 0.1)
    with pytest.raises(MergeError, match=r"^a LoRA of rank 1 lacks \d\d% of what the loha adapter changes"):
        loha.export(tmp_path / "none", "lora", rank="1", max_kl="10")
    assert not (tmp_path / "none").exists()


def test_mistakes_are_told_before_the_model_is_touched(loha: Run, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"^max_kl: 'no' is no number above 0"):
        loha.export(tmp_path / "out", "lora", max_kl="no")
    with pytest.raises(RunError, match=r"^rank: '1.5' is neither"):
        loha.export(tmp_path / "out", "lora", rank="1.5")
    with pytest.raises(RunError, match=r"^PEFT cannot convert it to LoRA: The chosen rank 500 is larger"):
        loha.export(tmp_path / "out", "lora", rank="500")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("method", ["lokr", "vera", "miss"])
def test_other_methods_too(learn: Callable[..., Run], method: str, tmp_path: Path) -> None:
    near, bare = rows(learn(method).export(tmp_path / "out", "lora", rank=0.9999))
    assert near["KL"] < bare["KL"] / 20
    assert near["error of the logits"] < 0.2
