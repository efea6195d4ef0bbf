"""The Hugging Face hub: whether it answers, what of it is on disk already, and fetching a model from it."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from threading import Thread
from time import monotonic
from typing import Any

from peft_nb.errors import ModelError
from peft_nb.events import Progress
from peft_nb.models.quiet import first_line

DEADLINE_S = 2.5
"""How long to wait for the hub's first answer, all retries and name look-ups included."""

RETRY_S = 60.0
"""How long it holds that the hub does not answer: one answer may be slow, and a network may come back."""

# Safetensors only: the other formats of weights are pickles, which run code when they are read.
WANTED = ["model*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken"]
# Of a pipeline of diffusers each part lies in a folder of its own; variants such as model.fp16 are left where they are.
WANTED += [f"*/{name}{some}.safetensors" for name in ("model", "diffusion_pytorch_model") for some in ("", "-0*-of-*")]
INDEX = "model_index.json"  # of such a pipeline

_found: set[tuple[str, str | None]] = set()
_silent_since = -math.inf


def answer(repo: str, revision: str | None = None) -> int | None:
    """Ask the hub for a model; that it is there is asked once in a process.

    Parameters
    ----------
    repo : str
        The model's name, ``owner/name``.
    revision : str, optional
        Branch, tag or commit.

    Returns
    -------
    int or None
        The HTTP status, below 400 when the model is there, or None when no hub answers within
        :data:`DEADLINE_S` seconds, as with ``HF_HUB_OFFLINE`` set; then it is asked for nothing more until it does
        answer, or :data:`RETRY_S` seconds have passed.
    """
    global _silent_since
    if (repo, revision) in _found:
        return 200
    if monotonic() - _silent_since < RETRY_S:
        return None
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    statuses: list[int] = []

    def ask() -> None:
        global _silent_since
        try:
            get_hf_file_metadata(hf_hub_url(repo, "config.json", revision=revision), timeout=4 * DEADLINE_S)
            status = 200
            _found.add((repo, revision))
        except HfHubHTTPError as error:
            status = error.response.status_code
        except Exception:  # offline, no name service, a proxy that refuses: all mean that none answers
            return
        if status < 500:  # else the hub has troubles of its own, and says nothing of the model
            statuses.append(status)
            _silent_since = -math.inf

    # A look-up of the name can hang for half a minute and cannot be cut short, only left behind; an answer that
    # comes later counts from then on.
    thread = Thread(target=ask, daemon=True, name="peft_nb-hub")
    thread.start()
    thread.join(DEADLINE_S)
    if not statuses:
        _silent_since = monotonic()
    return statuses[0] if statuses else None


def on_disk(repo: str, revision: str | None = None) -> Path | None:
    """Find a complete copy of a model that an earlier download left in the hub's own cache.

    Parameters
    ----------
    repo : str
        The model's name, ``owner/name``.
    revision : str, optional
        Branch, tag or commit.

    Returns
    -------
    Path or None
        Its folder.
    """
    from huggingface_hub import snapshot_download

    try:
        folder = snapshot_download(repo, revision=revision, allow_patterns=WANTED, local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(folder) if not missing(Path(folder)) else None


def download(repo: str, revision: str | None, progress: Progress) -> Path:
    """Fetch a model's configuration, tokenizer and safetensors into the hub's own cache.

    Parameters
    ----------
    repo : str
        The model's name, ``owner/name``.
    revision : str or None
        Branch, tag or commit.
    progress : callable
        Told the share of the bytes that have arrived.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    ModelError
        The download failed, or the model has no safetensors.
    """
    from huggingface_hub import snapshot_download
    from tqdm import tqdm

    class Shown(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **{**options, "file": io.StringIO(), "disable": False, "leave": False})

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            if self.unit == "B" and size and msg is None:  # an empty message is the bar taking itself away
                arrived[0] = max(arrived[0], self.n)  # two bars count: bytes received, and bytes on disk
                progress(min(arrived[0] / size, 1.0), f"downloading {repo} ({size / 1e6:.0f} MB)")

    progress(0.0, f"downloading {repo}")
    wanted: dict[str, Any] = {"repo_id": repo, "revision": revision, "allow_patterns": WANTED}
    size, arrived = 0, [0.0]
    try:
        files: list[Any] = list(snapshot_download(**wanted, dry_run=True, tqdm_class=Shown))
        size = max(1, sum(file.file_size for file in files if file.will_download))
        folder = Path(snapshot_download(**wanted, tqdm_class=Shown))
    except (OSError, ValueError) as error:
        raise ModelError(
            f"cannot fetch {repo} from the hub ({first_line(error)}); check its name and the network"
        ) from error
    if lacks := missing(folder):
        raise ModelError(f"cannot use {repo}: it has no {lacks}; only safetensors weights are loaded")
    return folder


def missing(folder: Path) -> str | None:
    """Tell what a model folder lacks to be loaded.

    Parameters
    ----------
    folder : Path
        Folder of a model.

    Returns
    -------
    str or None
        ``config.json`` or the name of a weights file; None when the folder is complete.
    """
    if is_pipeline(folder):
        parts = sorted(file.parent for file in folder.glob("*/config.json"))
        return next((f"{part.name}/*.safetensors" for part in parts if not any(part.glob("*.safetensors"))), None)
    index = folder / "model.safetensors.index.json"
    needed = {"config.json"}
    if index.is_file() and not (folder / "model.safetensors").exists():
        needed |= set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    else:
        needed |= {"model.safetensors"}
    return min((name for name in needed if not (folder / name).exists()), default=None)


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a pipeline of diffusers."""
    return (folder / INDEX).is_file()
