"""One validated description of a run, behind flags, YAML, form, Python call and saved file alike.

A field says everything about itself (help, unit, bounds, default, section), so that flags, completion, forms
and reference are generated from :meth:`RunSpec.describe`.
"""

from __future__ import annotations

import json
import math
import re
from itertools import groupby
from typing import Any, Literal, NoReturn

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from peft_nb.errors import SpecError
from peft_nb.spec import notation, pasted
from peft_nb.spec.field_info import FieldInfo, aliases, show
from peft_nb.spec.fields import (
    Adapter,
    Columns,
    Criteria,
    FormatName,
    IndexName,
    MethodName,
    Modules,
    Number,
    Numbers,
    Options,
    Switch,
    TaskName,
    Text,
    Trackers,
    Use,
    Whole,
    Word,
    Words,
    explain,
    field,
    info,
)

_MANY = 10**9

Optimizer = Literal[
    "adamw_torch",
    "adamw_torch_fused",
    "adafactor",
    "sgd",
    "adagrad",
    "rmsprop",
    "adamw_8bit",
    "adamw_bnb_8bit",
    "paged_adamw_32bit",
    "paged_adamw_8bit",
    "lion_32bit",
    "lion_8bit",
    "paged_lion_32bit",
    "paged_lion_8bit",
    "ademamix",
    "ademamix_8bit",
    "paged_ademamix_32bit",
    "paged_ademamix_8bit",
    "rmsprop_bnb",
    "rmsprop_bnb_8bit",
    "rmsprop_bnb_32bit",
]
# Those of transformers' that need a loop of their own, or keep what no checkpoint here can hold; by their packages.
ELSEWHERE = {
    "galore_": "galore-torch",
    "apollo_": "apollo-torch",
    "lomo": "lomo-optim",
    "adalomo": "lomo-optim",
    "schedule_free_": "schedulefree",
    "grokadamw": "grokadamw",
    "stable_adamw": "torch-optimi",
    "adamw_torch_4bit": "torchao",
    "adamw_torch_8bit": "torchao",
    "adamw_torch_xla": "torch_xla",
    "adamw_torch_npu": "torch_npu",
    "adamw_anyprecision": "torchdistx",
}
Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup"]


class RunSpec(BaseModel):
    """A run, described: what to train, on which data, how. Immutable; equal when all fields are equal.

    Parameters
    ----------
    **fields
        Values by the names or aliases of :meth:`describe`, as objects or as text; only ``data`` is required.

    Raises
    ------
    SpecError
        With one line for every field that is unknown, missing, out of bounds or at odds with another.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: Word = field("smollm2-135m", "model")
    """Base model: an alias such as smollm2-135m, a name on the Hugging Face hub, a local folder or a GGUF
    file."""
    revision: Word | None = field(None, "model")
    """Branch, tag or commit of a model from the hub; null takes its main branch."""

    task: TaskName = field("generation", "data")
    """What is trained: text generation, classification, speech recognition, drawing, which answers are preferred, or
    what a reward calls good; pairs, ratings, labelled images and clips choose it."""
    data: Word = field(..., "data")
    """Training rows: a notebook variable, a built-in set such as support-desk, a csv, tsv, json, jsonl,
    ndjson, parquet, txt or md file, a folder or zip of images, a folder of clips, or a set on the hub."""
    eval_data: Word | None = field(None, "data")
    """Evaluation set, named like data; null splits off a share of the training rows (eval_fraction)."""
    format: FormatName = field("auto", "data")
    """Layout of the rows; auto detects it from the columns' names and cells and says what it
    found."""
    columns: Columns = field({}, "data")
    """Which column has which role if the data use other names, as role: column, such as prompt: ask."""
    system: Text | None = field(None, "data")
    """System prompt for every example without one; null leaves it to the model's chat template."""
    loss_on: Literal["assistant", "completion", "all"] = field("assistant", "data")
    """Which tokens are in the loss: every answer of the assistant, only the completion (the last answer), or all
    of them, prompts included; the rest is masked."""
    max_length: Whole = field(1024, "data", "tokens", ("max_seq_length",), ge=8, le=1_000_000)
    """Longest example that is not truncated; too_long decides what happens to longer ones."""
    too_long: Literal["truncate", "drop", "split"] = field("truncate", "data")
    """What happens to examples over max_length: truncate, drop, or split into several; always counted and
    reported."""
    personal_data: Literal["warn", "redact", "refuse"] = field("warn", "data")
    """What happens if the rows contain personal data (PII) such as e-mail addresses, phone, card or account
    numbers: warn, redact, or refuse to train."""
    allow: Words = field([], "data")
    """Values that are neither personal data nor secrets, such as *@tidewater.shop,+49 30 9018*; * matches any
    characters."""
    eval_fraction: Number = field(0.1, "data", "share of rows", ge=0, le=0.5)
    """Share of the training rows that becomes the evaluation set if eval_data is not given; 0 for none."""

    method: MethodName = field("lora", "method")
    """How trainable parameters are added to the frozen base model."""
    r: Whole | None = field(None, "method", ge=1, le=4096)
    """Rank of a low-rank update; a higher one can learn more and has more parameters. null takes the method's
    default, 16 for LoRA."""
    alpha: Number | None = field(None, "method", "", ("lora_alpha",), gt=0, le=65_536)
    """Scale of a low-rank update, which is multiplied by alpha / r; null takes the method's default, 32 for LoRA."""
    dropout: Number = field(0.0, "method", "share of inputs", ("lora_dropout",), ge=0, lt=1)
    """Share of the adapter's inputs set to zero at random in training; 0 trains fastest."""
    target_modules: Modules | None = field(None, "method")
    """Layers that get an adapter: all-linear, a list of names such as q_proj,v_proj, or a regular
    expression over full names; null takes the method's default, all-linear for LoRA."""
    num_virtual_tokens: Whole | None = field(None, "method", "tokens", ge=1, le=4096)
    """Virtual tokens that a soft prompt or prefix puts before every text; null takes the method's default."""
    method_options: Options = field({}, "method")
    """Further options of the method, as option: value, such as reduction_factor: 8; %peft help METHOD lists
    them."""
    init_adapter: Adapter | None = field(None, "method")
    """Adapter that training starts from, of the same base, method and shape: a run's id, name or name@v2, a variable
    that holds a run, or a folder in PEFT's format; null starts anew."""
    quantization: Literal["none", "4bit", "8bit"] | None = field(None, "method")
    """How the frozen base model is kept in memory: 4bit (NF4) and 8bit are smaller, none is exact; null
    leaves it to the method."""

    epochs: Number = field(3.0, "training", "epochs", ("num_train_epochs",), gt=0, le=1000)
    """Passes over the training rows; max_steps, if given, takes precedence."""
    max_steps: Whole | None = field(None, "training", "steps", ge=1, le=_MANY)
    """Number of optimizer steps, instead of epochs; null trains for all epochs."""
    batch_size: Whole = field(8, "training", "examples", ("per_device_train_batch_size",), ge=1, le=_MANY)
    """Examples, in grpo prompts, per optimizer step over all processes, before gradient_accumulation_steps multiplies
    them."""
    gradient_accumulation_steps: Whole = field(1, "training", "batches", ge=1, le=_MANY)
    """Batches whose gradients are accumulated before the weights are updated."""
    learning_rate: Number | None = field(None, "training", gt=0, le=10)
    """Peak learning rate of the optimizer; null takes the method's default, 2e-4 for LoRA."""
    lr_scheduler_type: Schedule = field("linear", "training")
    """Learning rate schedule after the warmup: down to 0 linearly or along a cosine, or constant."""
    warmup_steps: Whole = field(0, "training", "steps", ge=0, le=_MANY)
    """Steps over which the learning rate rises from 0 to learning_rate."""
    warmup_ratio: Number = field(0.0, "training", "share of steps", ge=0, lt=1)
    """Share of all steps over which the learning rate rises, instead of warmup_steps; rounded up to whole steps."""
    weight_decay: Number = field(0.0, "training", ge=0, le=10)
    """Weight decay: how strongly the trainable parameters are pulled towards 0."""
    optim: Optimizer | None = field(None, "training")
    """Optimizer, by its name in transformers: adafactor and those of 8 bits need less memory; null takes AdamW, and
    paged_adamw_8bit for a base in 4bit on a GPU."""
    max_grad_norm: Number = field(1.0, "training", ge=0, le=1_000_000)
    """Gradient clipping: gradients with a larger norm are scaled down to it; 0 clips none."""
    neftune_noise_alpha: Number | None = field(None, "training", gt=0, le=1000)
    """Noise on the embeddings of the training rows (NEFTune), up to alpha / sqrt(tokens × width), such as 5; null adds
    none."""
    early_stopping_patience: Whole | None = field(None, "training", "evaluations", ge=1, le=_MANY)
    """Early stopping: evaluations in a row without a lower eval loss before training ends, with the best
    checkpoint kept; null trains to the last step."""
    load_best_model_at_end: Switch = field(False, "training")
    """Keep the checkpoint with the lowest eval loss instead of the last one."""
    seed: Whole = field(42, "training", ge=0, le=2**32 - 1)
    """Random seed for the order of the data, the initial values of the new parameters and dropout."""

    loss_type: Words | None = field(None, "preferences")
    """Loss of dpo: sigmoid, ipo, hinge, robust, apo_zero, apo_down or sigmoid_norm, or several, added up; of grpo:
    grpo, dr_grpo or dapo. null takes sigmoid, and dapo in grpo."""
    loss_weights: Numbers | None = field(None, "preferences")
    """Weights of several losses, in the order of loss_type; null weighs them alike."""
    beta: Number | None = field(None, "preferences", ge=0, le=1000)
    """How strongly the model is held to its reference, or how sharply answers are told apart where there is none; null
    takes the task's default, 0.1, and 0 in grpo, which then needs no reference."""
    label_smoothing: Number | None = field(None, "preferences", "share of pairs", ge=0, lt=0.5)
    """Share of the pairs that are taken to be judged the wrong way round; null takes 0."""
    simpo_gamma: Number | None = field(None, "preferences", ge=0, le=1000)
    """Margin by which simpo wants the chosen answer to be likelier; null takes 1."""
    desirable_weight: Number | None = field(None, "preferences", ge=0, le=1000)
    """Weight of good answers in kto; null takes 1."""
    undesirable_weight: Number | None = field(None, "preferences", ge=0, le=1000)
    """Weight of bad answers in kto; null takes 1."""
    reward: Words | None = field(None, "preferences")
    """What grpo rewards answers by: a function of the notebook, reward(prompt, completion) and the columns it names,
    or exact_match, json_valid, length:WORDS or regex:PATTERN; several are added up."""
    reward_weights: Numbers | None = field(None, "preferences")
    """Weights of several rewards, in the order of reward; null weighs them alike."""
    num_generations: Whole | None = field(None, "preferences", "answers", ge=2, le=_MANY)
    """Answers that grpo samples to each prompt and compares, so that a step trains on batch_size times as many; null
    takes 8."""
    max_completion_length: Whole | None = field(None, "preferences", "tokens", ge=1, le=1_000_000)
    """Longest answer that grpo samples; null takes 256."""
    epsilon: Number | None = field(None, "preferences", gt=0, le=1)
    """By which share grpo lets the probability of a token move before it learns no more from it; null takes 0.2."""
    scale_rewards: Literal["group", "batch", "none"] | None = field(None, "preferences")
    """What grpo divides differences in reward by: their standard deviation in the answers to a prompt (group) or in
    the whole step (batch), or nothing; null takes group."""

    augment: Literal["none", "light", "strong"] | None = field(None, "images")
    """How training images are changed at random each time: light crops and colours a little, strong also turns, flips
    and erases; null takes none."""
    image_size: Whole | None = field(None, "images", "pixels", ge=8, le=4096)
    """Side of the square that the model sees of an image; smaller is faster; null takes what the model was made
    for."""
    prompt: Text | None = field(None, "images")
    """What every image of text-to-image shows, such as a photo of sks dog, in place of a text for each; {label} in it
    stands for the label of the image."""
    class_data: Word | None = field(None, "images")
    """Images of the class in general that text-to-image must still draw as before (prior preservation): a folder or
    zip."""
    class_prompt: Text | None = field(None, "images")
    """What images of the class show, such as a photo of a dog; without class_data the base draws them itself."""
    class_images: Whole | None = field(None, "images", ge=1, le=10_000)
    """How many images of the class the base draws before it is adapted, where class_data gives none; null takes
    100."""
    prior_loss_weight: Number | None = field(None, "images", ge=0, le=1000)
    """Weight of the loss on images of the class; null takes 1."""
    snr_gamma: Number | None = field(None, "images", gt=0, le=1000)
    """Weighs the times of text-to-image by their signal-to-noise ratio, at most so much (min-SNR), such as 5; null
    weighs all times alike."""
    train_text_encoder: Switch | None = field(None, "images")
    """Whether the text encoders of text-to-image get an adapter too; null adapts the denoiser alone."""
    sample_prompts: Words | None = field(None, "images")
    """What text-to-image draws while it trains, always from the same seeds, such as sks dog on a beach; null takes a
    few of the rows' own texts."""
    num_inference_steps: Whole | None = field(None, "images", "steps", ge=1, le=1000)
    """Steps of the scheduler in which text-to-image draws an image; null takes 20."""
    guidance_scale: Number | None = field(None, "images", ge=0, le=100)
    """How far text-to-image follows the prompt when it draws (classifier-free guidance); null takes the pipeline's
    default."""

    language: Word | None = field(None, "speech")
    """Code of the language that is spoken, such as en or de, for models that know several; rows may have their own in a
    column language."""
    freeze_encoder: Switch | None = field(None, "speech")
    """Adapting the decoder alone, so that what the encoder makes of each clip is computed once; false adapts the
    encoder too, for another kind of sound; null takes true."""

    documents: IndexName | None = field(None, "documents")
    """Index whose chunks are put before the questions, in training (RAFT) and whenever the model is asked: a name in
    the store or a variable."""
    distractors: Whole = field(3, "documents", "chunks", ge=0, le=50)
    """Chunks beside the golden one, which fit the question without answering it; one more than that is retrieved
    whenever the model is asked."""
    golden_fraction: Number = field(0.8, "documents", "share of rows", ge=0, le=1)
    """Share of the training rows that have the chunk with their answer among their documents; the others have
    distractors alone."""
    golden: Word | None = field(None, "documents")
    """Column that names the chunk with the answer of a row, by its text, document or number; null finds it by the
    question and the answer."""

    dtype: Literal["auto", "float32", "bfloat16"] = field("auto", "performance")
    """Precision of the computation (dtype); auto times them on this machine and takes the fastest safe one."""
    device: Literal["auto", "cpu", "cuda", "mps"] = field("auto", "performance")
    """Device for training; auto takes a GPU if there is one."""
    fast: Switch = field(True, "performance")
    """Batching without padding wherever that gives exactly the same result; off always pads."""
    token_budget: Whole | None = field(None, "performance", "tokens", ge=8, le=_MANY)
    """Tokens per micro-batch at most, which bounds the memory; null chooses it from the free memory."""
    gradient_checkpointing: Switch = field(False, "performance")
    """Recompute activations instead of keeping them: less memory, about a third slower."""
    torch_compile: Switch = field(False, "performance")
    """Compile the blocks of the model (torch.compile): starts later by a minute or more; steps may be faster on a GPU,
    and are slower on a CPU."""

    judge: Literal["quick", "full", "off"] = field("quick", "evaluation")
    """Evaluation after training: quick measures losses, forgetting and latency, full also generates answers to
    questions, off nothing; metrics named in accept are always measured."""
    benchmarks: Words = field([], "evaluation")
    """Tasks of lm-evaluation-harness, or YAML files of them, asked of adapter and base when the run is over; a number
    behind a colon limits the questions, such as gsm8k:50. A list for judge means the same."""
    accept: Criteria = field({}, "evaluation")
    """Criteria that the run has to meet, as metric: comparison, such as forgetting: "< 0.05"; its summary ends with
    the verdict."""
    score: Word | None = field(None, "evaluation")
    """How an answer is scored against its reference in the evaluation set: exact_match, rouge_l, or a function of the
    notebook, called with prompt, answer and reference; null takes rouge_l."""
    regression: Word | None = field(None, "evaluation")
    """Own rows that the model must not get worse at, named like data; added to the built-in regression texts."""
    use: Use = field({}, "evaluation")
    """What the model is to be used for, as purpose, risk (minimal, limited or high), affected (people) and
    human_oversight; high risk needs a person's approval before promotion."""

    logging_steps: Whole = field(1, "logging", "steps", ge=1, le=_MANY)
    """Steps between two rows of the history."""
    eval_steps: Whole | None = field(None, "logging", "steps", ge=1, le=_MANY)
    """Steps between two evaluations; null evaluates once per epoch."""
    save_steps: Whole | None = field(None, "logging", "steps", ge=1, le=_MANY)
    """Steps between two checkpoints; null saves about once per minute."""
    save_total_limit: Whole = field(2, "logging", "checkpoints", ge=1, le=_MANY)
    """Checkpoints that are kept: the newest ones, and the best one where it is wanted."""
    report_to: Trackers = field([], "logging")
    """Experiment trackers that are told the losses and the settings: trackio, wandb, mlflow or tensorboard; codecarbon
    measures the electricity. Without one nothing is sent anywhere."""
    name: Word | None = field(None, "logging")
    """Name to find the run by: up to 64 letters a-z, digits, dots, hyphens and underscores; null uses its
    id."""

    def __init__(self, /, **fields: Any) -> None:
        own = {*RunSpec.model_fields, *ALIASES}
        fields, problems = pasted.told(fields, own)
        near = {name: line for name in fields if name not in own and (line := pasted.alike(name, own))}
        problems += near.values()
        fields = {name: value for name, value in fields.items() if name not in near}
        if isinstance(fields.get("judge"), list | tuple):
            if "benchmarks" in fields:
                problems.append("judge: a list stands for benchmarks, which is given too; keep one")
            fields = {("benchmarks" if name == "judge" else name): value for name, value in fields.items()}
        twice = [alias for alias, name in ALIASES.items() if alias in fields and name in fields]
        problems += [f"{alias}: stands for {ALIASES[alias]}, which is given too; keep one" for alias in twice]
        fields = {ALIASES.get(name, name): value for name, value in fields.items() if name not in twice}
        try:
            super().__init__(**fields)
        except ValidationError as refused:
            problems += [explain(one, RunSpec, ALIASES) for one in refused.errors(include_url=False)]
        if problems:
            raise SpecError(problems)

    @field_validator("warmup_steps", "warmup_ratio")
    @classmethod
    def _warmup_happens(cls, given: float, info: ValidationInfo) -> float:
        steps, last = info.data.get("warmup_steps"), info.data.get("max_steps")
        if info.field_name == "warmup_ratio" and given and steps:
            raise ValueError(f"{given:g} and warmup_steps, {steps}, are both given; keep one")
        if info.field_name == "warmup_steps" and last and given > last:
            raise ValueError(f"{given} is more than max_steps, {last}; lower it")
        if given and info.data.get("lr_scheduler_type") == "constant":
            raise ValueError(f"{given} has no effect on a constant schedule; use constant_with_warmup")
        return given

    @field_validator("torch_compile")
    @classmethod
    def _compiles(cls, given: bool, info: ValidationInfo) -> bool:
        if given and info.data.get("gradient_checkpointing"):
            raise ValueError("blocks that gradient_checkpointing computes anew are not compiled; turn one of them off")
        return given

    @field_validator("optim", mode="before")
    @classmethod
    def _runs_here(cls, given: Any) -> Any:
        if package := next((one for name, one in ELSEWHERE.items() if str(given).startswith(name)), ""):
            fix = "adafactor and adamw_8bit need little memory too"
            raise ValueError(f"{given} is of the package {package}, which is not supported; {fix}")
        return given

    @field_validator("name")
    @classmethod
    def _names_a_folder(cls, name: str | None) -> str | None:
        if name is not None and not re.fullmatch(r"\w([\w.-]{0,62}[\w-])?", name, re.ASCII):
            fix = "use up to 64 of a-z, A-Z, 0-9, '_', '-' and '.', beginning with neither '-' nor '.'"
            raise ValueError(f"{show(name)} cannot name a folder; {fix}")
        return name

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise SpecError([f"{name}: a spec never changes; make another, RunSpec(**spec.changed() | changes)"])

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    def __repr_args__(self) -> list[tuple[str | None, Any]]:
        return list(self.changed().items())

    @classmethod
    def describe(cls) -> list[FieldInfo]:
        """Describe every field, in order: what flags, completion, forms and help are generated from."""
        return [info(name, field) for name, field in cls.model_fields.items()]

    @property
    def effective_batch_size(self) -> int:
        """Rows of an optimizer step: ``batch_size`` times ``gradient_accumulation_steps``."""
        return self.batch_size * self.gradient_accumulation_steps

    def warmup(self, steps: int) -> int:
        """Number of warmup steps of a run of so many steps, as transformers rounds ``warmup_ratio``."""
        return self.warmup_steps or math.ceil(self.warmup_ratio * steps)

    def to_dict(self) -> dict[str, Any]:
        """Return all fields by name, in order."""
        return self.model_dump()

    def changed(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults, in order; ``data`` is always among them."""
        fields = RunSpec.model_fields
        return {name: value for name, value in self.to_dict().items() if value != fields[name].default}

    def to_kwargs(self) -> dict[str, Any]:
        """Return the shortest keyword arguments from which ``RunSpec`` or ``train`` rebuild this spec."""
        return self.changed()

    def to_yaml(self) -> str:
        """Write the changed fields as YAML, in order, a blank line between sections."""
        section = {field.name: field.section for field in self.describe()}
        groups = groupby(self.changed().items(), key=lambda item: section[item[0]])
        return "\n".join(notation.write_yaml(dict(group)) for _, group in groups)

    @classmethod
    def from_yaml(cls, text: str) -> RunSpec:
        """Read a spec from YAML, a mapping of fields; SpecError names the line or lists what is wrong."""
        if not (fields := notation.read_yaml(text)):
            raise SpecError(["the YAML sets no field; write at least data: NAME"])
        return cls(**fields)

    def to_magic(self, out: str = "") -> str:
        """Write the notebook cell that describes this run, and binds it to the variable `out` where that is given."""
        return notation.write_cell(self.to_dict(), self.changed(), out)

    @classmethod
    def from_magic(cls, text: str) -> RunSpec:
        """Read the spec out of a ``%%peft`` cell; ``--out`` and ``--background`` are no part of it."""
        return cls(**notation.read_cell(text, cls.describe()).fields)

    def to_argv(self) -> list[str]:
        """Write the changed fields as arguments of ``python -m peft_nb train``."""
        return notation.write_flags(self.changed(), self.describe())

    @classmethod
    def from_argv(cls, argv: list[str]) -> RunSpec:
        """Read the arguments of ``python -m peft_nb train``: a YAML file, flags, or both."""
        return cls(**notation.parse_train(argv, cls.describe()))


ALIASES = aliases(RunSpec.describe())
"""Other accepted names of fields, and the field each one stands for."""
