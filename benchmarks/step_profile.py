"""Where the time of a training step goes: the operations of some steps, by kind, with the rate of their products.

python benchmarks/step_profile.py [--data FILE] [--dtype bfloat16]

The first step is left out, it also measures and compiles. An operation's time is its own, without what it calls.
"""

from __future__ import annotations

import argparse
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pairs

if TYPE_CHECKING:
    from torch.autograd.profiler_util import FunctionEvent

R = 16
PRODUCTS = ("mm", "addmm", "bmm", "baddbmm", "addbmm", "mkldnn_linear")
KINDS = (
    "products of the base, forward and backward",
    "thin products of LoRA",
    "the head's products",
    "loss over the vocabulary",
    "attention",
    "casts and copies",
    "norms, rotary, activations, sums",
    "clipping and optimizer",
    "Python and the rest",
)


def operands(event: FunctionEvent) -> list[list[int]]:
    """Give the shapes of an operation's matrices."""
    shapes: Any = event.input_shapes
    return [list(shape) for shape in shapes or () if len(shape) > 1 and isinstance(shape[0], int)]


def kind(event: FunctionEvent, vocabulary: int) -> str:
    """Sort an operation into one of KINDS."""
    name, shapes = event.name.removeprefix("aten::"), operands(event)
    numbers = {size for shape in shapes for size in shape}
    if "attention" in name or name in ("bmm", "baddbmm"):
        return "attention"
    if name in PRODUCTS:
        if vocabulary in numbers:
            return "the head's products"
        return "thin products of LoRA" if any(R * share in numbers for share in (1, 2, 3)) else KINDS[0]
    if vocabulary in numbers or any(math.prod(shape) % vocabulary == 0 for shape in shapes if shape and all(shape)):
        return "loss over the vocabulary"
    if name in ("copy_", "_to_copy", "to", "contiguous", "clone", "cat", "index_select", "_foreach_copy_"):
        return "casts and copies"
    return "norms, rotary, activations, sums" if event.name.startswith("aten::") else "Python and the rest"


def flops(event: FunctionEvent) -> float:
    """Count the operations of a product, 0 of what is none."""
    if event.name.removeprefix("aten::") not in PRODUCTS:
        return 0
    one, other = operands(event)[-2:] if len(operands(event)) > 1 else ([0], [0])
    return 2 * math.prod(one) * other[-1]


@contextmanager
def watched() -> Iterator[dict[str, list[Any]]]:
    """Profile what peft_nb's trainer does in a training step, and time what follows it."""
    import time

    import torch
    from torch.profiler import ProfilerActivity, profile

    from peft_nb.training.trainer import PlannedTrainer

    found: dict[str, list[Any]] = {"steps": [], "seconds": [], "update": []}
    step, update, clip = PlannedTrainer.training_step, torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_

    def profiled(self: Any, *given: Any, **named: Any) -> Any:
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as kept:
            start = time.perf_counter()
            loss = step(self, *given, **named)
            found["seconds"].append(time.perf_counter() - start)
        found["steps"].append(kept.events())
        return loss

    def timed(function: Any) -> Any:
        def run(*given: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                found["update"].append(time.perf_counter() - start)

        return run

    PlannedTrainer.training_step = profiled  # type: ignore[method-assign]
    torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_ = timed(update), timed(clip)  # type: ignore[method-assign]
    try:
        yield found
    finally:
        PlannedTrainer.training_step = step  # type: ignore[method-assign]
        torch.optim.AdamW.step, torch.nn.utils.clip_grad_norm_ = update, clip  # type: ignore[method-assign]


def main() -> None:
    """Train, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, metavar="FILE", help="such as GSM8K's (default the support desk's rows)")
    parser.add_argument("--dtype", default="auto", choices=("auto", "float32", "bfloat16"))
    parser.add_argument("--model", default="smollm2-135m")
    options = parser.parse_args()
    with TemporaryDirectory() as store, watched() as found:
        os.environ["PEFT_NB_STORE"] = store
        import peft_nb

        rows = pairs.load(options.data, 24)
        run = peft_nb.train(
            model=options.model, data=rows, method="lora", r=R, epochs=1, eval_fraction=0, dtype=options.dtype
        )
    vocabulary = run.model.config.vocab_size
    spent, work = dict.fromkeys(KINDS, 0.0), dict.fromkeys(KINDS, 0.0)
    for events in found["steps"][1:]:
        for event in events:
            spent[kind(event, vocabulary)] += event.self_cpu_time_total / 1e6
            work[kind(event, vocabulary)] += flops(event)
    spent["clipping and optimizer"] = sum(found["update"][2:])
    whole = sum(found["seconds"][1:]) + spent["clipping and optimizer"]
    spent["Python and the rest"] += whole - sum(spent.values())
    print(f"\n{run.facts.dtype}, {len(found['steps']) - 1} steps, {whole:.1f} s\n")
    print("| | share of the time | GFLOP/s |\n| --- | ---: | ---: |")
    for name in KINDS:
        rate = f"{work[name] / spent[name] / 1e9:.0f}" if work[name] else ""
        print(f"| {name} | {spent[name] / whole:.0%} | {rate} |")


if __name__ == "__main__":
    main()
