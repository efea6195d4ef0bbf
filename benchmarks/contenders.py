"""One measurement of one trainer, in a process of its own: the worker behind ``throughput.py``.

Reads a job as JSON on stdin and prints one JSON line on stdout. All contenders train on the same encoded rows
in the same order, and start from the same LoRA weights; what differs is what each of them does with a batch.
Other trainers' environments have no peft_nb: only what prepares a job and peft_nb's own turn import it.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from functools import partial
from importlib.machinery import ModuleSpec
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

    from peft_nb.data.examples import Example


@dataclass(frozen=True)
class Job:
    """What every contender is asked to do: one epoch over ``rows``.

    ``model`` is the folder of the base; ``examples`` are the rows as peft_nb encodes them, in the order in which it
    takes them, -100 marking a label that is not trained on; ``flops`` is explained at :func:`necessary_flops`.
    """

    contender: str
    model: str
    rows: list[dict[str, str]]
    system: str | None
    examples: list[dict[str, list[int]]]
    flops: float
    batch_size: int = 8
    r: int = 16
    alpha: int = 32
    learning_rate: float = 2e-4
    seed: int = 0


@dataclass(frozen=True)
class Outcome:
    """What a contender did; ``ends`` are the ends of its steps, in seconds since training began."""

    model: PreTrainedModel
    ends: list[float]
    losses: list[float]
    gradient_norms: list[float]
    supervised_tokens: int
    dtype: str


@dataclass(frozen=True)
class Measurement:
    """One run of one contender; the gradient norm is that of its first step, before clipping."""

    contender: str
    step_seconds: list[float]
    peak_mb: float
    first_loss: float
    last_loss: float
    gradient_norm: float
    supervised_tokens: int
    dtype: str
    flops: float
    matmul_flops_per_second: float


def prepare(model: str, rows: list[dict[str, str]], system: str | None) -> Job:
    """Encode the rows as peft_nb does; the contender is still to be named."""
    from torch import device
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    from peft_nb.data import detection, encoding
    from peft_nb.data.rendered import RenderedRows
    from peft_nb.models.load import load
    from peft_nb.models.resolve import resolve
    from peft_nb.training.packing import plan

    if resolve(model).path is None:
        load(resolve(model))  # fetches it
    folder = resolve(model).path
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rendered = RenderedRows(rows, detection.detect(rows), tokenizer, system=system)
    encoded = encoding.encode(rendered, max_length=8192).examples
    steps = [[encoded[row] for row in step] for step in plan(len(encoded), Job.batch_size, Job.seed, epochs=1)]
    examples = [
        {
            "input_ids": list(one.ids),
            "labels": [token if on else -100 for token, on in zip(one.ids, one.supervised, strict=True)],
        }
        for step in steps
        for one in step
    ]
    with device("meta"):
        bare = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder))
    flops = necessary_flops(steps, *linear_shapes(bare))
    return Job("", str(folder), rows, system, examples, flops)


def base(folder: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the base in float32."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder, dtype="float32"), AutoTokenizer.from_pretrained(folder)


def dataset(job: Job) -> Dataset:
    """Give a peer the examples, to be taken in sequence."""
    from datasets import Dataset

    return Dataset.from_list(job.examples)


def run_peft_nb(job: Job, **settings: Any) -> Outcome:
    """Train with peft_nb at its defaults but for ``settings``."""
    import peft_nb

    run = peft_nb.train(
        model=job.model,
        data=job.rows,
        method="lora",
        system=job.system,
        r=job.r,
        alpha=job.alpha,
        batch_size=job.batch_size,
        epochs=1,
        learning_rate=job.learning_rate,
        eval_fraction=0,
        seed=job.seed,
        **settings,
    )
    history = run.history
    return Outcome(
        run.model,
        history["elapsed_s"].tolist(),
        history["loss"].tolist(),
        history["grad_norm"].tolist(),
        run.metrics["supervised_tokens"],
        str(run.facts.dtype),
    )


def watched(train: Callable[[TrainerCallback], object]) -> Outcome:
    """Watch a training that takes a callback of transformers."""
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.begin, self.ends, self.logs = time.perf_counter(), list[float](), list[dict[str, float]]()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.ends.append(time.perf_counter() - self.begin)

        def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
            if "loss" in logs:
                self.logs.append(logs)

        def on_train_end(self, args: Any, *_: Any, model: Any, train_dataloader: Any, **__: Any) -> None:
            supervised = sum(map(supervised_in, train_dataloader))
            losses, norms = ([float(log[name]) for log in self.logs] for name in ("loss", "grad_norm"))
            dtype = "bfloat16" if args.bf16 else "float32"
            self.outcome = Outcome(model, self.ends, losses, norms, supervised, dtype)

    watch = Watch()
    train(watch)
    return watch.outcome


def supervised_in(batch: dict[str, Any]) -> int:
    """Count the tokens that are learned from of a batch of texts or of pairs."""
    on = batch["completion_mask"] if "completion_mask" in batch else batch["labels"] != -100
    return int(on[:, 1:].sum())


def timed(trainer: Trainer) -> Outcome:
    """Run a trainer that is ready to go and time its steps."""

    def train(watch: TrainerCallback) -> None:
        trainer.add_callback(watch)
        trainer.train()

    return watched(train)


@contextmanager
def common(job: Job) -> Iterator[dict[str, Any]]:
    """Provide the arguments that every peer gets: the job, and nothing written to disk."""
    import torch

    with TemporaryDirectory() as folder:
        yield {
            "output_dir": folder,
            "use_cpu": not torch.cuda.is_available(),
            "per_device_train_batch_size": job.batch_size,
            "num_train_epochs": 1,
            "learning_rate": job.learning_rate,
            "seed": job.seed,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
        }


def lora(job: Job) -> Any:
    """Describe the same LoRA for every peer."""
    from peft import LoraConfig

    return LoraConfig(r=job.r, lora_alpha=job.alpha, target_modules="all-linear", task_type="CAUSAL_LM")


def run_trl(job: Job, **settings: Any) -> Outcome:
    """Train with TRL's SFTTrainer at its defaults but for ``settings``."""
    from transformers import set_seed
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = base(job.model)
    set_seed(job.seed)
    with common(job) as arguments:
        config = SFTConfig(train_sampling_strategy="sequential", **arguments, **settings)
        trainer = SFTTrainer(model, config, None, dataset(job), processing_class=tokenizer, peft_config=lora(job))
        return timed(trainer)


def run_trainer(job: Job, *, flattening: bool, bf16: bool) -> Outcome:
    """Train with the plain Trainer, padding each batch or laying it end to end in one row."""
    from peft import get_peft_model
    from transformers import (
        DataCollatorForSeq2Seq,
        DataCollatorWithFlattening,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    model, tokenizer = base(job.model)
    set_seed(job.seed)
    collator = DataCollatorWithFlattening() if flattening else DataCollatorForSeq2Seq(tokenizer)
    with common(job) as arguments:
        training = TrainingArguments(train_sampling_strategy="sequential", bf16=bf16, **arguments)
        return timed(Trainer(get_peft_model(model, lora(job)), training, collator, dataset(job)))


def run_unsloth(job: Job, *, dtype: str | None = None, checkpointing: bool | str = "unsloth") -> Outcome:
    """Train with Unsloth on its CPU backend, which keeps TRL's padded batches."""
    from unsloth import FastLanguageModel  # before trl, which it patches

    from trl import SFTConfig, SFTTrainer  # isort: skip

    model, tokenizer = FastLanguageModel.from_pretrained(
        job.model, max_seq_length=8192, dtype=dtype, load_in_4bit=False, use_gradient_checkpointing=checkpointing
    )
    model = FastLanguageModel.get_peft_model(model, job.r, lora_alpha=job.alpha, random_state=job.seed)
    bf16 = None if dtype is None else dtype == "bfloat16"
    with common(job) as arguments:
        config = SFTConfig(
            train_sampling_strategy="sequential", bf16=bf16, gradient_checkpointing=bool(checkpointing), **arguments
        )
        return timed(SFTTrainer(model, config, None, dataset(job), processing_class=tokenizer))


def run_llamafactory(job: Job, *, bf16: bool = True, checkpointing: bool = True) -> Outcome:
    """Train with LLaMA-Factory on rows that it would have encoded itself."""
    from datasets import DatasetDict

    # It imports torchaudio whatever it trains on, and here that is texts.
    sys.modules["torchaudio"] = torchaudio = ModuleType("torchaudio")
    torchaudio.__spec__ = ModuleSpec("torchaudio", None)
    from llamafactory.train.tuner import run_exp

    with common(job) as arguments, TemporaryDirectory() as rows:
        DatasetDict(train=dataset(job)).save_to_disk(rows)
        settings = {
            "stage": "sft",
            "do_train": True,
            "model_name_or_path": job.model,
            "template": "empty",
            "dataset": "rows",
            "tokenized_path": rows,
            "disable_shuffling": True,
            "finetuning_type": "lora",
            "lora_target": "all",
            "lora_rank": job.r,
            "lora_alpha": job.alpha,
            "bf16": bf16,
            "disable_gradient_checkpointing": not checkpointing,
        }
        return watched(lambda watch: run_exp({**arguments, **settings}, [watch]))


TRL_BEST: dict[str, Any] = {"gradient_checkpointing": False, "padding_free": True, "max_length": None}

CONTENDERS: dict[str, Callable[[Job], Outcome]] = {
    "peft_nb": run_peft_nb,
    "peft_nb-float32": partial(run_peft_nb, dtype="float32"),
    "peft_nb-compiled": partial(run_peft_nb, torch_compile=True),
    "trl-default": run_trl,
    "trl-best": partial(run_trl, bf16=False, **TRL_BEST),
    "trl-best-bf16": partial(run_trl, bf16=True, **TRL_BEST),
    "trainer-padded": partial(run_trainer, flattening=False, bf16=False),
    "trainer-padded-bf16": partial(run_trainer, flattening=False, bf16=True),
    "trainer-flattening": partial(run_trainer, flattening=True, bf16=False),
    "trainer-flattening-bf16": partial(run_trainer, flattening=True, bf16=True),
    "unsloth-default": run_unsloth,
    "unsloth-best": partial(run_unsloth, dtype="float32", checkpointing=False),
    "unsloth-best-bf16": partial(run_unsloth, dtype="bfloat16", checkpointing=False),
    "llamafactory-default": run_llamafactory,
    "llamafactory-best": partial(run_llamafactory, bf16=False, checkpointing=False),
    "llamafactory-best-bf16": partial(run_llamafactory, checkpointing=False),
}


def peak_mb() -> float:
    """Read the most memory this process has held, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def linear_shapes(model: PreTrainedModel) -> tuple[Counter[tuple[int, int]], tuple[int, int]]:
    """Count the base's linear layers by (in, out), and give the output head's shape apart."""
    from torch.nn import Linear

    head = model.get_output_embeddings()
    shapes = Counter(
        (layer.in_features, layer.out_features)
        for name, layer in model.named_modules()
        if isinstance(layer, Linear) and layer is not head and "lora_" not in name
    )
    return shapes, (head.in_features, head.out_features)


def necessary_flops(steps: list[list[Example]], shapes: Counter[tuple[int, int]], head: tuple[int, int]) -> float:
    """Count the work that no exact trainer can leave out.

    Each linear layer of P weights costs 2·P operations a token forward and 2·P backward: the weights are
    frozen, so only the gradient with respect to the input is formed. The head runs at the supervised tokens
    alone. Padding is not counted, what rows of a step begin with alike counts once a step, and LoRA,
    attention and everything elementwise count nothing. One number serves all contenders: a share of the
    matmul rate tells how much of what the machine can do went into necessary work.
    """
    from peft_nb.training import prefix_tree
    from peft_nb.training.packing import supervised_targets

    tokens = supervised = 0
    for examples in steps:
        tokens += prefix_tree.tokens(examples)
        supervised += sum(len(supervised_targets(one)) for one in examples)
    weights = sum(inputs * outputs * count for (inputs, outputs), count in shapes.items())
    return 4.0 * (weights * tokens + head[0] * head[1] * supervised)


def matmul_flops(shapes: Counter[tuple[int, int]], tokens: int, dtype: str, device: str) -> float:
    """Measure the operations a second of the layers' own products, forward and backward."""
    import torch

    def seconds(inputs: int, outputs: int) -> float:
        x = torch.randn(tokens, inputs, device=device, dtype=getattr(torch, dtype))
        w = torch.randn(outputs, inputs, device=device, dtype=getattr(torch, dtype))
        best = float("inf")
        for _ in range(10):
            start = time.perf_counter()
            (x @ w.T) @ w
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return best

    total = sum(4.0 * tokens * inputs * outputs * count for (inputs, outputs), count in shapes.items())
    return total / sum(seconds(*shape) * count for shape, count in shapes.items())


def measure(job: Job) -> Measurement:
    """Run the job's contender, then ask the machine what it could have done."""
    outcome = CONTENDERS[job.contender](job)
    peak = peak_mb()
    shapes, _ = linear_shapes(outcome.model)
    tokens = sum(len(one["input_ids"]) for one in job.examples) // len(outcome.ends)
    rate = matmul_flops(shapes, tokens, outcome.dtype, outcome.model.device.type)
    return Measurement(
        job.contender,
        [end - start for start, end in pairwise([0.0, *outcome.ends])],
        peak,
        outcome.losses[0],
        outcome.losses[-1],
        outcome.gradient_norms[0],
        outcome.supervised_tokens,
        outcome.dtype,
        job.flops,
        rate,
    )


if __name__ == "__main__":
    with redirect_stdout(sys.stderr):
        result = measure(Job(**json.load(sys.stdin)))
    print(json.dumps(asdict(result)))
