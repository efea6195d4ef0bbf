"""``%peft template``: ready cells to begin with."""

from __future__ import annotations

from typing import Any

from peft_nb.magics.line import Call, command
from peft_nb.spec.recipes import cell, recipes


@command("[RECIPE]", most=1)
def template(call: Call) -> Any:
    """Write the cell of a recipe below, ready to run; without one list the recipes."""
    if call.words:
        call.shell.set_next_input(cell(call.words[0]))
        return None
    from peft_nb.ui.methods import Listing

    return Listing(recipes())
