"""The table of short names says exactly what is fetched."""

from __future__ import annotations

import re

import pytest

from peft_nb.models.aliases import ALIASES, Alias


@pytest.mark.parametrize("alias", ALIASES.values(), ids=lambda alias: alias.name)
def test_an_alias_is_pinned(alias: Alias) -> None:
    assert ALIASES[alias.name] is alias
    assert alias.kind in ("causal", "encoder", "vision", "speech")
    assert bool(alias.repo) == bool(re.fullmatch(r"[0-9a-f]{40}", alias.revision))
    for wheel in alias.wheels:
        assert re.fullmatch(r"[0-9a-f]{64}", wheel.sha256)
        assert re.fullmatch(r"\d+(\.\d+)+", wheel.version)
        assert wheel.member.endswith((".gguf", ".onnx", "/"))
    assert "/" in alias.repo or not alias.repo
    assert alias.parameters > 1e6 < alias.wheel.size
    assert len(alias.note) < 80
