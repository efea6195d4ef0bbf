"""All that PEFT has besides is found by its own name."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftType

from peft_nb.methods import REGISTRY
from peft_nb.methods.others import config_class, names
from peft_nb.runs.run import Run, load
from peft_nb.spec import METHODS
from peft_nb.store import Store
from tests.every_method import logits

OTHERS = sorted(REGISTRY.keys() - METHODS.keys())


def test_names_are_read_from_the_source_as_the_import_has_them() -> None:
    own = {"BITFIT", "BOTTLENECK", "FULL"}  # which register with PEFT too
    assert names() == [one.name.lower().replace("_", "-") for one in PeftType if one.name not in own]
    assert len(OTHERS) > 10


@pytest.mark.parametrize("name", OTHERS)
def test_each_has_the_config_class_of_its_name(name: str) -> None:
    assert config_class(name) is PEFT_TYPE_TO_CONFIG_MAPPING[PeftType[name.upper().replace("-", "_")]]
    assert REGISTRY[name].config_class() is config_class(name)


# What the unlisted methods have to be told for so small a model.
OPTIONS = {
    "c3a": {"block_size": 32},
    "cartridge": {"num_virtual_tokens": 4},
    "road": {"group_size": 32},
    "shira": {"r": 8},
    "vblora": {"vector_length": 16, "num_vectors": 32},
    "waveft": {"n_frequency": 64},
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_method_of_peft_trains_and_is_found_again(
    learn: Callable[..., Run], runs: Store, name: str
) -> None:
    import torch

    run = learn(name, max_steps=3, method_options=OPTIONS.get(name, {}))
    with run.model.disable_adapter():
        bare = logits(run.model)
    assert (logits(run.model) - bare).abs().max() > 1e-4
    torch.testing.assert_close(logits(load(run.id, store=runs).model), logits(run.model), atol=1e-4, rtol=1e-4)
