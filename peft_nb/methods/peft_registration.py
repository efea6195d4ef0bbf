"""Registers tuners of our own with PEFT."""

from __future__ import annotations

from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTuner
from peft.utils import PeftType, register_peft_method


def tuner_type(name: str) -> PeftType:
    """Give the member of PEFT's types with this name, new or not.

    PEFT registers only methods whose type is a member of this enum, and an enum is closed once its class is made.

    Parameters
    ----------
    name : str
        In capitals.

    Returns
    -------
    peft.utils.PeftType
        The same object for the same name.
    """
    if name not in PeftType.__members__:
        member = str.__new__(PeftType, name)
        member._name_ = member._value_ = name
        setattr(PeftType, name, member)  # before the maps know it: members cannot be reassigned
        PeftType._member_names_.append(name)
        PeftType._member_map_[name] = PeftType._value2member_map_[name] = member
    return PeftType[name]


def add_to_peft(name: str, config: type[PeftConfig], model: type[BaseTuner]) -> None:
    """Let PEFT make and load adapters of a tuner; once in a process, whatever imports it how often."""
    if PeftType[name.upper()] not in PEFT_TYPE_TO_CONFIG_MAPPING:
        register_peft_method(name=name, config_cls=config, model_cls=model)
