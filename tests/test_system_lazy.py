"""Modules that are imported when they are used."""

from __future__ import annotations

import importlib.util
import inspect
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from peft_nb.system.lazy import Late, late


@pytest.fixture
def heavy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that says when it is loaded, and has a part."""
    package = tmp_path / "heavy_package"
    package.mkdir()
    package.joinpath("__init__.py").write_text("VALUE = 3\n\ndef twice(x, more=0):\n    return 2 * x + more\n")
    package.joinpath("part.py").write_text("PART = 4\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "heavy_package", raising=False)
    return "heavy_package"


def test_what_is_imported_meanwhile_is_loaded_at_its_first_use(heavy: str) -> None:
    with late(heavy):
        module = importlib.import_module(heavy)
        assert isinstance(module, Late)
        assert importlib.util.find_spec(heavy)  # as libraries ask whether something is installed
    assert heavy not in sys.modules
    assert module.VALUE == 3
    assert type(sys.modules[heavy]) is ModuleType
    assert importlib.import_module(f"{heavy}.part").PART == 4


def test_a_name_taken_from_it_loads_it_at_once(heavy: str) -> None:
    with late(heavy):
        assert importlib.import_module(heavy).VALUE == 3
        assert type(sys.modules[heavy]) is ModuleType
        assert importlib.import_module(f"{heavy}.part").PART == 4


def test_a_function_taken_from_it_by_name_loads_it_when_it_is_called(heavy: str) -> None:
    with late(f"{heavy}:twice"):
        twice = __import__(heavy, fromlist=["twice"]).twice
    assert heavy not in sys.modules
    assert twice(3, more=1) == 7
    assert heavy in sys.modules


def test_who_looks_through_all_modules_loads_none(heavy: str) -> None:
    with late(heavy):
        importlib.import_module(heavy)
        inspect.getmodule(inspect.currentframe())
        assert isinstance(sys.modules[heavy], Late)


def test_what_is_loaded_or_not_installed_stays_as_it_is() -> None:
    with late("json", "no_such_module_anywhere", "no_such_package.part"):
        assert type(sys.modules["json"]) is ModuleType
        assert "no_such_module_anywhere" not in sys.modules


CODE = """
import sys
from peft_nb.system.lazy import import_training
import_training()
import gc, torch, peft, transformers
assert gc.isenabled() and "scipy.optimize" not in sys.modules
from transformers.loss.loss_for_object_detection import linear_sum_assignment
assert [one.tolist() for one in linear_sum_assignment([[1, 0], [0, 1]])] == [[0, 1], [1, 0]]
assert "scipy.optimize" in sys.modules
assert "bitsandbytes" not in sys.modules and "datasets" not in sys.modules
layer = peft.LoraConfig(target_modules=["0"])
model = peft.get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), layer)
assert "bitsandbytes" not in sys.modules
import datasets
assert isinstance(datasets.Dataset.from_list([{"a": 1}]), transformers.trainer.datasets.Dataset)
assert peft.tuners.lora.bnb.bnb.nn.Linear4bit.__module__.startswith("bitsandbytes")
"""


def test_lora_needs_no_bitsandbytes_datasets_or_scipy_and_they_are_there_when_wanted() -> None:
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=120)
