"""Everything that has to be seen on a GPU, in one command that needs no network: ``python benchmarks/gpu.py``.

Models of real shapes with random weights are built. Each way to compute attention is held against the padded stock path
(loss and gradients), peft_nb against other trainers (time and peak memory of the GPU, a process each), and the tests
marked ``cuda`` are run. The numbers go to benchmarks/results/gpu.json; the tables are printed for benchmarks/README.md.
With ``--tiny`` all of it runs on a CPU, on shapes that say nothing of speed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

HERE = Path(__file__).parent
PACKAGES = ("torch", "triton", "transformers", "peft", "trl", "bitsandbytes", "unsloth")
CONTENDERS = ("peft_nb", "trl-default", "peft_nb-compiled", "trl-best-bf16", "unsloth-default", "unsloth-best-bf16")

COMPILED = "what suits, in compiled blocks"

Sizes = dict[str, int]
SHAPES: dict[str, Sizes] = {
    "0.5B": {
        "hidden_size": 1280,
        "intermediate_size": 3456,
        "num_hidden_layers": 24,
        "num_attention_heads": 20,
        "num_key_value_heads": 4,
    },
    "7B": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}
TINY: dict[str, Sizes] = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
}


@dataclass(frozen=True)
class Exact:
    """How far a path is from the padded one, relatively; or why it was not tried."""

    model: str
    dtype: str
    kernel: str
    prefixes: bool
    loss: float | None = None
    gradient: float | None = None
    found: str = "exact"


@dataclass(frozen=True)
class Speed:
    """What one trainer took; or why it did not train."""

    model: str
    rows: str
    contender: str
    seconds: float | None = None
    peak_mb: float | None = None
    host_mb: float | None = None
    first_loss: float | None = None
    last_loss: float | None = None
    failed: str = ""


def machine() -> dict[str, str]:
    """The card, its driver, and the versions of what computes on it."""
    import torch

    found = {"card": f"none; {platform.processor() or platform.machine()}", "python": platform.python_version()}
    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        found["card"] = f"{torch.cuda.get_device_name()}, {total / 1e9:.0f} GB, compute capability {capability}"
        found["free memory"] = f"{free / 1e9:.0f} GB"
        found["CUDA"] = str(torch.version.cuda)
        asked = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        with suppress(OSError, subprocess.CalledProcessError):
            found["driver"] = subprocess.check_output(asked, text=True).split("\n")[0]
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def families(sizes: Sizes) -> Iterator[tuple[str, Any]]:
    """Models that ask different things of attention, of two layers: plain, a window, soft caps."""
    from transformers import Gemma2Config, LlamaConfig, MistralConfig

    small = {**sizes, "num_hidden_layers": 2, "vocab_size": 512, "initializer_range": 0.1, "pad_token_id": 0}
    yield "Llama", LlamaConfig(**small)
    yield "Mistral with a window", MistralConfig(**small, sliding_window=48)
    width = sizes["hidden_size"] // sizes["num_attention_heads"]
    yield "Gemma 2", Gemma2Config(**small, head_dim=width, query_pre_attn_scalar=width, sliding_window=48)


def exactness(sizes: Sizes, device: str) -> Iterator[Exact]:
    """Hold every way to compute attention against the padded path, in two formats, with prefixes shared and not."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from peft_nb.training import objectives
    from peft_nb.training.gpu_attention import EACH, FLEX, VARLEN

    place, rows = torch.device(device), examples(512)
    for name, config in families(sizes):
        for dtype in (torch.float32, torch.bfloat16):
            torch.manual_seed(0)
            stock = "eager" if name == "Gemma 2" else "sdpa"
            bare = AutoModelForCausalLM.from_config(config, attn_implementation=stock, dtype=dtype).to(place)
            lora = LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
            model = get_peft_model(bare.requires_grad_(False), lora)
            for kernel in (EACH, FLEX, VARLEN, COMPILED):
                for shared in (False, True):
                    if kernel == VARLEN and (shared or dtype == torch.float32 or name == "Gemma 2"):
                        continue  # flex attention's
                    row = Exact(name, str(dtype).removeprefix("torch."), kernel, shared)
                    if kernel != EACH and device != "cuda":
                        yield replace(row, found="needs a GPU")
                        continue
                    mine: Any = objectives.PaddingFree(shared, kernel="" if kernel == COMPILED else kernel)
                    mine, padded = objectives.Compiled(mine) if kernel == COMPILED else mine, objectives.Padded(0)
                    try:
                        loss, gradient = objectives.disagreement(model, mine, padded, rows, place)
                    except Exception as error:
                        yield replace(row, found=first_line(error))
                        continue
                    most = objectives.TOLERANCE[dtype]
                    right = loss <= most[0] and gradient <= most[1]
                    yield replace(row, loss=loss, gradient=gradient, found="exact" if right else "WRONG")


def examples(words: int) -> list[Any]:
    """Rows of which some share a prefix, and of those some another: of a token to several blocks of a mask."""
    from peft_nb.data.examples import Example

    draw = random.Random(0)

    def ids(count: int) -> list[int]:
        return [draw.randrange(3, words) for _ in range(count)]

    system, document = ids(150), ids(70)
    rows = [ids(1) + ids(4), ids(300), ids(40)]
    rows += [system + ids(count) for count in (1, 60)] + [system + document + ids(count) for count in (5, 140, 30)]
    whole = [Example.whole(row) for row in rows]
    return [replace(one, supervised=bytes(at >= len(one.ids) // 2 for at in range(len(one.ids)))) for one in whole]


def build(folder: Path, sizes: Sizes, dtype: str) -> str:
    """Write a random Llama with the default model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from peft_nb.models import ALIASES, bundled

    tokenizer = AutoTokenizer.from_pretrained(bundled.where(ALIASES["smollm2-135m"]))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with torch.device(device):
        model = LlamaForCausalLM._from_config(
            LlamaConfig(vocab_size=len(tokenizer), tie_word_embeddings=True, **sizes), dtype=getattr(torch, dtype)
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def train(told: dict[str, Any]) -> dict[str, Any]:
    """Train as a job of contenders.py says; what the GPU held at the most, and the host."""
    import contenders
    import torch

    cuda = torch.cuda.is_available()
    if cuda and told["contender"] == "trl-best-bf16":
        contenders.base = halved
    with redirect_stdout(sys.stderr):
        found = contenders.measure(contenders.Job(**told))
    return {
        "seconds": sum(found.step_seconds[1:]),  # kernels are compiled, and chosen, in the first step
        "peak_mb": torch.cuda.max_memory_reserved() / 1e6 if cuda else found.peak_mb,
        "host_mb": found.peak_mb,
        "first_loss": found.first_loss,
        "last_loss": found.last_loss,
    }


def halved(folder: str) -> tuple[Any, Any]:
    """A base as one loads it for speed on a GPU."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    attention = "flash_attention_2" if find_spec("flash_attn") else "sdpa"
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="bfloat16", attn_implementation=attention)
    return model, AutoTokenizer.from_pretrained(folder)


def alone(told: dict[str, Any]) -> dict[str, Any]:
    """The same in a process of its own."""
    worker = [sys.executable, __file__, "--worker"]
    done = subprocess.run(worker, input=json.dumps(told), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(([line for line in done.stderr.splitlines() if line.strip()] or ["killed"])[-1])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def speeds(name: str, folder: str, tiny: bool) -> Iterator[Speed]:
    """Compare the trainers that are installed here, with a system prompt before the rows and without."""
    import contenders
    import pairs
    import throughput

    trained, rows = (train, pairs.load(None, 16)) if tiny else (alone, pairs.load(None, 96))
    for kind, system in (("with a system prompt", throughput.SYSTEM), ("plain", None))[: 1 if tiny else None]:
        job = contenders.prepare(folder, rows, system)
        for contender in CONTENDERS[: 2 if tiny else None]:
            if contender.startswith("unsloth") and not find_spec("unsloth"):
                continue
            try:
                yield Speed(name, kind, contender, **trained(asdict(replace(job, contender=contender))))
            except Exception as error:
                yield Speed(name, kind, contender, failed=first_line(error))


def tests() -> str:
    """Run the tests that need a GPU; the last line of what they say."""
    asked = [sys.executable, "-m", "pytest", "-q", "-p", "no:nbval", "-m", "cuda", "tests/test_cuda.py"]
    done = subprocess.run(asked, capture_output=True, text=True, cwd=HERE.parent)
    return (done.stdout.strip().splitlines() or [done.stderr.strip()])[-1].strip("= ")


def first_line(error: Exception) -> str:
    """What an error says, in a cell of a table."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:160].replace("|", "/")


def markdown(found: dict[str, Any]) -> str:
    """The tables for benchmarks/README.md."""
    facts = ", ".join(f"{name} {value}" for name, value in found["machine"].items() if name != "card")
    lines = [f"## On a GPU\n\n{found['machine']['card']}; {facts}. Tests marked `cuda`: {found['tests']}.\n"]
    lines += _table(
        ("model", "dtype", "attention", "prefixes", "loss", "gradients", "found"),
        [
            (one.model, one.dtype, one.kernel, "shared" if one.prefixes else "", one.loss, one.gradient, one.found)
            for one in (Exact(**row) for row in found["exactness"])
        ],
        "{:.0e}",
    )
    lines += ["\nSeconds of all steps but the first; memory is the GPU's at its peak, the host's beside it.\n"]
    lines += _table(
        ("model", "rows", "trainer", "seconds", "peak MB", "host MB", "first loss", "last loss", "failed"),
        [tuple(row.values()) for row in found["speeds"]],
        "{:,.5g}",
    )
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], number: str) -> list[str]:
    cells = [
        ["" if cell is None else number.format(cell) if isinstance(cell, float) else str(cell) for cell in row]
        for row in rows
    ]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)]


def measured(tiny: bool) -> dict[str, Any]:
    """Do all of it."""
    device = "cpu" if tiny else "cuda"
    shapes = TINY if tiny else SHAPES
    found: dict[str, Any] = {"machine": machine()}
    first = next(iter(shapes.values()))
    found["exactness"] = [said(asdict(one)) for one in exactness(first, device)]
    found["speeds"] = []
    with TemporaryDirectory() as folder:
        os.environ["PEFT_NB_STORE"] = f"{folder}/store"
        for name, sizes in shapes.items():
            path = build(Path(folder) / name, sizes, "float32" if tiny else "bfloat16")
            found["speeds"] += [said(asdict(one)) for one in speeds(name, path, tiny)]
    found["tests"] = tests()
    return found


def said(row: dict[str, Any]) -> dict[str, Any]:
    """Show a row as soon as it is there."""
    print(*(value for value in row.values() if value is not None), sep="  ", file=sys.stderr, flush=True)
    return row


def main() -> None:
    """Measure, keep the numbers, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with tiny shapes")
    parser.add_argument("--results", type=Path, default=HERE / "results", metavar="FOLDER", help="where gpu.json goes")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return print(json.dumps(train(json.load(sys.stdin))))
    import torch

    if not given.tiny and not torch.cuda.is_available():
        sys.exit("there is no GPU here that PyTorch can use; --tiny runs on a CPU")
    found = measured(given.tiny)
    given.results.mkdir(exist_ok=True)
    (given.results / "gpu.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    print(markdown(found))
    if any(row["found"] == "WRONG" for row in found["exactness"]):
        sys.exit("a path is not exact")


if __name__ == "__main__":
    main()
