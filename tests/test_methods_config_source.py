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
