"""Fields as flags of a line."""

from __future__ import annotations

from typing import Any

import pytest

from peft_nb.errors import CommandError, SpecError
from peft_nb.spec import RunSpec
from peft_nb.spec.notation.cell import CELL
from peft_nb.spec.notation.flags import flags


def test_every_field_and_alias_has_a_flag() -> None:
    known = flags(RunSpec.describe())
    for field in RunSpec.describe():
        assert known[field.flag] == field
    assert {known[flag].name for flag in ("--alpha", "--lora-alpha")} == {"alpha"}
    assert known["--no-fast"].name == "fast"
    assert "--no-r" not in known
    assert "--out" not in known
    place = {"--on", "--workers", "--cpus", "--gpus", "--keep", "--no-keep"}
    assert flags(CELL).keys() == {"--out", "--background", "--no-background", *place}


@pytest.mark.parametrize(
    ("argv", "fields"),
    [
        (["--learning-rate", "2e-4"], {"learning_rate": 2e-4}),
        (["--learning_rate=2e-4"], {"learning_rate": 2e-4}),
        (["--lora-alpha", "8"], {"alpha": 8}),
        (["--lora_alpha", "8"], {"alpha": 8}),
        (["--no-fast", "--gradient-checkpointing"], {"fast": False, "gradient_checkpointing": True}),
        (["--no_fast"], {"fast": False}),
        (["--columns", "prompt=ask,completion=reply"], {"columns": {"prompt": "ask", "completion": "reply"}}),
        (
            ["--columns", "{prompt: ask, completion: 'a,b'}"],
            {"columns": {"prompt": "ask", "completion": "a,b"}},
        ),
        (["--target-modules", "q_proj,v_proj"], {"target_modules": ["q_proj", "v_proj"]}),
        (["--target-modules", "[q_proj, v_proj]"], {"target_modules": ["q_proj", "v_proj"]}),
        (["--target-modules", "[qv]_proj"], {"target_modules": "[qv]_proj"}),
        (["--target-modules", "'[a]'"], {"target_modules": "[a]"}),
        (["--eval-steps", "null"], {}),
        (["--system", "null"], {"system": "null"}),
        (["--system", "-x"], {"system": "-x"}),
        (["--system=--r"], {"system": "--r"}),
        (["--system="], {"system": ""}),
    ],
)
def test_flags_are_read(argv: list[str], fields: dict[str, Any]) -> None:
    assert RunSpec.from_argv(["--data=x", *argv]) == RunSpec(data="x", **fields)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--learnin-rate", "1"], "no such flag: '--learnin-rate'; did you mean '--learning-rate'?"),
        (["--nofast"], "no such flag: '--nofast'; did you mean '--no-fast'?"),
        (["-r", "8"], "no such flag: '-r'; did you mean '--r'?"),
        (["--xyz"], "no such flag: '--xyz'; %peft help lists them"),
        (["--learning", "1"], "no such flag: '--learning'; did you mean '--learning-rate'?"),
        (["--r", "8", "--r", "9"], "--r: r is already set by a flag; keep one"),
        (["--alpha=8", "--lora-alpha=9"], "--lora-alpha: alpha is already set by a flag; keep one"),
        (["--fast", "--no-fast"], "--no-fast: fast is already set by a flag; keep one"),
        (["--fast=true"], "--fast: takes no value; write --fast or --no-fast"),
        (["--r"], "--r: needs a value; write --r=VALUE"),
        (["--system", "--r", "8"], "--system: needs a value; write --system=VALUE"),
        (["a.yaml", "b.yaml"], "'a.yaml' and 'b.yaml' cannot both be the file; write values behind flags"),
    ],
)
def test_mistyped_flags_are_refused(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CommandError) as caught:
        RunSpec.from_argv(argv)
    assert str(caught.value) == message
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--lr=1"], "lr is learning_rate here: write learning_rate: 1, or --learning-rate=1"),
        (["--lora_rank", "1"], "lora_rank is r here: write r: 1, or --r=1"),
        (["--bf16", "--r", "8"], "bf16 is dtype here: write dtype: bfloat16, or --dtype=bfloat16"),
        (["--tf32=x"], "tf32: no such field: it has no meaning here; leave it out"),
        (
            ["--stage", "sft", "--cutoff_len", "512", "--data=x", "--lora_target", "q,v"],
            "stage, cutoff_len, lora_target: settings of another tool; write in their place\n"
            "task: generation\nmax_length: 512\ntarget_modules: q,v\n"
            "as flags: --task=generation --max-length=512 --target-modules=q,v",
        ),
    ],
)
def test_flags_of_other_tools_are_told_all_at_once(argv: list[str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_argv(argv)
    assert str(caught.value) == message
