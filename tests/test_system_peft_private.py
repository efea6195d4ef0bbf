"""PEFT's private API is where it was, and nothing but its file uses it."""

from __future__ import annotations

import ast
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import check_target_module_exists

import peft_nb
from peft_nb.system import ipykernel_private, peft_private, ray_private, torch_private, transformers_private
from tests import tiny
from tests.private_api import as_found

PACKAGE = Path(peft_nb.__file__).parent
FILES = {
    "peft": peft_private,
    "transformers": transformers_private,
    "ipykernel": ipykernel_private,
    "ray": ray_private,
    "torch": torch_private,
}
OF_OTHERS = {
    "_abc_impl",  # Python's abc
    "_exit",  # Python's os, documented
    "_repr_mimebundle_",  # by which IPython asks for what is displayed
    *("_member_map_", "_member_names_", "_name_", "_value2member_map_", "_value_"),  # Python's enum
    *("_python_dispatch", "_local_scalar_dense", "_to_copy", "_scaled_dot_product_flash_attention_for_cpu"),  # torch
    *("_schema", "_overloadname"),  # of its operations
    "_backward_cls",  # of its functions
    *("_buffers", "_forward_pre_hooks", "_modules", "_parameters"),  # torch.nn
    "_convert_weight_packed_for_cpu_inverse",  # bitsandbytes
}


def sources() -> Iterator[tuple[Path, ast.Module]]:
    for path in PACKAGE.rglob("*.py"):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def defined() -> set[str]:
    """Every name that the package itself gives to something."""
    names = set()
    for _, tree in sources():
        for node in ast.walk(tree):
            match node:
                case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                    names.add(node.name)
                case ast.Attribute(value=ast.Name("self"), attr=attr, ctx=ast.Store()):
                    names.add(attr)
                case ast.Name(id=name, ctx=ast.Store()):
                    names.add(name)
    return names


def test_all_of_it_is_where_it_was_read() -> None:
    assert as_found(peft_private.API) == peft_private.API


def test_nothing_else_uses_a_private_name_of_others() -> None:
    own, used = defined() | OF_OTHERS, []
    for path, tree in sources():
        if path.stem in {file.__name__.rpartition(".")[2] for file in FILES.values()}:
            continue
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Attribute):
                # What is overridden is also called on self and super().
                told = {name.rpartition(".")[2] for file in FILES.values() for name, how in file.API.items() if how}
                mine = ast.unparse(node.value) in ("self", "super()")
                names = [node.attr] if not (mine and node.attr in told) else []
            elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("peft_nb"):
                names = [*(node.module or "").split("."), *(one.name for one in node.names)]
            used += [f"{path.name}:{node.lineno} {name}" for name in names if private(name) and name not in own]
    assert used == []


def test_what_is_overridden_is_told() -> None:
    overridden = set()
    for found in pkgutil.walk_packages([str(PACKAGE)], "peft_nb."):
        if found.name.endswith("__main__"):
            continue
        module = import_module(found.name)
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if cls.__module__ != module.__name__:
                continue
            for name in filter(private, vars(cls).keys() - OF_OTHERS):
                for base in cls.__mro__[1:]:
                    if (room := base.__module__.split(".")[0]) in FILES and name in vars(base):
                        overridden.add((room, name))
    told = {(room, name.rpartition(".")[2]) for room, file in FILES.items() for name in file.API}
    assert len(overridden) > 15
    assert overridden - told == set()


@pytest.mark.parametrize(("key", "out"), [("model.q_proj", False), ("model.k_proj", True), ("model.norm", False)])
def test_a_module_left_out_by_name_is_told_from_one_that_is_not_meant(key: str, out: bool) -> None:
    config = LoraConfig(target_modules=["q_proj", "k_proj"], exclude_modules=["k_proj"])
    assert peft_private.excluded(check_target_module_exists(config, key)) == out


def test_a_module_is_found_with_its_parent() -> None:
    model = torch.nn.ModuleDict({"outer": torch.nn.ModuleDict({"inner": torch.nn.Linear(1, 1)})})
    assert peft_private.placed(model, "outer.inner") == (model["outer"], model["outer"]["inner"], "inner")


def test_what_layers_keep_by_adapter_is_found_and_one_is_made_active() -> None:
    model = tiny.with_lora(tiny.base("llama"))
    model.add_adapter("other", LoraConfig(r=2, target_modules="all-linear"))
    layer = next(one for one in model.modules() if isinstance(one, LoraLayer))
    kept = {name for name, entries in peft_private.kept_by_adapter(layer) if "other" in entries}
    assert {"lora_A", "lora_B", "r", "scaling", "lora_dropout"} <= kept
    peft_private.activate(layer, "other")
    assert layer.active_adapters == ["other"]


def test_a_single_adapter_is_combined_as_asked() -> None:
    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuner = get_peft_model(tiny.base("llama"), config).base_model
    asked = []
    with peft_private.combined_as_asked(tuner, "svd"):
        asked.append(tuner._check_add_weighted_adapter(adapters=["default"], combination_type="svd", svd_rank=2)[0])
    asked.append(tuner._check_add_weighted_adapter(adapters=["default"], combination_type="svd", svd_rank=2)[0])
    assert asked == ["svd", "linear"]
