"""Settings of other tools: the field that does the same here, how its value is written, or why there is none.

One table for TRL, transformers and PEFT, axolotl, LLaMA-Factory, Unsloth, AutoTrain and H2O LLM Studio, whose settings
people bring along. Nothing is taken over unseen: the user reads what to write instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from peft_nb.spec.field_info import show
from peft_nb.spec.notation.yaml import dump

ANYWAY = "this is how it is done here anyway"
Fields = dict[str, Any]
NUMBER = re.compile(r"[+-]?[\d.]+(e[+-]?\d+)?", re.IGNORECASE)


@dataclass(frozen=True)
class Setting:
    """One setting of another tool.

    Attributes
    ----------
    example : object
        A value that people give it.
    here : callable
        Makes fields of a value: none where there is nothing to write.
    why : str
        What is told where there is nothing to write.
    """

    example: Any
    here: Callable[[Any], Fields]
    why: str = ANYWAY


def told(given: Mapping[str, Any], known: Collection[str]) -> tuple[Fields, list[str]]:
    """Say what to write instead of settings of other tools.

    Parameters
    ----------
    given : mapping
        All fields of a spec as they were written, right or wrong.
    known : collection of str
        Names that a spec has.

    Returns
    -------
    tuple of dict and list of str
        The fields to go on with, and at most one message: a line, or for several settings the lines to paste.
    """
    foreign = _foreign(given, known)
    if not foreign:
        return dict(given), []
    kept = {name: value for name, value in given.items() if name in known and name not in foreign}
    made = {name: SETTINGS[name].here(value) if name in SETTINGS else {name: value} for name, value in foreign.items()}
    made |= {
        name: {name: VALUES[name, _word(value)]} for name, value in foreign.items() if (name, _word(value)) in VALUES
    }
    written: Fields = {}
    for fields in made.values():
        for field, value in fields.items():
            # A special kind of LoRA is what was meant beside the word for all of them.
            if field not in written or written[field] in GENERAL:
                written[field] = value
    written = {field: value for field, value in written.items() if not _kept(field, value, kept)}
    unknown = {name: value for name, value in given.items() if name not in known and not _understood(name, value)}
    fields = kept | unknown | {field: value if _plain(value) else "(passed)" for field, value in written.items()}
    if len(foreign) == 1:
        ((name, one),) = made.items()
        return fields, [_line(name, foreign[name], one, kept)]
    lines = [_written({field: value}) for field, value in written.items()]
    lines += [f"# {name}: {SETTINGS[name].why}" for name, fields in made.items() if not fields]
    for name, here in made.items():
        lines += [f"# {name}: {field} is given too" for field, one in here.items() if _kept(field, one, kept)]
    lines += [f"# {name}: {left}" for name in foreign if made[name] and (left := _left(foreign[name]))]
    return fields, [f"{', '.join(foreign)}: settings of another tool; write in their place\n" + "\n".join(lines)]


def alike(name: str, known: Collection[str]) -> str:
    """Say of a name that neither a spec nor another tool has which setting of another tool it resembles, if any.

    Parameters
    ----------
    name : str
        As it was written.
    known : collection of str
        Names that a spec has, which come first.

    Returns
    -------
    str
        A line, or nothing.
    """
    if not (near := get_close_matches(name, [*known, *SETTINGS], 1, 0.8)) or near[0] in known:
        return ""
    here = " and ".join({} if (one := SETTINGS[near[0]]).example is None else one.here(one.example))
    return f"{name}: no such field; {near[0]!r} of another tool is {here} here" if here else ""


def _foreign(given: Mapping[str, Any], known: Collection[str]) -> Fields:
    """The settings of other tools by name, those of their groups as if they stood beside them."""
    found: Fields = {}
    for name, value in given.items():
        if name in GROUPS and isinstance(value, dict):
            found |= {one: held for one, held in value.items() if one in known} | _foreign(value, known)
        elif name == "data" and isinstance(value, dict) and isinstance(value.get("path"), str):  # AutoTrain's
            found |= {"data": value["path"]} | _foreign(
                {one: held for one, held in value.items() if one != "path"}, known
            )
        elif (name not in known and name in SETTINGS) or (name, _word(value)) in VALUES:
            found[name] = value
    return found


def _understood(name: str, value: Any) -> bool:
    return name in SETTINGS or (name in GROUPS and isinstance(value, dict))


def _word(value: Any) -> str:
    return value.lower().replace("-", "_").replace(":", "_") if isinstance(value, str) else ""


def _line(name: str, value: Any, fields: Fields, kept: Mapping[str, Any]) -> str:
    if not fields:
        setting = SETTINGS[name]
        without = "; leave it out" if setting.example is None or setting.why == ANYWAY else ""
        return f"{name}: no such field: {setting.why}{without}"
    both = " and ".join(fields)
    if twice := [field for field, one in fields.items() if _kept(field, one, kept)]:
        return f"{name} is {both} here, and {twice[0]} is given too; keep {twice[0]}"
    if not all(map(_plain, fields.values())):
        return f"{name} is {both} here: pass it as {both}"
    written = ", ".join(_written({field: one}) for field, one in fields.items())
    if fields == {name: value}:  # which stood in a group
        return f"{name} stands alone here: write {written}"
    if name in fields:
        return f"{name}: {show(value)} is another tool's word: write {written}"
    return f"{name} is {both} here: write {written}{'; ' * bool(left := _left(value))}{left}"


def _kept(field: str, value: Any, kept: Mapping[str, Any]) -> bool:
    """Whether a field stays as it was given: a special kind of LoRA takes the place of the word for all of them."""
    return field in kept and (str(kept[field]) not in GENERAL or value in GENERAL)


def _left(value: Any) -> str:
    """What of a nested setting has no place, or nothing."""
    inside = value[0] if isinstance(value, list) and len(value) == 1 else value
    left = [name for name in inside if name not in ("path", *CONFIG)] if isinstance(inside, dict) else []
    return f"not taken over: {', '.join(map(str, left))}" if left else ""


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | list | dict)


def _written(field: Fields) -> str:
    """A field as a line of YAML; what only Python can pass by its kind."""
    ((name, value),) = field.items()
    if not _plain(value):
        return f"{name}: …  # pass the {type(value).__name__}"
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return f"{name}: {value}"  # YAML and flags deliver text, which is not to be quoted for that
    text = dump(field, flow=isinstance(value, dict)).strip()
    return text[1:-1] if isinstance(value, dict) else text


def _on(value: Any) -> bool:
    return str(value).lower() not in ("false", "no", "off", "none", "null", "0", "")


def _same(field: str) -> Callable[[Any], Fields]:
    return lambda value: {} if value is None else {field: value}


def _switch(on: Fields, off: Fields | None = None) -> Callable[[Any], Fields]:
    return lambda value: on if _on(value) else off or {}


def _words(**words: Fields) -> Callable[[Any], Fields]:
    return lambda value: words.get(str(value).lower().replace("-", "_"), {})


def _share(value: Any) -> Fields:
    try:
        share = float(value)
    except (TypeError, ValueError):
        return {}
    return {"eval_fraction": value} if 0 <= share <= 0.5 else {}


def _modules(value: Any) -> Fields:
    if value is None:
        return {}
    return {"target_modules": "all-linear" if value in ("all", ["all"], "all_linear", ["all-linear"]) else value}


def _bits(value: Any) -> Fields:
    return {"quantization": f"{value}bit"} if str(value) in ("4", "8") else {}


def _optimizer(value: Any) -> Fields:
    return {} if value is None else {"optim": VALUES.get(("optim", _word(value)), value)}


def _column(role: str) -> Callable[[Any], Fields]:
    named = (None, role, "messages", "conversations")  # which are found by their names
    return lambda value: {} if value in named else {"columns": {role: value}}


def _data(field: str) -> Callable[[Any], Fields]:
    """Of a list with one data set, as axolotl has it, that one: of its settings its path."""

    def here(value: Any) -> Fields:
        if isinstance(value, list):
            value = value[0] if len(value) == 1 else None
        if isinstance(value, dict):
            value = value.get("path")
        if isinstance(value, str) and "," in value:  # LLaMA-Factory's list
            value = None
        return {} if value is None else {field: value}

    return here


def _config(value: Any) -> Fields:
    """Of PEFT's config, or a mapping in its place, what a field says too."""
    inside = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    found: Fields = {}
    for name in CONFIG:
        if (one := inside.get(name)) is not None:
            found |= SETTINGS[name].here(one) if name in SETTINGS else {name.removeprefix("lora_"): one}
    return {name: sorted(one) if isinstance(one, set) else one for name, one in found.items()}


def _never(why: str) -> Setting:
    return Setting(None, lambda value: {}, why)


GENERAL = ("lora",)
GROUPS = (
    "params",
    "hub",
    "column_mapping",
    "training",
    "architecture",
    "tokenizer",
    "augmentation",
    "train",
    "args",
    "trl",
)
"""Under which AutoTrain, H2O LLM Studio and others write some of their settings."""
VALUES = {
    **{("quantization", value): "4bit" for value in ("int4", "nf4", "bnb.nf4", "4", "bnb_nf4", "fp4")},
    **{("quantization", value): "8bit" for value in ("int8", "bnb.int8", "8", "bnb_int8")},
    **{("optim", value): "adamw_torch" for value in ("adamw", "adam", "adamw_hf", "adam_torch")},
    **{("task", value): "generation" for value in ("llm", "llm_sft", "sft", "llm_generic", "text_generation")},
    **{("task", f"llm_{value}"): value for value in ("dpo", "orpo")},
    **{("task", value): "classification" for value in ("text_classification", "sequence_classification", "seq_cls")},
}
"""By field and what other tools write there: what it is here."""
CONFIG = ("r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora")  # what is read of PEFT's
# By field: what has the same values elsewhere, with one of them.
_NAMES: dict[str, tuple[Any, str]] = {
    "model": (
        "owner/model",
        "model_name_or_path base_model model_name model_id pretrained_model_name_or_path llm_backbone base_model_id",
    ),
    "revision": ("main", "model_revision revision_of_model"),
    "max_length": ("1024", "cutoff_len sequence_len block_size model_max_length max_seq_len max_sequence_length"),
    "epochs": ("3", "num_epochs n_epochs num_train_epoch"),
    "batch_size": ("8", "micro_batch_size train_batch_size per_gpu_train_batch_size per_device_batch_size"),
    "gradient_accumulation_steps": ("4", "gradient_accumulation grad_accumulation"),
    "learning_rate": ("2e-4", "lr"),
    "lr_scheduler_type": ("cosine", "lr_scheduler scheduler schedule"),
    "max_grad_norm": ("1.0", "gradient_clip gradient_clipping"),
    "seed": ("42", "random_state data_seed random_seed"),
    "r": ("16", "lora_r lora_rank rank"),
    "system": ("Be brief.", "default_system system_prompt system_message"),
    "name": ("my-run", "run_name project_name wandb_name wandb_run_id"),
    "eval_steps": ("50", "evaluation_steps"),
    "neftune_noise_alpha": ("5", "neftune_alpha noisy_embedding_alpha"),
    "init_adapter": ("folder/of/adapter", "adapter_name_or_path lora_model_dir checkpoint_dir adapter_path"),
    "early_stopping_patience": ("3", "early_stopping_rounds"),
    "beta": ("0.1", "pref_beta dpo_beta rl_beta kto_beta orpo_alpha"),
    "label_smoothing": ("0.1", "dpo_label_smoothing"),
    "desirable_weight": ("1.33", "kto_chosen_weight kto_desirable_weight"),
    "undesirable_weight": ("1.0", "kto_rejected_weight kto_undesirable_weight"),
    "reward": ("length:12", "reward_funcs reward_func reward_functions"),
    "max_completion_length": ("256", "max_response_length response_length"),
}
# By reason: what there is nothing for.
_NONE = {
    "the reference is what a run starts from, and its log-probabilities are computed once, before the first step": ""
    "ref_model ref_model_path ref_adapters reference_free precompute_ref_log_probs precompute_ref_batch_size "
    "sync_ref_model model_ref model_adapter_name ref_adapter_name",
    "answers are drawn from the model as it trains, in its own process": "use_vllm vllm_mode vllm_server_host "
    "vllm_server_port vllm_server_base_url vllm_gpu_memory_utilization vllm_tensor_parallel_size cache_implementation",
    "answers are drawn by the model's own probabilities, at temperature 1, which are what is learned": "temperature "
    "top_p top_k min_p repetition_penalty generation_kwargs",
    "each step learns once from answers of its own": "num_iterations steps_per_generation generation_batch_size",
    "some answers with their rewards are shown at each evaluation": "log_completions num_completions_to_print "
    "wandb_log_unique_prompts",
    "the settings of an optimizer are those that transformers gives it": "optim_args optim_target_modules adam_beta1 "
    "adam_beta2 adam_epsilon",
    "report_to names trackers, which take the rest from their own environment variables": "logging_dir wandb_project "
    "wandb_entity wandb_watch wandb_log_model logging_first_step plot_loss logging_strategy mlflow_tracking_uri",
    "runs are trained where the notebook is": "backend",
    "runs are kept in the folder peft_runs; run.save(folder) writes the adapter elsewhere": "output_dir "
    "output_directory "
    "overwrite_output_dir lora_out_dir",
    "run.save(folder) writes what a hub takes; nothing is uploaded": "push_to_hub hub_model_id hub_token hub_strategy "
    "hub_private_repo token hf_token username repo_id",
    "run.merge(folder) writes the merged model once the run is over": "merge_adapter merge_lora",
    "save_steps says how often a checkpoint is written, and the last ones are kept": "save_strategy "
    "saves_per_epoch save_only_model save_safetensors save_checkpoint",
    "eval_steps says how often the evaluation set is measured": "eval_strategy evaluation_strategy evals_per_epoch "
    "do_eval eval_on_start evaluation_epochs",
    "the batch of an evaluation follows from the free memory; token_budget bounds it": "per_device_eval_batch_size "
    "eval_batch_size auto_find_batch_size",
    "rows are trained without padding, exactly as one by one; fast: false pads": "packing sample_packing "
    "eval_sample_packing pad_to_sequence_len padding_free group_by_length neat_packing packing_strategy padding "
    "padding_side multipack_real_batches train_sampling_strategy",
    "attention is chosen and checked when a run begins": "attn_implementation flash_attention flash_attn "
    "use_flash_attention_2 sdp_attention xformers_attention use_cache",
    "code of a model's own repository is never run": "trust_remote_code",
    "tokenizer and kind of model are those of the base": "tokenizer_type model_type tokenizer_name tokenizer "
    "processing_class tokenizer_config is_llama_derived_model is_mistral_derived_model special_tokens task_type "
    "add_eos_token",
    "the chat template is the base's own; a live (model, tokenizer) pair can bring another": "template chat_template "
    "chat_template_jinja apply_chat_template conversation_template prompt_template",
    "NF4 with double quantization is used": "bnb_4bit_quant_type bnb_4bit_use_double_quant bnb_4bit_compute_dtype "
    "quantization_method quantization_type double_quantization quantization_config bnb_config",
    "rows are encoded once and kept": "dataset_num_proc preprocessing_num_workers dataloader_num_workers "
    "overwrite_cache "
    "dataset_prepared_path dataloader_pin_memory remove_unused_columns dataset_kwargs streaming dataset_processes",
    "the rows are given as data: take a part of them there, such as data=rows[:1000]": "max_samples train_split "
    "valid_split valid_split_name train_split_name dataset_dir dataset_split max_train_samples",
    "device says where to compute; several processes are started with torchrun": "device_map deepspeed fsdp "
    "fsdp_config "
    "ddp_timeout ddp_find_unused_parameters local_rank no_cuda use_cpu num_gpus distributed_backend gpu_ids max_memory",
    "call run.resume() for that": "resume_from_checkpoint auto_resume_from_checkpoints",
    "the best checkpoint is that of the lowest eval loss": "metric_for_best_model greater_is_better "
    "early_stopping_threshold",
    "only the adapter is trained and saved; method: full trains all weights, trainable-tokens the embeddings of new "
    "tokens": "modules_to_save lora_modules_to_save additional_target unfrozen_parameters freeze_layers",
    "biases stay as they are; method: bitfit trains them": "bias lora_bias",
    "answers are learned with their end, whatever their speaker is called": "roles_to_train train_on_eos train_on_eot",
    "it has no meaning here": "do_train do_predict strict ddp_backend liger_kernel use_liger_kernel "
    "use_unsloth unsloth disable_tqdm log_level include_num_input_tokens_seen tf32 gradient_checkpointing_kwargs "
    "lora_fan_in_fan_out fan_in_fan_out inference_mode layers_to_transform lora_on_cpu loftq_config "
    "max_packed_sequence_len debug",
    "write what it holds as fields of their own, such as learning_rate: 2e-4 and epochs: 3": "args training_args "
    "training_arguments config",
}
_ANSWERS, _ALL = {"loss_on": "assistant"}, {"loss_on": "all"}
_BF16, _KEPT = {"dtype": "bfloat16"}, "dtype: auto selects the fastest safe precision"
_FEW = "only lora, qlora, full and the like: %peft help method lists the methods"
_SFT = (
    "tasks are generation, classification, dpo, simpo, orpo, kto and grpo; there is no reward model and no pretraining "
    "stage"
)
_TASKS: dict[str, Fields] = {
    **{name: {"task": "generation"} for name in ("sft", "default")},
    **{name: {"task": name} for name in ("dpo", "simpo", "orpo", "kto", "grpo")},
    "ipo": {"task": "dpo", "loss_type": "ipo"},
}
_ONE = "one data set is trained on: put the rows together and give them as data: NAME"
_WARMUP = "warmup_ratio takes a share of the steps: divide by the number of epochs"
_SHARE = "eval_fraction takes a share of the rows up to 0.5, such as 0.1"

SETTINGS: dict[str, Setting] = {
    **{name: Setting(example, _same(field)) for field, (example, names) in _NAMES.items() for name in names.split()},
    **{name: _never(why) for why, names in _NONE.items() for name in names.split()},
    "use_wandb": Setting("true", _switch({"report_to": ["wandb"]}), "nothing is sent unless report_to names a tracker"),
    "log": Setting("wandb", _same("report_to")),
    "optimizer": Setting("adafactor", _optimizer),
    "optimizer_name": Setting("adafactor", _optimizer),
    "dataset": Setting("tickets", _data("data"), _ONE),
    "datasets": Setting([{"path": "rows.jsonl", "type": "alpaca"}], _data("data"), _ONE),
    **{
        name: Setting("rows.jsonl", _data("data"), _ONE)
        for name in [
            "data_path",
            "dataset_name",
            "dataset_path",
            "train_file",
            "train_dataset",
            "train_data",
            "training_data",
            "train_dataframe",
            "dataset_text",
        ]
    },
    **{
        name: Setting("held.jsonl", _data("eval_data"), _ONE)
        for name in [
            "eval_dataset",
            "test_datasets",
            "validation_file",
            "valid_data",
            "val_data",
            "validation_dataframe",
        ]
    },
    **{name: Setting("0.1", _share, _SHARE) for name in ("val_size", "val_set_size", "test_size", "validation_size")},
    "warmup_epochs": Setting("1", lambda value: {}, _WARMUP),
    "stage": Setting("sft", _words(**_TASKS), _SFT),
    "rl": Setting("dpo", _words(**_TASKS), _SFT),
    "trainer": Setting("sft", _words(**_TASKS), _SFT),
    "pref_loss": Setting(
        "simpo",
        _words(
            **{name: {"loss_type": name} for name in ("sigmoid", "hinge", "ipo")},
            **{name: {"task": name} for name in ("simpo", "orpo")},
        ),
        "it is a task, such as simpo, or a loss_type of dpo",
    ),
    "finetuning_type": Setting(
        "lora", _words(lora={"method": "lora"}, full={"method": "full"}, oft={"method": "oft"}), _FEW
    ),
    "adapter": Setting("qlora", _words(lora={"method": "lora"}, qlora={"method": "qlora"}), _FEW),
    "peft": Setting("true", _switch({"method": "lora"}, {"method": "full"})),
    "use_peft": Setting("true", _switch({"method": "lora"}, {"method": "full"})),
    "full_finetuning": Setting("true", _switch({"method": "full"})),
    "use_lora": Setting("true", _switch({"method": "lora"})),
    "peft_type": Setting(
        "LORA", _words(lora={"method": "lora"}, ia3={"method": "ia3"}, adalora={"method": "adalora"}), _FEW
    ),
    **{
        name: Setting("true", _switch({"method": "rslora"}))
        for name in ("use_rslora", "peft_use_rslora", "lora_use_rslora")
    },
    **{name: Setting("true", _switch({"method": "dora"})) for name in ("use_dora", "peft_use_dora", "lora_use_dora")},
    "pissa_init": Setting("true", _switch({"method": "pissa"})),
    "loraplus_lr_ratio": Setting("16", lambda value: {"method": "lora-plus"}),
    "init_lora_weights": Setting(
        "pissa",
        _words(pissa={"method": "pissa"}, olora={"method": "olora"}, eva={"method": "eva"}),
        "the usual values begin",
    ),
    "peft_config": Setting({"r": 16, "lora_alpha": 32}, _config, "write what it holds as fields, such as r: 16"),
    "lora_config": Setting({"r": 16, "use_dora": True}, _config, "write what it holds as fields, such as r: 16"),
    "lora_target": Setting("q_proj,v_proj", _modules),
    "lora_target_modules": Setting(["q_proj", "v_proj"], _modules),
    "lora_target_linear": Setting("true", _switch({"target_modules": "all-linear"})),
    "load_in_4bit": Setting("true", _switch({"quantization": "4bit"})),
    "load_in_8bit": Setting("true", _switch({"quantization": "8bit"})),
    "use_int4": Setting("true", _switch({"quantization": "4bit"})),
    "use_int8": Setting("true", _switch({"quantization": "8bit"})),
    "quantization_bit": Setting("4", _bits, "a base is held in 4 or 8 bits"),
    "bf16": Setting("true", lambda value: {"dtype": "auto"} if value == "auto" else _switch(_BF16)(value), _KEPT),
    "fp16": _never("float16 loses small gradients, and dtype: auto selects the fastest safe precision"),
    "mixed_precision": Setting("bf16", _words(bf16=_BF16, no={"dtype": "float32"}), _KEPT),
    "torch_dtype": Setting(
        "bfloat16", _words(bfloat16=_BF16, float32={"dtype": "float32"}, auto={"dtype": "auto"}), _KEPT
    ),
    "use_gradient_checkpointing": Setting("unsloth", _switch({"gradient_checkpointing": True})),
    "disable_gradient_checkpointing": Setting("false", _switch({}, {"gradient_checkpointing": True})),
    "train_on_responses_only": Setting("true", _switch(_ANSWERS, _ALL)),
    "assistant_only_loss": Setting("true", _switch(_ANSWERS, _ALL)),
    "completion_only_loss": Setting("true", _switch({"loss_on": "completion"}, _ALL)),
    "mask_history": Setting("true", _switch({"loss_on": "completion"})),
    "train_on_inputs": Setting("false", _switch(_ALL, _ANSWERS)),
    "train_on_prompt": Setting("false", _switch(_ALL, _ANSWERS)),
    "mask_prompt_labels": Setting("true", _switch(_ANSWERS, _ALL)),
    "excess_length_strategy": Setting("drop", _words(drop={"too_long": "drop"}, truncate={"too_long": "truncate"})),
    "dataset_text_field": Setting("body", _column("text")),
    "text_column": Setting("body", _column("text")),
    "prompt_column": Setting("ask", _column("prompt")),
    "answer_column": Setting("reply", _column("completion")),
}
"""By the name elsewhere."""
