"""A tuner of our own is one of PEFT's: registered once, a member of its closed list of types."""

from __future__ import annotations

import copy
import pickle

import pytest
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, PeftType

from peft_nb.methods import REGISTRY
from peft_nb.methods.peft_registration import add_to_peft, tuner_type


@pytest.mark.parametrize("name", ["bitfit", "bottleneck", "full"])
def test_a_type_is_a_member_like_any_other(name: str) -> None:
    config = REGISTRY[name].config_class()
    kind = tuner_type(name.upper())
    assert kind is PeftType[name.upper()] is PeftType(name.upper()) is getattr(PeftType, name.upper())
    assert [one for one in PeftType if one == name.upper()] == [kind]
    assert copy.deepcopy(kind) is pickle.loads(pickle.dumps(kind)) is kind
    assert PEFT_TYPE_TO_CONFIG_MAPPING[kind] is config
    assert PEFT_TYPE_TO_TUNER_MAPPING[kind].prefix == f"{name}_"


def test_one_that_is_there_already_stays() -> None:
    before = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA]
    assert tuner_type("LORA") is PeftType.LORA
    add_to_peft("lora", object, object)  # type: ignore[arg-type]
    assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.LORA] is before
