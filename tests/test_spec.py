from __future__ import annotations

import pytest

from peft_nb import spec


def test_what_needs_pydantic_is_imported_when_it_is_asked_for() -> None:
    assert [getattr(spec, name).__name__ for name in ("RunSpec", "explain")] == ["RunSpec", "explain"]
    assert spec.ALIASES["lora_alpha"] == "alpha"
    with pytest.raises(AttributeError, match="no attribute 'RunSpek'"):
        spec.RunSpek  # noqa: B018
