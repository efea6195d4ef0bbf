"""Settings of other tools, and what to write instead."""

from __future__ import annotations

from typing import Any

import pytest

import peft_nb  # noqa: F401  (registers the methods)
from peft_nb.errors import SpecError
from peft_nb.spec import ALIASES, RunSpec
from peft_nb.spec.pasted import SETTINGS

LLAMA_FACTORY = """
model_name_or_path: owner/model
stage: sft
finetuning_type: lora
lora_target: all
lora_rank: 16
use_rslora: true
dataset: tickets
cutoff_len: 2048
output_dir: saves
per_device_train_batch_size: 1
learning_rate: 1.0e-4
bf16: true
val_size: 0.1
"""
AXOLOTL = """
base_model: owner/model
load_in_4bit: true
datasets:
  - path: rows.jsonl
    type: alpaca
val_set_size: 0.05
sequence_len: 4096
sample_packing: true
adapter: qlora
lora_r: 32
lora_alpha: 16
lora_target_linear: true
train_on_inputs: false
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_bnb_8bit
lr_scheduler: cosine
"""
AUTOTRAIN = """
task: llm-sft
base_model: owner/model
project_name: my-run
log: tensorboard
backend: local
data:
  path: no_robots
  train_split: train
  valid_split: null
  chat_template: zephyr
  column_mapping:
    text_column: messages
params:
  model_max_length: 2048
  epochs: 2
  batch_size: 1
  lr: 1e-5
  peft: true
  quantization: int4
  target_modules: all-linear
  padding: right
  optimizer: paged_adamw_8bit
  scheduler: cosine
  gradient_accumulation: 8
  mixed_precision: bf16
hub:
  username: ${HF_USERNAME}
  token: ${HF_TOKEN}
  push_to_hub: true
"""


def refused(**fields: Any) -> str:
    with pytest.raises(SpecError) as caught:
        RunSpec(**{"data": "x"} | fields)
    (problem,) = caught.value.problems
    return problem


def pasted(text: str) -> str:
    """What is refused of a file, without the first line."""
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml(text)
    return str(caught.value).partition("write in their place\n")[2]


@pytest.mark.parametrize("name", SETTINGS)
def test_what_a_setting_is_here_is_a_valid_spec(name: str) -> None:
    setting = SETTINGS[name]
    assert name not in RunSpec.model_fields
    assert name not in ALIASES
    fields = {} if setting.example is None else setting.here(setting.example)
    assert fields.keys() <= RunSpec.model_fields.keys()
    RunSpec(**{"data": "x"} | fields)
    assert fields or setting.why
    assert "\n" not in refused(**{name: setting.example})


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"cutoff_len": 1024}, "cutoff_len is max_length here: write max_length: 1024"),
        ({"lora_rank": "8"}, "lora_rank is r here: write r: 8"),
        ({"load_in_4bit": True}, "load_in_4bit is quantization here: write quantization: 4bit"),
        ({"train_on_responses_only": True}, "train_on_responses_only is loss_on here: write loss_on: assistant"),
        ({"train_on_inputs": "true"}, "train_on_inputs is loss_on here: write loss_on: all"),
        ({"use_rslora": "true"}, "use_rslora is method here: write method: rslora"),
        ({"method": "lora", "use_rslora": True}, "use_rslora is method here: write method: rslora"),
        ({"method": "dora", "use_rslora": True}, "use_rslora is method here, and method is given too; keep method"),
        ({"dataset_text_field": "body"}, "dataset_text_field is columns here: write columns: {text: body}"),
        (
            {"val_size": 500},
            "val_size: no such field: eval_fraction takes a share of the rows up to 0.5, such as 0.1",
        ),
        (
            {"warmup_epochs": 1},
            "warmup_epochs: no such field: warmup_ratio takes a share of the steps: divide by the number of epochs",
        ),
        ({"bf16": "auto"}, "bf16 is dtype here: write dtype: auto"),
        ({"quantization": "int4"}, "quantization: 'int4' is another tool's word: write quantization: 4bit"),
        ({"data": {"path": "a.csv"}}, "data stands alone here: write data: a.csv"),
        ({"task": "llm-sft"}, "task: 'llm-sft' is another tool's word: write task: generation"),
        ({"cutof_len": 9}, "cutof_len: no such field; 'cutoff_len' of another tool is max_length here"),
        ({"lora_rnk": 9}, "lora_rnk: no such field; 'lora_rank' of another tool is r here"),
        ({"optim": "adamw"}, "optim: 'adamw' is another tool's word: write optim: adamw_torch"),
        ({"optimizer": "AdamW"}, "optimizer is optim here: write optim: adamw_torch"),
        ({"neftune_alpha": 5}, "neftune_alpha is neftune_noise_alpha here: write neftune_noise_alpha: 5"),
        ({"adapter_name_or_path": "a/b"}, "adapter_name_or_path is init_adapter here: write init_adapter: a/b"),
        ({"use_wandb": True}, "use_wandb is report_to here: write report_to: [wandb]"),
        (
            {"cutoff_len": 9, "max_length": 8},
            "cutoff_len is max_length here, and max_length is given too; keep max_length",
        ),
        (
            {"peft_config": {"r": 8, "lora_alpha": 16, "use_dora": True, "task_type": "CAUSAL_LM"}},
            "peft_config is r and alpha and method here: write r: 8, alpha: 16, method: dora; "
            "not taken over: task_type",
        ),
    ],
)
def test_a_setting_of_another_tool_is_told_in_one_line(given: dict[str, Any], line: str) -> None:
    assert refused(**given) == line


def test_a_config_or_data_set_passed_live_is_told_too() -> None:
    from peft import LoraConfig

    config = LoraConfig(r=8, lora_alpha=16, target_modules=["v_proj", "q_proj"])
    assert refused(peft_config=config).endswith(
        " here: write r: 8, alpha: 16, dropout: 0.0, target_modules: [q_proj, v_proj]"
    )
    with pytest.raises(SpecError, match=r"^train_dataset is data here: pass it as data$"):
        RunSpec(train_dataset=object())


def test_what_trl_says_of_rewards_is_told() -> None:
    given = {"task": "grpo", "reward_funcs": ["brief"], "num_generations": 4, "use_vllm": True, "temperature": 0.9}
    with pytest.raises(SpecError) as error:
        RunSpec(data="x", **given)
    lines = str(error.value)
    assert "reward:" in lines
    assert "# use_vllm: answers are drawn from the model as it trains" in lines
    assert "# temperature: answers are drawn by the model's own probabilities" in lines
    with pytest.raises(SpecError, match="num_generations stands alone here: write num_generations: 4"):
        RunSpec(data="x", task="grpo", reward="brief", trl={"num_generations": 4})


def test_a_pasted_file_is_answered_with_lines_to_paste() -> None:
    lines = pasted(LLAMA_FACTORY)
    assert RunSpec.from_yaml(lines) == RunSpec(
        model="owner/model",
        method="rslora",
        target_modules="all-linear",
        r=16,
        data="tickets",
        max_length=2048,
        dtype="bfloat16",
        eval_fraction=0.1,
    )
    assert "# output_dir: runs are kept in the folder peft_runs" in lines
    assert "# datasets: not taken over: type" in pasted(AXOLOTL)
    assert RunSpec.from_yaml(pasted(AXOLOTL)) == RunSpec(
        model="owner/model",
        quantization="4bit",
        data="rows.jsonl",
        eval_fraction=0.05,
        max_length=4096,
        method="qlora",
        r=32,
        target_modules="all-linear",
        loss_on="assistant",
        batch_size=2,
        epochs=4,
        lr_scheduler_type="cosine",
        optim="adamw_bnb_8bit",
    )


def test_settings_in_groups_are_told_like_those_beside_them() -> None:
    lines = pasted(AUTOTRAIN)
    assert "# backend: runs are trained where the notebook is" in lines
    assert "# token: run.save(folder) writes what a hub takes" in lines
    assert "HF_TOKEN" not in lines
    assert RunSpec.from_yaml(lines) == RunSpec(
        model="owner/model",
        data="no_robots",
        name="my-run",
        max_length=2048,
        epochs=2,
        batch_size=1,
        learning_rate=1e-5,
        method="lora",
        quantization="4bit",
        target_modules="all-linear",
        lr_scheduler_type="cosine",
        optim="paged_adamw_8bit",
        report_to=["tensorboard"],
        gradient_accumulation_steps=8,
        dtype="bfloat16",
    )


def test_data_that_are_a_mapping_of_columns_stay_data() -> None:
    assert RunSpec(data="x").data == "x"
    with pytest.raises(SpecError) as caught:
        RunSpec(data={"path": ["a", "b"]}, lr=1)
    assert "no_robots" not in str(caught.value)
    assert "lr is learning_rate here" in str(caught.value)


def test_several_data_sets_are_told_that_one_is_trained_on() -> None:
    assert "one data set is trained on" in refused(datasets=[{"path": "a"}, {"path": "b"}])


def test_the_method_of_the_first_line_does_not_hide_the_kind_of_lora_that_is_meant() -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_magic("%%peft lora --data x\nlora_rank: 8\nuse_rslora: true\n")
    assert str(caught.value).endswith("write in their place\nr: 8\nmethod: rslora")
