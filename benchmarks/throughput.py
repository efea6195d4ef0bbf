"""Training speed and memory of peft_nb against other trainers on the same rows: ``make bench``.

Every measurement is a process of its own, never two at once, and the contenders take turns (A B C A B C) so
that a machine that slows down slows all of them. Unsloth and LLaMA-Factory run in environments of their own, which
are built when they are first asked for. The table gives ratios to peft_nb: they travel between
machines, seconds do not. Raw measurements are kept as JSON in ``benchmarks/results/``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pairs
from contenders import CONTENDERS, Job, Measurement, prepare
from environments import ENVIRONMENTS, interpreter

HERE = Path(__file__).parent

SYSTEM = """\
You are a patient mathematics tutor for pupils between nine and twelve years of age. Read the whole problem
before you begin. Work in small steps and write each calculation on its own line, with a short sentence that
says what the result means. Put every arithmetic expression between double angle brackets together with its
value, so that a program can check it. Never skip a step, even an easy one, and never round before the end
unless the problem asks for it. Keep the units the problem uses: dollars stay dollars, minutes stay minutes.
If a number is missing, say which one, and do not guess it. Do not use algebra where counting will do, and
do not mention methods the pupil cannot know yet. Be brief: no greetings, no praise, no closing remarks.
When you are done, write the final answer alone on the last line, after four number signs and a space, as a
number without units. Nothing may follow that line."""

PROMPTS = {"without": None, "with": SYSTEM}


def interpreters(contenders: Sequence[str]) -> dict[str, Path]:
    """Find the Python of each contender; one whose environment cannot be had is left out."""
    pythons: dict[str, Path | None] = {}
    for trainer in dict.fromkeys(contender.partition("-")[0] for contender in contenders):
        environment = ENVIRONMENTS.get(trainer)
        pythons[trainer] = interpreter(trainer, environment) if environment else Path(sys.executable)
    return {name: python for name in contenders if (python := pythons[name.partition("-")[0]])}


def answered(job: Job, worker: Sequence[str], store: str) -> dict[str, Any]:
    """Run one job in a process of its own, and read the line it prints."""
    result = subprocess.run(
        worker,
        input=json.dumps(asdict(job)),
        capture_output=True,
        text=True,
        env={**os.environ, "PEFT_NB_STORE": store},
    )
    if result.returncode:
        sys.exit(f"{job.contender} failed:\n{result.stderr}")
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def table(measurements: Sequence[Measurement]) -> str:
    """Lay out the contenders as a Markdown table of ratios to the first.

    A contender's time is the sum of its steps, each at its best of all rounds: whatever else the machine does
    can only add time, and seldom meets the same step twice.
    """
    rounds: dict[str, list[Measurement]] = {}
    for one in measurements:
        rounds.setdefault(one.contender, []).append(one)
    seconds = {
        name: sum(map(min, zip(*(one.step_seconds for one in ones), strict=True))) for name, ones in rounds.items()
    }
    peak = {name: max(one.peak_mb for one in ones) for name, ones in rounds.items()}
    first = measurements[0].contender
    lines = [
        f"| trainer | dtype | time / {first} | peak memory / {first} | seconds | peak MB "
        "| first loss | last loss | gradient norm | supervised tokens | share of matmul rate |",
        "| --- | --- |" + " ---: |" * 9,
    ]
    for name, (one, *_) in rounds.items():
        rate = max(other.matmul_flops_per_second for other in measurements if other.dtype == one.dtype)
        share = one.flops / seconds[name] / rate
        lines.append(
            f"| {name} | {one.dtype} | {seconds[name] / seconds[first]:.2f} | {peak[name] / peak[first]:.2f} "
            f"| {seconds[name]:.1f} | {peak[name]:.0f} | {one.first_loss:.4f} | {one.last_loss:.4f} "
            f"| {one.gradient_norm:.3f} | {one.supervised_tokens} | {share:.0%} of {rate / 1e9:.0f} GFLOP/s |"
        )
    return "\n".join(lines)


def apart(measurements: Sequence[Measurement], tolerance: float = 0.01) -> list[str]:
    """Say where a contender's losses or gradient norm are not those of the first one in the same data type."""
    firsts: dict[str, Measurement] = {}
    lines = []
    for one in {one.contender: one for one in measurements}.values():
        first = firsts.setdefault(one.dtype, one)
        for name in ("first_loss", "last_loss", "gradient_norm"):
            found, wanted = getattr(one, name), getattr(first, name)
            if not abs(found - wanted) <= tolerance * abs(wanted):
                lines.append(f"{one.contender}: {name.replace('_', ' ')} {found:.4f}, {first.contender} {wanted:.4f}")
    return lines


def main() -> None:
    """Measure, print the tables, keep the raw numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help="JSON lines with 'question' and 'answer', such as GSM8K's (default the support desk's rows)",
    )
    parser.add_argument("--rows", type=int, default=48, help="rows taken from the beginning (default 48)")
    parser.add_argument("--rounds", type=int, default=2, help="turns each contender gets (default 2)")
    parser.add_argument("--model", default="smollm2-135m", help="alias or folder of the base")
    parser.add_argument(
        "--system",
        choices=[*PROMPTS, "both"],
        default="both",
        help="whether the rows begin with a system prompt of 200 tokens (default both, one table each)",
    )
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="CONTENDER",
        help=f"some of: {', '.join(CONTENDERS)}",
    )  # fmt: skip
    options = parser.parse_args()
    rows = pairs.load(options.data, options.rows)
    prompts = [prompt for name, prompt in PROMPTS.items() if options.system in (name, "both")]

    pythons = interpreters(options.only)

    kept = []
    with TemporaryDirectory() as store:
        for prompt in prompts:
            found, job = [], prepare(options.model, rows, prompt)
            for turn in range(options.rounds):
                for contender, python in pythons.items():
                    worker = [str(python), str(HERE / "contenders.py")]
                    found.append(Measurement(**answered(replace(job, contender=contender), worker, store)))
                    print(f"round {turn + 1}: {contender} {sum(found[-1].step_seconds):.1f} s", file=sys.stderr)
            print(f"\n### {'Rows with a 200-token system prompt' if prompt else 'Plain rows'}\n\n{table(found)}")
            print("", *apart(found), sep="\n")
            kept.append({"system": prompt, "measurements": [asdict(one) for one in found]})
            if len(counts := {one.supervised_tokens for one in found}) > 1:
                sys.exit(f"The contenders did not train on the same tokens: {sorted(counts)}")

    results = HERE / "results" / f"throughput-{time.strftime('%Y%m%d-%H%M%S')}.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps({"rows": len(rows), "cores": os.cpu_count(), "workloads": kept}, indent=1))


if __name__ == "__main__":
    main()
