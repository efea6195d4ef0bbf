"""Runs as scripts that need PyTorch, transformers and PEFT alone: the same losses, in a process of their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from peft_nb.errors import RunError
from peft_nb.runs.run import Run, begin, load
from peft_nb.spec import RunSpec
from peft_nb.store import Store
from tests.conftest import Python

pytestmark = pytest.mark.exhaustive

Begin = Callable[..., Run]

# Scripts one after the other, as if each were a process: to import PEFT takes longer than to train.
ONE_AFTER_ANOTHER = """
import runpy, sys
scripts, sys.argv = sys.argv[1:], ["train.py"]
for script in scripts:
    runpy.run_path(script, run_name="__main__")
print(*(name for name in sys.modules if name.partition(".")[0] == "peft_nb"))
"""


@pytest.fixture
def trained(spec: Callable[..., RunSpec], rows: list[dict[str, str]], store: Store) -> Begin:
    """Train on the tiny base and the rows in memory, or on others."""
    return lambda data=rows, **fields: begin(spec(**fields), data=data, store=store).wait()


def same(run: Run, lines: list[dict[str, float]]) -> None:
    """What a script printed is what the run measured."""
    history = run.history
    losses, evals = ([line[name] for line in lines if name in line] for name in ("loss", "eval_loss"))
    assert losses == pytest.approx(history.loss[history.loss.notna()].tolist(), abs=1e-3)
    assert evals == pytest.approx([run.metrics["base_eval_loss"], run.metrics["eval_loss"]], abs=1e-3)
    assert abs(evals[0] - evals[1]) > 2e-3  # something was learned that could have been another thing


def same_weights(script: Path, run: Run) -> None:
    """Compare the adapter that a script has trained with the run's."""
    from safetensors.torch import load_file

    theirs, ours = (
        load_file(folder / "adapter_model.safetensors") for folder in (script.parent / "adapter", run.adapter_dir)
    )
    assert theirs.keys() == ours.keys()
    assert all((theirs[name] - ours[name]).abs().max() < 1e-3 for name in ours)


def test_a_script_trains_the_same_adapter(trained: Begin, tmp_path: Path, python: Python) -> None:
    run = trained()
    script = run.export(tmp_path / "out")
    assert script == tmp_path / "out" / "train.py"
    assert {path.name for path in script.parent.iterdir()} == {"train.py", "train.jsonl", "held_out.jsonl"}
    assert "peft_nb" not in script.read_text()
    process = python(script)
    same(run, [json.loads(line) for line in process.communicate()[0].splitlines()])
    assert process.returncode == 0
    same_weights(script, run)


ACCUMULATED = {"gradient_accumulation_steps": 2, "batch_size": 3, "weight_decay": 0.5, "warmup_steps": 2}
TURNS = {
    "lr_scheduler_type": "cosine",
    "system": "Be brief.",
    "loss_on": "all",
    "gradient_checkpointing": True,
    "warmup_ratio": 0.4,
}


@pytest.mark.exhaustive
def test_scripts_have_the_losses_of_their_runs(
    trained: Begin, rows: list[dict[str, str]], tmp_path: Path, python: Python
) -> None:
    texts = [{"text": f"{row['question']} {row['answer']}"} for row in rows]
    runs = [
        trained(method="rslora", **ACCUMULATED),
        trained(method="dora", **TURNS),
        trained(method="prompt"),
        trained(texts, too_long="split", max_length=20, max_grad_norm=0),
    ]
    scripts = [run.export(tmp_path / run.id) for run in runs]
    process = python("-c", ONE_AFTER_ANOTHER, *scripts)
    *lines, ours = process.communicate()[0].splitlines()
    assert (process.returncode, ours) == (0, "")
    for run in runs:
        count = run.metrics["steps"] + 2
        same(run, [json.loads(line) for line in lines[:count]])
        lines = lines[count:]
    assert lines == []


@pytest.mark.exhaustive
@pytest.mark.timeout(900)
def test_every_method_that_peft_has_goes_as_a_script(trained: Begin, tmp_path: Path, python: Python) -> None:
    words = trained(method="bitfit", max_steps=1)
    with pytest.raises(RunError, match="a script can train ") as refused:
        words.export(tmp_path / "bitfit")
    names = str(refused.value).partition("a script can train ")[2].split(", ")
    assert {"lora", "vera", "ia3", "oft", "prefix", "p-tuning"} <= set(names)
    options = {"trainable-tokens": {"method_options": {"token_indices": [1, 5, 9]}, "target_modules": ["embed_tokens"]}}
    runs = [trained(method=name, **options.get(name, {})) for name in names]
    process = python("-c", ONE_AFTER_ANOTHER, *(run.export(tmp_path / run.id) for run in runs))
    lines = process.communicate()[0].splitlines()
    assert process.returncode == 0
    for place, run in enumerate(runs):
        same(run, [json.loads(line) for line in lines[10 * place : 10 * place + 10]])


def test_the_data_are_written_as_messages_and_without_their_rows_as_tokens(
    trained: Begin, spec: Callable[..., RunSpec], store: Store, rows: list[dict[str, str]], tmp_path: Path
) -> None:
    run = begin(spec(data="tickets", max_steps=1), namespace={"tickets": rows}, store=store).wait()
    kept = [json.loads(line) for line in run.export(tmp_path / "a").with_name("held_out.jsonl").open()]
    assert [list(one) for one in kept] == [["messages"]] * 2
    for one in kept:
        question, answer = (turn["content"] for turn in one["messages"])
        assert {"question": question, "answer": answer} in rows
    found = load(run.id, store=store)
    script = found.export(tmp_path / "b", namespace={"tickets": rows})
    for name in ("train.py", "train.jsonl", "held_out.jsonl"):
        assert script.with_name(name).read_text() == (tmp_path / "a" / name).read_text()
    for gone in ({}, {"tickets": rows[::-1]}):  # or no longer what they were
        script = found.export(tmp_path / f"c{len(gone)}", namespace=gone)
        lines = [json.loads(line) for line in script.with_name("train.jsonl").open()]
        assert {tuple(line) for line in lines} == {("ids", "learned")}
        (start, stop), end = lines[0]["learned"][0], run.tokenizer.eos_token_id
        assert lines[0]["ids"][stop - 1] == end
        assert run.tokenizer.decode(lines[0]["ids"][start : stop - 1]) in {row["answer"] for row in rows}


def test_what_cannot_go_as_a_script_is_refused_in_a_line(
    trained: Begin, encoder: Path, labelled: list[dict[str, str]], tmp_path: Path
) -> None:
    olora, qlora = trained(method="olora", max_steps=1), trained(method="qlora", max_steps=1)
    classifier = trained(labelled, task="classification", model=str(encoder), max_steps=1)
    for run, why in (
        (olora, "olora needs peft_nb"),
        (qlora, "qlora needs peft_nb"),
        (classifier, "generation alone"),
    ):
        with pytest.raises(RunError, match=why) as raised:
            run.export(tmp_path / "out")
        assert "\n" not in str(raised.value)
    with pytest.raises(RunError, match="'scrpt' is not one of script, yaml, adapter, merged"):
        olora.export(tmp_path / "out", "scrpt")  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_script_says_what_keeps_it_from_the_same_losses(trained: Begin, tmp_path: Path) -> None:
    exact = trained(max_steps=1).export(tmp_path / "exact").read_text()
    rounded = trained(max_steps=1, dtype="bfloat16", dropout=0.1).export(tmp_path / "rounded").read_text()
    assert "DTYPE, DEVICE = torch.bfloat16" in rounded
    for words in ("# In bfloat16 other batches round otherwise", "# In other batches dropout falls on other places"):
        assert words in rounded
        assert words not in exact


def test_a_script_trains_on_what_a_pair_was_changed_to(
    spec: Callable[..., RunSpec], base: Path, rows: list[dict[str, str]], store: Store, tmp_path: Path, python: Python
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)  # of the new token's embedding
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens("<|refund|>", special_tokens=True)
    tokenizer.chat_template = tokenizer.chat_template.replace("<|im_end|>", "<|refund|>")
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.get_input_embeddings().weight.data[5:20] *= 3
    live = spec(model="(in memory)", max_steps=4)
    run = begin(live, data=rows, model=(model, tokenizer), store=store).wait()
    script = run.export(tmp_path / "out")
    process = python(script)
    same(run, [json.loads(line) for line in process.communicate()[0].splitlines()])
    assert process.returncode == 0
    same_weights(script, run)
    assert AutoTokenizer.from_pretrained(script.parent / "adapter").chat_template == tokenizer.chat_template


def test_a_base_made_in_memory_is_refused_and_one_from_a_folder_is_found(
    spec: Callable[..., RunSpec], base: Path, rows: list[dict[str, str]], store: Store, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    tokenizer, read = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    live = spec(model="(in memory)", max_steps=1)
    run = begin(live, data=rows, model=(read, tokenizer), store=store).wait()
    assert f'MODEL, REVISION = "{base}", None' in run.export(tmp_path / "found").read_text()
    read.config._name_or_path = ""
    run = begin(live, data=rows, model=(LlamaForCausalLM(read.config), tokenizer), store=store).wait()
    with pytest.raises(RunError, match=r"^the base was made in memory.*; save it"):
        run.export(tmp_path / "lost")
