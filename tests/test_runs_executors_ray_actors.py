"""What runs on a cluster, as far as that can be told without one; the rest is in ``test_runs_executors_ray.py``."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest

from peft_nb.events import Checkpointed, Evaluated, Planned, to_json
from peft_nb.runs.executors.ray_actors import Message, Outbox, Shelf, versions


def test_rows_are_kept_as_long_as_a_run_uses_them() -> None:
    shelf, rows = Shelf(), b"rows"
    key = hashlib.sha256(rows).hexdigest()
    assert not shelf.claim(key, "lora-a")
    shelf.put(key, "lora-a", rows)
    assert shelf.claim(key, "lora-b")
    shelf.release(key, "lora-a")
    assert shelf.get(key) == rows
    shelf.release(key, "lora-b")
    assert not shelf.claim(key, "lora-c")


def test_rows_that_were_changed_on_the_way_are_refused() -> None:
    with pytest.raises(ValueError, match="did not arrive as they were sent"):
        Shelf().put("0" * 64, "lora-a", b"rows")


def test_versions_are_those_of_this_process() -> None:
    import torch

    assert versions().keys() == {"python", "torch", "transformers", "peft", "peft_nb"}
    assert versions()["torch"] == torch.__version__


def test_files_go_before_what_tells_of_them_and_only_once(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "lora-abc"
    (run / "adapter").mkdir(parents=True)
    (run / "adapter" / "weights").write_text("w")
    (run / "examples.json").write_text(json.dumps({"keys": ["k"]}))
    (tmp_path / "examples" / "k").mkdir(parents=True)
    (tmp_path / "examples" / "k" / "ids").write_text("1")
    messages: SimpleQueue[Message | None] = SimpleQueue()
    outbox = Outbox(run, messages)

    def sent(event: Any) -> list[str]:
        kind, fields = to_json(event) if event else ("", {})
        outbox("event" if event else "end", {"kind": kind, "fields": fields})
        found = [messages.get() for _ in range(messages.qsize())]
        return [one[1].get("folder") or one[1]["kind"] for one in found if one]

    own = "runs/lora-abc"
    assert sent(Planned(1, 1, 1, 1, 1, 1, "float32", "cpu", "")) == [own, "examples/k", "Planned"]
    assert sent(Evaluated(0, 1.0)) == ["Evaluated"]
    last = run / "checkpoints" / "checkpoint-2"
    last.mkdir(parents=True)
    (last / "a").write_text("a")
    assert sent(Checkpointed(2, str(last))) == [f"{own}/checkpoints/checkpoint-2", "Checkpointed"]
    (run / "judgement.json").write_text("{}")
    assert sent(None) == [own, f"{own}/adapter", ""]
