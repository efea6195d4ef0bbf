from __future__ import annotations

import json
import shutil
from pathlib import Path

from peft_nb.events import silent
from peft_nb.runs.run import Run
from peft_nb.serving import adapter_gguf, targets
from peft_nb.store import Store


def test_files_are_written_once_and_anew_for_other_contents(desk: dict[str, Run], base: Path, tmp_path: Path) -> None:
    store = Store(desk["manners@v2"].folder.parents[1])
    version = targets.read(store, "tickets@v1", "tickets@v1").main
    file = adapter_gguf.adapter_file(version, base)
    stamp = file.stat().st_mtime_ns
    assert adapter_gguf.adapter_file(version, base) == file
    assert file.stat().st_mtime_ns == stamp
    assert file.is_relative_to(desk["tickets@v1"].folder)  # and is removed with it
    assert store.verify("tickets@v1") == {}

    copy = tmp_path / "base"
    shutil.copytree(base, copy)
    first = adapter_gguf.base_file(copy, silent)
    assert adapter_gguf.base_file(copy, silent) == first
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"rope_theta": 5000.0}))
    assert adapter_gguf.base_file(copy, silent) != first
