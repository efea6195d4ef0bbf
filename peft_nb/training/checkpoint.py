"""Optimizer, schedule and random state on disk, as safetensors and JSON: no pickle in a run's folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

OPTIMIZER, SCHEDULE, RANDOM = "optimizer.safetensors", "schedule.json", "random.safetensors"
METHOD = "method.safetensors"


def save_optimizer(state: dict[str, Any], folder: Path) -> None:
    """Write an optimizer's ``state_dict``.

    Parameters
    ----------
    state : dict
        What ``Optimizer.state_dict()`` returned: tensors and numbers a parameter, and the parameter groups.
    folder : Path
        An existing folder.
    """
    tensors, numbers, written = dict[str, torch.Tensor](), {}, set[int]()
    for index, values in state["state"].items():
        nested = [one for one in values.values() if isinstance(one, dict)]  # bitsandbytes' own, which it takes flat too
        flat = {name: one for held in (values, *nested) for name, one in held.items() if not isinstance(one, dict)}
        for name, value in flat.items():
            if torch.is_tensor(value):  # what parameters share, as the tables of 8-bit optimizers, a file cannot
                tensors[f"{index}.{name}"] = value.clone() if value.data_ptr() in written else value.contiguous()
                written.add(value.data_ptr())
            else:
                numbers[f"{index}.{name}"] = value
    header = {"groups": json.dumps(state["param_groups"]), "numbers": json.dumps(numbers)}
    save_file(tensors, folder / OPTIMIZER, metadata=header)


def load_optimizer(folder: Path) -> dict[str, Any]:
    """Read back what :func:`save_optimizer` wrote.

    Parameters
    ----------
    folder : Path
        The folder of a checkpoint.

    Returns
    -------
    dict
        An argument for ``Optimizer.load_state_dict``.
    """
    with safe_open(folder / OPTIMIZER, "pt") as file:
        header = file.metadata()
    state: dict[int, dict[str, Any]] = {}
    for key, value in {**load_file(folder / OPTIMIZER), **json.loads(header["numbers"])}.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": json.loads(header["groups"])}


def save_schedule(state: dict[str, Any], folder: Path) -> None:
    """Write a learning-rate schedule's ``state_dict``, numbers and lists of numbers only."""
    plain = {name: value for name, value in state.items() if _is_plain(value)}
    (folder / SCHEDULE).write_text(json.dumps(plain), encoding="utf-8")


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict | list):
        return all(map(_is_plain, value.values() if isinstance(value, dict) else value))
    return value is None or isinstance(value, bool | int | float | str)


def load_schedule(folder: Path) -> dict[str, Any]:
    """Read back what :func:`save_schedule` wrote."""
    return dict(json.loads((folder / SCHEDULE).read_text(encoding="utf-8")))


def save_method(state: dict[str, torch.Tensor], folder: Path) -> None:
    """Write what a method wants kept; most want nothing."""
    if state:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / METHOD)


def load_method(folder: Path) -> dict[str, torch.Tensor]:
    """Read back what :func:`save_method` wrote."""
    return load_file(folder / METHOD) if (folder / METHOD).exists() else {}


def save_random(state: dict[str, torch.Tensor], folder: Path, rank: int) -> None:
    """Write where the random generators of a training stand, for one process.

    Parameters
    ----------
    state : dict of str to torch.Tensor
        By device.
    folder : Path
        An existing folder.
    rank : int
        Which process this is.
    """
    save_file(
        {"torch" if name == "cpu" else name.replace(":", "."): one for name, one in state.items()},
        folder / f"{rank}-{RANDOM}",
    )


def load_random(folder: Path, rank: int) -> dict[str, torch.Tensor]:
    """Read back what :func:`save_random` wrote, also by earlier releases; empty if this process wrote nothing.

    Parameters
    ----------
    folder : Path
        The folder of a checkpoint.
    rank : int
        Which process this is.

    Returns
    -------
    dict of str to torch.Tensor
        Of the devices that are here.
    """
    file = folder / f"{rank}-{RANDOM}"
    found = load_file(file) if file.exists() else {}
    state = {"cpu" if name == "torch" else name.replace(".", ":"): one for name, one in found.items()}
    here = {"cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))}
    return {name: one for name, one in state.items() if name in here}


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run.

    Parameters
    ----------
    folder : Path
        Where the run keeps its checkpoints.

    Returns
    -------
    Path or None
        ``None`` when there is none. A checkpoint bears its final name only once it is complete.
    """
    found = [path for path in folder.glob("checkpoint-*") if path.is_dir()]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """The number of optimizer steps a checkpoint was taken after."""
    return int(checkpoint.name.rsplit("-", 1)[1])


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the newest checkpoints of a run, and what writing one has left behind.

    Parameters
    ----------
    folder : Path
        Where the run keeps its checkpoints.
    count : int
        How many to keep.
    """
    for old in [*sorted(folder.glob("checkpoint-*"), key=step_of)[:-count], *folder.glob(".staging-*")]:
        shutil.rmtree(old, ignore_errors=True)
