"""The settings of full fine-tuning, as PEFT keeps them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from peft import PeftConfig

from peft_nb.errors import MethodError
from peft_nb.methods.peft_registration import tuner_type

PEFT_TYPE = tuner_type("FULL")


@dataclass
class FullConfig(PeftConfig):
    """Settings of full fine-tuning: which parts of the base are trained.

    A part is named by its last names (``lm_head``, ``layers.29``) in a list, or by a regular expression over full
    names, and stands for all modules in it. Weights that the base ties are one weight: it is trained when any module
    that holds it is, and frozen when any is excluded.

    Parameters
    ----------
    target_modules : list of str or str, optional
        What to train. The default, which may also be written ``all-linear`` as in a spec, is everything.
    exclude_modules : list of str or str, optional
        What of it to leave frozen; default nothing.
    modules_to_save : list of str, optional
        New modules that PEFT copies, trains and saves whole, such as a classifier's head; never trained twice.

    Raises
    ------
    MethodError
        If a regular expression cannot be read, or a list is empty or holds anything but names.
    """

    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PEFT_TYPE
        if self.target_modules == "all-linear":
            self.target_modules = None
        for option in ("target_modules", "exclude_modules"):
            _check(option, getattr(self, option))


def _check(option: str, wanted: list[str] | str | None) -> None:
    if isinstance(wanted, str):
        try:
            re.compile(wanted)
        except re.error as error:
            raise MethodError(f"{option}: {wanted!r} is no regular expression: {error}") from None
    elif wanted is not None:
        names = list(wanted) if isinstance(wanted, list | tuple | set) else []
        if not names or not all(isinstance(name, str) and name for name in names):
            fix = "give a list of names such as layers.1, or one regular expression"
            raise MethodError(f"{option}: {wanted!r} names no modules; {fix}")
