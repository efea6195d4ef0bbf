"""Adapters as vLLM loads them; vLLM itself is not there, so plain PEFT reads what was written."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from transformers import AutoTokenizer

from peft_nb.adapters.exporters import Exportable, Exported
from peft_nb.adapters.exporters.vllm import EXPORTER
from peft_nb.errors import MergeError, RunError
from peft_nb.methods import complete
from peft_nb.runs.run import Run
from peft_nb.spec import RunSpec

FILES = {"README.md", "curves.png", "adapter_config.json", "adapter_model.safetensors", "spec.yaml"}


def refusal(**fields: Any) -> str:
    """What is said of a spec before anything is loaded."""
    spec = complete(RunSpec(data="a", **fields))
    return EXPORTER.obstacle(Exportable("one", spec, {}, pytest.fail, pytest.fail, pytest.fail))


@pytest.mark.parametrize("method", ["lora", "qlora", "rslora", "pissa", "olora", "eva", "lora-plus"])
def test_loras_are_let_through(method: str) -> None:
    assert refusal(method=method) == ""


def test_what_vllm_does_not_load_is_refused_with_what_works_instead() -> None:
    merged = "--as merged writes a plain model, which vLLM serves too"
    assert refusal(method="dora") == f"vLLM loads no adapter with use_dora; {merged}"
    for name, value in {"modules_to_save": ["lm_head"], "lora_bias": True, "bias": "all"}.items():
        told = f"vLLM loads no adapter with {name}; {merged}"
        assert refusal(method_options={name: value}) == told
    assert refusal(method_options={"init_lora_weights": "pissa"}).startswith(
        "init_lora_weights: pissa changed the base's"
    )
    assert refusal(method_options={"init_lora_weights": "gaussian", "bias": "none"}) == ""
    assert refusal(method="oft") == f"method: oft is no LoRA, and vLLM loads no other adapters; {merged}"
    loha = f"method: loha is no LoRA, and vLLM loads no other adapters; --as lora converts it, and {merged}"
    assert refusal(method="loha") == loha
    prompt = refusal(method="prompt")
    assert prompt.endswith("vLLM loads no other adapters; train with one of them, such as lora or rslora")
    assert refusal(task="classification", model="minilm-l6").startswith("task: classification trains a head, which")


@pytest.fixture(scope="module")
def exported(learn: Callable[..., Run], tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Exported]:
    """A run whose modules have ranks and scales of their own, with a system prompt."""
    options = {"rank_pattern": {"q_proj": 12}, "alpha_pattern": {"v_proj": 64}}
    run = learn("lora", name="desk", r=4, system="Be 'kind'.", method_options=options)
    found = run.export(tmp_path_factory.mktemp("vllm") / "out", "vllm")
    assert isinstance(found, Exported)
    return run, found


def test_plain_peft_does_with_it_what_the_run_does(exported: tuple[Run, Exported], base: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    run, found = exported
    config = json.loads((found.path / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["rank_pattern"], config["alpha_pattern"]) == (12, 12, {}, {})
    assert {path.name for path in found.path.iterdir()} == FILES
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(found.path)).eval()
    ids = torch.tensor([[5, 60, 7, 100, 9]])
    with torch.inference_mode():
        assert (plain(input_ids=ids).logits - run.model(input_ids=ids).logits).abs().max() < 1e-5
    assert found.table is not None
    (row,) = found.table.to_dict("records")
    assert row["KL"] < 1e-6
    assert row["equal greedy tokens"] == 1


def test_the_lines_serve_and_ask_it(exported: tuple[Run, Exported], base: Path) -> None:
    run, found = exported
    told, serve, curl = found.told.splitlines()
    assert told.startswith(f"{run.id} is exported to {found.path}: LoRA of rank 12, ")
    assert told.endswith(" evaluation rows; not run in vLLM")
    words = shlex.split(serve)
    assert words[:5] == ["vllm", "serve", str(base), "--enable-lora", "--lora-modules"]
    assert words[5:] == [f"desk={found.path}", "--max-lora-rank", "16"]
    asked = shlex.split(curl)
    assert asked[:3] == ["curl", "http://127.0.0.1:8000/v1/chat/completions", "-H"]
    body = json.loads(asked[-1])
    assert body["model"] == "desk"
    assert [turn["content"] for turn in body["messages"]] == ["Be 'kind'.", "What can you do?"]
    assert "stop_token_ids" not in body  # the base's own end is what it was taught
    readme = (found.path / "README.md").read_text()
    assert f"vllm serve path/to/{base.name} --enable-lora --lora-modules desk=path/to/this/folder" in readme
    assert str(base) not in readme
    assert "; not run in vLLM." in readme


def test_a_base_without_a_template_gets_one_and_the_end_it_was_taught(
    learn: Callable[..., Run], base: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_pretrained(base).save_pretrained(tmp_path / "plain")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(tmp_path / "plain")
    run = learn("rslora", model=str(tmp_path / "plain"), max_steps=1)
    found = run.export(tmp_path / "out", "vllm")
    assert isinstance(found, Exported)
    assert f"--chat-template {tmp_path}/out/chat_template.jinja" in found.told
    assert "Assistant:" in (tmp_path / "out" / "chat_template.jinja").read_text()
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["use_rslora"]


def test_a_rank_that_vllm_does_not_take_and_a_difference_leave_nothing(
    exported: tuple[Run, Exported], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = exported
    monkeypatch.setattr("peft_nb.adapters.exporters.vllm.RANKS", (1, 8))
    with pytest.raises(RunError, match=r"^its rank is 12, and vLLM takes 8 at most; --as merged"):
        run.export(tmp_path / "out", "vllm")
    monkeypatch.undo()
    monkeypatch.setattr("peft_nb.adapters.exporters.vllm.BOUND", -1.0)
    with pytest.raises(MergeError, match=r"^what was written differs from the run by .* nothing is kept; --as merged"):
        run.export(tmp_path / "out", "vllm")
    assert list(tmp_path.iterdir()) == []


def test_the_command_shows_what_was_written(
    exported: tuple[Run, Exported], shell: InteractiveShell, tmp_path: Path
) -> None:
    run, _ = exported
    shell.user_ns["run"] = run
    found = shell.run_line_magic("peft", "export run --as vllm")
    assert found.path == Path("desk-vllm")
    assert f"desk={tmp_path}/desk-vllm" in repr(found)
