"""Environments of trainers that need other versions than ours: built once, on demand, in ``.venv-NAME``."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Environment:
    """What to install, beside the PyTorch of constraints.txt.

    ``bare`` comes without what it asks for, since that includes gigabytes for GPUs and web pages; ``needs`` is
    what training texts on a CPU takes of it.
    """

    bare: tuple[str, ...]
    needs: tuple[str, ...]


ENVIRONMENTS = {
    "unsloth": Environment(
        ("unsloth==2026.10.9", "unsloth_zoo==2026.10.9"),
        (
            "transformers==5.17.0", "trl==1.15.0", "peft==0.21.2", "accelerate==1.15.0", "datasets==4.8.5", "einops",
            "hf_transfer", "json5", "msgspec", "nest-asyncio", "packaging", "pillow", "protobuf", "psutil", "pydantic",
            "pyyaml", "regex", "requests", "rich", "sentencepiece", "structlog", "tqdm", "typer", "tyro", "wheel",
        ),
    ),
    "llamafactory": Environment(
        ("llamafactory==0.9.5",),
        (
            "transformers==5.6.0", "trl==0.24.0", "peft==0.18.1", "accelerate==1.11.0", "datasets==4.0.0", "einops",
            "fire", "omegaconf", "packaging", "pandas", "protobuf", "pydantic", "pyyaml", "scipy", "sentencepiece",
            "tiktoken", "tyro==0.8.14",
        ),
    ),
}  # fmt: skip


def interpreter(name: str, environment: Environment, folder: Path = ROOT) -> Path | None:
    """Find the Python of an environment, built first if need be; a line says why there is none.

    Parameters
    ----------
    name : str
        Of the trainer.
    environment : Environment
        What it takes.
    folder : Path
        Where the environment lies.
    """
    home = folder / f".venv-{name}"
    python, ready = home / "bin" / "python", home / "ready"
    if not ready.exists():
        print(f"{name}: installing into {home.name}", file=sys.stderr)
        (torch,) = (line for line in (ROOT / "constraints.txt").read_text().split() if line.startswith("torch=="))
        install = [sys.executable, "-m", "pip", "--python", str(home), "install", "--quiet"]
        for command in (
            [sys.executable, "-m", "venv", "--without-pip", str(home)],
            [*install, torch],
            [*install, "--no-deps", *environment.bare],
            [*install, torch, *environment.needs],
        ):
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
                print(f"{name} is skipped, it could not be installed: {reason}", file=sys.stderr)
                return None
        ready.touch()
    return python
