"""A file, and flags over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from peft_nb.errors import CommandError, SpecError
from peft_nb.spec import RunSpec


def test_flags_override_the_file(tmp_path: Path) -> None:
    file = tmp_path / "spec.yaml"
    file.write_text("\ufeffdata: x\r\nlora_alpha: 8\r\nr: 4\r\n", encoding="utf-8")
    assert RunSpec.from_argv([str(file)]) == RunSpec(data="x", alpha=8, r=4)
    assert RunSpec.from_argv(["--alpha=16", str(file), "--no-fast"]) == RunSpec(data="x", alpha=16, r=4, fast=False)
    assert RunSpec.from_argv([str(file), "--lora-alpha=16"]) == RunSpec(data="x", alpha=16, r=4)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("data: x\nr: 1\nr: 2")
    for argument, kind, message in (
        (
            "missing.yaml",
            CommandError,
            "'missing.yaml': No such file or directory; give the path of a YAML file",
        ),
        (str(tmp_path), CommandError, f"{str(tmp_path)!r}: Is a directory; give the path of a YAML file"),
        (
            str(binary),
            CommandError,
            f"{str(binary)!r}: not a text file in UTF-8; give the path of a YAML file",
        ),
        (str(wrong), SpecError, f"{wrong}: line 3: 'r' is already set in line 2; keep one"),
    ):
        with pytest.raises(kind) as caught:
            RunSpec.from_argv([argument])
        assert str(caught.value) == message
