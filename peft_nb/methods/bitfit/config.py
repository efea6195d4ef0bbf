"""What a BitFit adapter is made of, as its ``adapter_config.json`` says it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from peft import PeftConfig

from peft_nb.errors import MethodError
from peft_nb.methods.peft_registration import tuner_type

PEFT_TYPE = tuner_type("BITFIT")


@dataclass
class BitFitConfig(PeftConfig):
    """Settings of a BitFit adapter.

    The output head is always left out, so that its frozen weights can be used without building logits.

    Parameters
    ----------
    add : str
        Which linear layers without a bias get one: ``auto``, all of them if the model has no bias at all, else none;
        or ``all``. The added ones start at zero and cannot be merged.
    target_modules : list of str or str, optional
        Only these layers, by the ends of their names or a regular expression; all by default. Once attached, the
        names of the layers that were chosen.
    exclude_modules : list of str or str, optional
        Layers to leave as they are, named likewise; none by default.
    modules_to_save : list of str, optional
        Parts to train in full and save along, such as a classifier's head.

    Raises
    ------
    MethodError
        If an option has no such value.
    """

    add: str = field(default="auto", metadata={"help": "auto or all: which linear layers without a bias get one"})
    target_modules: list[str] | str | None = field(default=None, metadata={"help": "Only these layers; null for all"})
    exclude_modules: list[str] | str | None = field(default=None, metadata={"help": "Not these layers"})
    modules_to_save: list[str] | None = field(default=None, metadata={"help": "Parts to train in full"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if self.add not in ("auto", "all"):
            raise MethodError(f"add: {self.add!r} is not one of auto, all; auto adds biases where a model has none")
        given = self.target_modules
        if isinstance(given, str):
            try:
                re.compile(given)
            except re.error as error:
                raise MethodError(f"target_modules: {given!r} is not a regular expression ({error})") from None
        elif given is not None and not (isinstance(given, list | set) and all(isinstance(one, str) for one in given)):
            raise MethodError(
                f"target_modules: {given!r} is neither a regular expression nor a list of names such as [q_proj, fc2]; "
                "leave it out for all layers"
            )
