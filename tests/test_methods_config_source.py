from __future__ import annotations

import dataclasses
import json

import pytest

from peft_nb.methods import REGISTRY
from peft_nb.methods.config_source import ConfigClass

CLASSES = {
    method.config_class.name: method.config_class
    for method in REGISTRY.values()
    if isinstance(method.config_class, ConfigClass)
}


@pytest.mark.parametrize("name", CLASSES)
def test_fields_are_those_of_the_class_that_is_imported(name: str) -> None:
    real = {
        one.name: None if one.default is dataclasses.MISSING else one.default
        for one in dataclasses.fields(CLASSES[name]())
        if one.init
    }
    read = CLASSES[name].fields()
    assert list(read) == list(real)
    assert json.dumps(read) == json.dumps(real)  # members of enumerations by their values


def test_help_is_the_first_sentence_of_the_source() -> None:
    said = CLASSES["LoraConfig"].help()
    assert said["lora_bias"] == "Whether to enable the bias term for the LoRA B parameter."
    assert said["use_dora"] == "Enable 'Weight-Decomposed Low-Rank Adaptation' (DoRA)."  # without its link
    assert CLASSES["BOFTConfig"].help()["target_modules"].startswith("List of module names")
    real = {one.name: one.metadata.get("help") for one in dataclasses.fields(CLASSES["BottleneckConfig"]())}
    assert CLASSES["BottleneckConfig"].help() == {name: said for name, said in real.items() if said}
