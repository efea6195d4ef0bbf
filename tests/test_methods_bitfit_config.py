"""What BitFit can be told."""

from __future__ import annotations

from typing import Any

import pytest

from peft_nb.errors import MethodError
from peft_nb.methods.bitfit.config import BitFitConfig


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"add": "some"}, "add: 'some' is not one of auto, all; auto adds biases where a model has none"),
        ({"target_modules": 3}, "target_modules: 3 is neither a regular expression nor a list of names such as "),
        ({"target_modules": "(q"}, "target_modules: '(q' is not a regular expression (missing ), unterminated"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], told: str) -> None:
    with pytest.raises(MethodError) as raised:
        BitFitConfig(**options)
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)
