"""What full fine-tuning can be told."""

from __future__ import annotations

import pytest

from peft_nb.errors import MethodError
from peft_nb.methods.full.config import PEFT_TYPE, FullConfig


def test_everything_is_trained_unless_told_otherwise() -> None:
    assert FullConfig().target_modules is None
    assert FullConfig(target_modules="all-linear").target_modules is None
    assert FullConfig(target_modules=["layers.1"]).target_modules == ["layers.1"]
    assert FullConfig().peft_type is PEFT_TYPE


@pytest.mark.parametrize("option", ["target_modules", "exclude_modules"])
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("layers.[", r"'layers.\[' is no regular expression: unterminated character set"),
        ([], r"\[\] names no modules; give a list of names such as layers.1"),
        ([3], r"\[3\] names no modules"),
        ([""], r"\[''\] names no modules"),
        (3, "3 names no modules"),
    ],
)
def test_a_mistake_is_one_line(option: str, wanted: object, message: str) -> None:
    with pytest.raises(MethodError, match=f"^{option}: {message}") as raised:
        FullConfig(**{option: wanted})
    assert "\n" not in str(raised.value)
