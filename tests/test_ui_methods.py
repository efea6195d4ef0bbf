from __future__ import annotations

from peft_nb.spec import METHODS
from peft_nb.ui.methods import listed


def test_every_method_is_listed() -> None:
    assert list(listed(None, {}).index) == list(METHODS)
