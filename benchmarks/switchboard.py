"""One base and 100 adapters, against loading the model anew for each: switch time, memory, throughput of a batch.

    python benchmarks/switchboard.py [model or tiny] [adapters]

The adapters are LoRA of rank 8 on all linear layers with random values. `tiny` is a random Llama with the default
model's tokenizer, for a quick check that everything runs.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from peft_nb import Switchboard
from peft_nb.evaluation.generate import generate
from peft_nb.models import ALIASES, bundled
from peft_nb.models.load import load
from peft_nb.models.quiet import quiet
from peft_nb.models.resolve import resolve
from peft_nb.models.share import share
from peft_nb.system.resources import process_memory_mb

DEFAULT, ROWS, TOKENS, RELOADED = "smollm2-135m", 32, 16, 3
PROMPT = "Where is my order number {}?"


def tiny(folder: Path) -> Path:
    """Write a random model of two layers with the default model's tokenizer."""
    tokenizer = AutoTokenizer.from_pretrained(bundled.fetch(ALIASES[DEFAULT], lambda share, text: None))
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), num_attention_heads=4, **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def adapters(base: Any, count: int, folder: Path, std: float = 0.02) -> list[Path]:
    """Write random adapters, whose B has that standard deviation."""
    model = get_peft_model(share(base), LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    folders = []
    for number in range(count):
        generator = torch.Generator().manual_seed(number)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.data.normal_(std=std, generator=generator)
        folders.append(folder / f"adapter-{number:03}")
        model.save_pretrained(folders[-1], save_embedding_layers=False)
    return folders


def timed(act: Callable[[], Any]) -> float:
    """Seconds that something takes."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def main() -> None:
    """Print what was measured, as soon as it is."""
    name, count = (sys.argv[1:] + [DEFAULT, "100"][len(sys.argv) - 1 :])[:2]
    with tempfile.TemporaryDirectory() as scratch, quiet():
        where = tiny(Path(scratch) / "tiny") if name == "tiny" else load(resolve(name)).folder
        assert where
        base = load(resolve(where))
        weights = sum(one.numel() * one.element_size() for one in base.model.parameters()) / 1e6
        folders = adapters(base.model, int(count), Path(scratch))
        rows = min(ROWS, len(folders))
        prompts, wanted = [PROMPT.format(row) for row in range(rows)], [folder.name for folder in folders[:rows]]
        options: dict[str, Any] = {"max_new_tokens": TOKENS}

        board = Switchboard((base.model, base.tokenizer), *folders)
        board.generate("Hello", **options)
        say(f"{name}, {len(folders)} adapters of {board.table['mb'].iloc[0]:.2f} MB; base {weights:,.0f} MB")

        reloads, reloaded = [], []
        for number in range(min(RELOADED, rows)):
            start = time.perf_counter()
            model = AutoModelForCausalLM.from_pretrained(where, dtype=base.model.dtype)
            tokenizer = AutoTokenizer.from_pretrained(where)
            adapted: Any = PeftModel.from_pretrained(model, folders[number]).eval()
            reloads.append(time.perf_counter() - start)
            generate(adapted, tokenizer, [prompts[number]], **options)
            reloaded.append(time.perf_counter() - start)
            del model, adapted
        again = median(reloaded) * rows

        before = process_memory_mb()
        loads = [timed(lambda name=name: board.switch(name)) for name in board.names]  # type: ignore[misc]
        memory = (process_memory_mb() - before) / len(folders)
        say(f"first use of an adapter   {loads[1]:8.3f} s, of the last one {loads[-1]:.3f} s")
        say(f"memory of an adapter      {memory:8.2f} MB, 1/{weights / memory:,.0f} of a model of its own")
        switches = median(timed(lambda name=name: board.switch(name)) for name in board.names)  # type: ignore[misc]
        ratio = median(reloads) / switches
        say(
            f"switch to a loaded one    {switches * 1e3:8.3f} ms; reloading {median(reloads):.3f} s, {ratio:,.0f} times"
        )

        board.generate(prompts[:2], adapter=wanted[:2], max_new_tokens=2)
        mixed = timed(lambda: board.generate(prompts, adapter=wanted, **options))
        same = timed(lambda: board.generate(prompts, adapter=wanted[0], **options))
        pairs = list(zip(prompts, wanted, strict=True))
        single = timed(lambda: [board.generate(prompt, name, **options) for prompt, name in pairs])
        say(f"{rows} rows, as many adapters, {TOKENS} tokens each")
        say(f"  in one batch            {mixed:8.2f} s")
        say(f"  one batch, one adapter  {same:8.2f} s, {same / mixed:.2f} of it")
        say(f"  one by one, switching   {single:8.2f} s, {single / mixed:.2f} times as long")
        say(f"  reloading the model     {again:8.2f} s, {again / mixed:.2f} times as long (from {len(reloaded)} rows)")


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


if __name__ == "__main__":
    main()
