"""The help of the flags says all that the fields say."""

from __future__ import annotations

import pytest

from peft_nb.errors import CommandError
from peft_nb.spec import RunSpec
from peft_nb.spec.names import NAMES
from peft_nb.spec.notation.cell import CELL
from peft_nb.spec.notation.help import help_text

FIELDS = [*RunSpec.describe(), *CELL]


def test_help_shows_every_flag_with_its_facts() -> None:
    text = help_text(FIELDS)
    assert max(map(len, text.splitlines())) <= 100
    for field in FIELDS:
        assert f"  {field.flag}" in text
        assert field.help in " ".join(text.split())
        assert field.bounds in text
    assert "  --dropout NUMBER  (share of inputs; default 0.0; at least 0, below 1; also --lora-dropout)\n" in text
    assert "  --loss-on assistant|completion|all  (default assistant)\n" in text
    assert "  --fast, --no-fast  (default true)\n" in text
    assert "  --data TEXT  (required)\n" in text


def test_help_of_one_section_or_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(NAMES, "method", {"lora": "Low-rank update of the weights."})
    assert help_text(FIELDS, "method").startswith("method\n  --method METHOD  (default lora)\n")
    assert "      lora: Low-rank update of the weights.\n" in help_text(FIELDS, "method")
    assert "--learning-rate" not in help_text(FIELDS, "method")
    assert help_text(FIELDS, "r") == (
        "method\n  --r INTEGER  (default null; at least 1, at most 4,096)\n"
        "      Rank of a low-rank update; a higher one can learn more and has more parameters. null takes the\n"
        "      method's default, 16 for LoRA.\n"
    )
    assert help_text(FIELDS, "lora_alpha") == help_text(FIELDS, "alpha")
    with pytest.raises(CommandError, match="no such section or field: 'trainin'; did you mean 'training'"):
        help_text(FIELDS, "trainin")
