"""Preferences learned by peft_nb and by TRL, on the same pairs: time, peak memory and what was learned.

    python benchmarks/preference.py dpo [--pairs N] [--rounds N] [--only CONTENDER ...]
    python benchmarks/preference.py grpo [--prompts N] [--rounds N] [--only CONTENDER ...]

Every measurement is a process of its own, and the contenders take turns. Prompts have about 200 tokens and are all
different, so that only the two answers of a pair have one in common. Time is that of the reference's log-probabilities
and of all steps, whole what the call takes from loading the model to the trained adapter. DPO begins at 0.6931 whatever
is trained; the gradient norm of the first step and the last loss say who has trained the same.

GRPO draws, rewards and learns from answers to the same prompts. What is drawn differs, so that answers a second are
compared, with their mean length and reward beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import throughput
from contenders import Job, Measurement, Outcome, base, common, lora, peak_mb, timed

HERE = Path(__file__).parent
SHOWN, ASKED = 3, 3  # questions with their answers in a prompt, and those that are to be answered


def pairs(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Write pairs of the support desk's rows: several questions, their answers against those of other questions."""
    from peft_nb.data import support_desk

    draw, rows, made = random.Random(seed), support_desk.load()["train"], []
    for _ in range(count):
        drawn = draw.sample(rows, SHOWN + 2 * ASKED + 1)
        shown, asked, others = drawn[:SHOWN], drawn[SHOWN : SHOWN + ASKED], drawn[SHOWN + ASKED :]
        examples = "\n".join(f"Question: {row['question']}\nAnswer: {row['answer']}" for row in shown)
        questions = "\n".join(f"{place}. {row['question']}" for place, row in enumerate(asked, 1))
        made.append(
            {
                "prompt": f"This is how our desk answers:\n\n{examples}\n\nAnswer in the same way:\n{questions}",
                "chosen": "\n".join(row["answer"] for row in asked),
                "rejected": "\n".join(row["answer"] for row in others[: draw.randint(2, len(others))]),
            }
        )
    return made


@dataclass(frozen=True)
class Learned:
    """What a contender did, with the seconds that its whole call took and those of the reference before its steps."""

    outcome: Outcome
    whole: float
    reference: float


@dataclass(frozen=True)
class Preferred(Measurement):
    """A measurement whose first step is that of the reference, and the seconds of the whole call."""

    whole: float = 0.0


def stopwatch(call: Callable[..., Any], seconds: list[float]) -> Callable[..., Any]:
    """Add what calls take to ``seconds``."""

    def timed(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        try:
            return call(*given, **named)
        finally:
            seconds.append(time.perf_counter() - began)

    return timed


def run_peft_nb(job: Job, **settings: Any) -> Learned:
    """Train with peft_nb at its defaults but for ``settings``."""
    import peft_nb

    # What is known of the same base and rows from other runs, such as the reference, is not to be found.
    os.environ["PEFT_NB_CACHE"] = f"{os.environ['PEFT_NB_STORE']}/cache"
    before: list[float] = []
    reference: Any = import_module("peft_nb.runs.reference")
    reference.fill = stopwatch(reference.fill, before)
    began = time.perf_counter()
    run = peft_nb.train(
        model=job.model,
        data=job.rows,
        task="dpo",
        method="lora",
        r=job.r,
        alpha=job.alpha,
        batch_size=job.batch_size,
        epochs=1,
        learning_rate=job.learning_rate,
        eval_fraction=0,
        seed=job.seed,
        **settings,
    )
    whole, history = time.perf_counter() - began, run.history
    ends, losses, norms = (history[name].tolist() for name in ("elapsed_s", "loss", "grad_norm"))
    outcome = Outcome(run.model, ends, losses, norms, run.metrics["supervised_tokens"], str(run.facts.dtype))
    return Learned(outcome, whole, sum(before))


def run_trl(job: Job, *, batch_size: int | None = None, **settings: Any) -> Learned:
    """Train with TRL's DPOTrainer at its defaults but for ``settings``.

    ``batch_size`` is how many pairs it computes at once; so many of them make a step that all contenders step alike.
    """
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from peft_nb.training.packing import plan

    before: list[float] = []
    DPOTrainer._precompute_ref_logps = stopwatch(DPOTrainer._precompute_ref_logps, before)
    began = time.perf_counter()
    model, tokenizer = base(job.model)

    def text(row: dict[str, str]) -> dict[str, str]:
        """A row whose tokens end where an answer does; TRL would also learn the line break after its end."""
        turn = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
        return {**row, "prompt": str(prompt)}

    steps = plan(len(job.rows), job.batch_size, job.seed, epochs=1)
    rows = Dataset.from_list([text(job.rows[row]) for step in steps for row in step])
    with common(job) as arguments:
        if batch_size:
            arguments["per_device_train_batch_size"] = batch_size
            arguments["gradient_accumulation_steps"] = job.batch_size // batch_size
        config = DPOConfig(train_sampling_strategy="sequential", **arguments, **settings)
        trainer = DPOTrainer(model, None, config, None, rows, processing_class=tokenizer, peft_config=lora(job))
        outcome = timed(trainer)
    return Learned(outcome, time.perf_counter() - began, sum(before))


BEST: dict[str, Any] = {"gradient_checkpointing": False, "precompute_ref_log_probs": True, "max_length": None}

CONTENDERS: dict[str, Callable[[Job], Learned]] = {
    "peft_nb": run_peft_nb,
    "peft_nb-float32": partial(run_peft_nb, dtype="float32"),
    "trl-default": run_trl,
    "trl-best": partial(run_trl, bf16=False, **BEST),
    "trl-best-by-2": partial(run_trl, bf16=False, batch_size=2, **BEST),
    "trl-best-bf16": partial(run_trl, bf16=True, **BEST),
    "trl-best-bf16-by-2": partial(run_trl, bf16=True, batch_size=2, **BEST),
}


@dataclass(frozen=True)
class Rewarded:
    """What a contender drew and learned from: the rewards and tokens of its answers are means over all steps."""

    contender: str
    dtype: str
    answers: int
    seconds: float
    peak_mb: float
    tokens: float
    reward: float


DRAWN, LONGEST = 4, 64  # answers to each prompt, and their tokens at most


def brief(completions: list[str], **_: Any) -> list[float]:
    """Reward few words."""
    return [10 / max(10, len(text.split())) for text in completions]


def grpo_peft_nb(job: Job, **settings: Any) -> Rewarded:
    """Learn by rewards with peft_nb at its defaults but for ``settings``."""
    import peft_nb

    run = peft_nb.train(
        model=job.model,
        data=[{"prompt": row["prompt"]} for row in job.rows],
        task="grpo",
        reward=lambda completion: brief([completion])[0],
        num_generations=DRAWN,
        max_completion_length=LONGEST,
        method="lora",
        r=job.r,
        alpha=job.alpha,
        batch_size=job.batch_size // DRAWN,
        epochs=1,
        learning_rate=job.learning_rate,
        eval_fraction=0,
        seed=job.seed,
        **settings,
    )
    told = run.history
    means = (float(told[name].mean()) for name in ("completion_length", "reward"))
    seconds = float(told["elapsed_s"].iloc[-1])
    return Rewarded(job.contender, str(run.facts.dtype), len(job.rows) * DRAWN, seconds, 0.0, *means)


def grpo_trl(job: Job, **settings: Any) -> Rewarded:
    """Learn by rewards with TRL's GRPOTrainer at its defaults but for ``settings``."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = base(job.model)
    turns = ([{"role": "user", "content": row["prompt"]}] for row in job.rows)
    prompts = [tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True) for turn in turns]
    rows = Dataset.from_list([{"prompt": str(prompt)} for prompt in prompts])
    with common(job) as arguments:
        config = GRPOConfig(num_generations=DRAWN, max_completion_length=LONGEST, **arguments, **settings)
        trainer = GRPOTrainer(model, brief, config, rows, processing_class=tokenizer, peft_config=lora(job))
        trainer.train()
    logs = [one for one in trainer.state.log_history if "reward" in one]
    tokens, rewards = (sum(one[name] for one in logs) / len(logs) for name in ("completions/mean_length", "reward"))
    seconds = next(one["train_runtime"] for one in trainer.state.log_history if "train_runtime" in one)
    dtype = "bfloat16" if config.bf16 else "float32"
    return Rewarded(job.contender, dtype, len(job.rows) * DRAWN, seconds, 0.0, tokens, rewards)


REWARDED: dict[str, Callable[[Job], Rewarded]] = {
    "peft_nb": grpo_peft_nb,
    "trl-default": grpo_trl,
    "trl-best-bf16": partial(grpo_trl, bf16=True, gradient_checkpointing=False),
    "trl-best": partial(grpo_trl, bf16=False, gradient_checkpointing=False),
}


def work(job: Job) -> Preferred | Rewarded:
    """Run the job's contender, ``grpo`` standing before its name where it learns by rewards."""
    task, _, name = job.contender.rpartition(" ")
    if task:
        return replace(REWARDED[name](job), contender=name, peak_mb=peak_mb())
    learned = CONTENDERS[job.contender](job)
    peak, outcome = peak_mb(), learned.outcome
    return Preferred(
        job.contender,
        [learned.reference, *(end - start for start, end in pairwise([0.0, *outcome.ends]))],
        peak,
        outcome.losses[0],
        outcome.losses[-1],
        outcome.gradient_norms[0],
        outcome.supervised_tokens,
        outcome.dtype,
        flops=0.0,
        matmul_flops_per_second=0.0,
        whole=learned.whole,
    )


def table(measurements: Sequence[Preferred]) -> str:
    """Lay out the contenders as a Markdown table of ratios to the first, each part of the time at its best."""
    rounds: dict[str, list[Preferred]] = {}
    for one in measurements:
        rounds.setdefault(one.contender, []).append(one)
    seconds = {
        name: sum(map(min, zip(*(one.step_seconds for one in ones), strict=True))) for name, ones in rounds.items()
    }
    whole = {name: min(one.whole for one in ones) for name, ones in rounds.items()}
    peak = {name: max(one.peak_mb for one in ones) for name, ones in rounds.items()}
    first = measurements[0].contender
    lines = [
        f"| trainer | dtype | time / {first} | peak memory / {first} | whole / {first} | seconds | of the reference "
        "| peak MB | first loss | last loss | gradient norm | supervised tokens |",
        "| --- | --- |" + " ---: |" * 10,
    ]
    for name, (one, *_) in rounds.items():
        reference = min(one.step_seconds[0] for one in rounds[name])
        lines.append(
            f"| {name} | {one.dtype} | {seconds[name] / seconds[first]:.2f} | {peak[name] / peak[first]:.2f} "
            f"| {whole[name] / whole[first]:.2f} | {seconds[name]:.1f} | {reference:.1f} | {peak[name]:.0f} "
            f"| {one.first_loss:.4f} | {one.last_loss:.4f} | {one.gradient_norm:.3f} | {one.supervised_tokens} |"
        )
    return "\n".join(lines)


def speeds(measurements: Sequence[Rewarded]) -> str:
    """Lay out what learned by rewards as a Markdown table, each contender at its fastest."""
    best: dict[str, Rewarded] = {}
    for one in measurements:
        known = best.setdefault(one.contender, one)
        if one.answers / one.seconds > known.answers / known.seconds:
            best[one.contender] = one
    ours = next(iter(best.values()))
    lines = [
        f"| trainer | dtype | time of an answer / {ours.contender} | peak memory / {ours.contender} | answers a second "
        "| seconds | peak MB | tokens of an answer | reward |",
        "| --- | --- |" + " ---: |" * 7,
    ]
    for name, one in best.items():
        ratio = one.seconds / one.answers / (ours.seconds / ours.answers)
        lines.append(
            f"| {name} | {one.dtype} | {ratio:.2f} | {one.peak_mb / ours.peak_mb:.2f} "
            f"| {one.answers / one.seconds:.2f} | {one.seconds:.1f} | {one.peak_mb:.0f} "
            f"| {one.tokens:.1f} | {one.reward:.3f} |"
        )
    return "\n".join(lines)


def folder_of(model: str) -> str:
    """Find the base, fetched if need be, so that no contender has to."""
    from peft_nb.models.load import load
    from peft_nb.models.resolve import resolve

    if resolve(model).path is None:
        load(resolve(model))
    return str(resolve(model).path)


def measured(job: Job, options: argparse.Namespace, task: str = "") -> Iterator[dict[str, Any]]:
    """Let the contenders take turns, each in a process of its own."""
    for turn in range(options.rounds):
        for contender in options.only:
            with TemporaryDirectory() as store:
                worker = [sys.executable, __file__, "work"]
                name = f"{task} {contender}".strip()
                one = throughput.answered(replace(job, contender=name), worker, store)
            print(f"round {turn + 1}: {json.dumps(one)}", file=sys.stderr)
            yield one


def compare(options: argparse.Namespace) -> None:
    """Measure what was asked for, print its table, keep the raw numbers."""
    rows, folder = pairs(options.rows), folder_of(options.model)
    job = Job("", folder, rows, None, [], 0.0, options.batch_size, learning_rate=options.learning_rate)
    found: list[Any]
    if options.command == "grpo":
        found = [Rewarded(**one) for one in measured(job, options, "grpo")]
        print(speeds(found))
    else:
        found = [Preferred(**one) for one in measured(job, options)]
        print(f"{table(found)}\n", *throughput.apart(found), sep="\n")
    results = HERE / "results" / f"preference-{time.strftime('%Y%m%d-%H%M%S')}.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps({"cores": os.cpu_count(), "measurements": [asdict(one) for one in found]}, indent=1))


def main() -> None:
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, trainer, option, count, batch, rate, contenders in (
        ("dpo", "DPOTrainer", "--pairs", 48, 8, 1e-4, CONTENDERS),
        ("grpo", "GRPOTrainer", "--prompts", 16, 16, 1e-4, REWARDED),
    ):
        one = commands.add_parser(name, help=f"against TRL's {trainer}")
        one.add_argument(option, dest="rows", type=int, default=count, help=f"how many (default {count})")
        one.add_argument("--rounds", type=int, default=2, help="turns each contender gets (default 2)")
        one.add_argument("--model", default="smollm2-135m", help="alias or folder of the base")
        one.add_argument("--learning-rate", type=float, default=rate, help=f"of all contenders (default {rate:g})")
        one.add_argument(
            "--only", nargs="+", choices=contenders, default=list(contenders), metavar="CONTENDER",
            help=f"some of: {', '.join(contenders)}",
        )  # fmt: skip
        one.set_defaults(batch_size=batch)
    compare(parser.parse_args())


if __name__ == "__main__":
    if sys.argv[1:] == ["work"]:
        with redirect_stdout(sys.stderr):
            result = work(Job(**json.load(sys.stdin)))
        print(json.dumps(asdict(result)))
    else:
        main()
