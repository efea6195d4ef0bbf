from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from IPython.core.interactiveshell import InteractiveShell
from strategies import specs

from peft_nb import spec
from peft_nb.errors import CommandError, SpecError
from peft_nb.spec import RunSpec, notation
from peft_nb.spec.notation import Cell, flags, help_text, parse_cell, parse_train, read_yaml


@pytest.fixture(autouse=True, scope="module")
def any_method() -> Iterator[None]:
    """Forget the methods that other tests may have registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spec, "METHODS", {})
        yield


# ---- YAML


@pytest.mark.parametrize("text", ["", "\n\n", "# nothing\n", "---\n", "null"])
def test_empty_yaml_sets_nothing(text: str) -> None:
    assert read_yaml(text) == {}
    with pytest.raises(SpecError, match="the YAML sets no field; write at least data: NAME"):
        RunSpec.from_yaml(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "data: x\na: b: c",
            "line 2: not YAML, mapping values are not allowed here; write one 'field: value'",
        ),
        ("data: x\n\tr: 1", "line 2: not YAML, found character '\\t' that cannot start any token"),
        ("data: x\nsystem: 'open", "line 2: not YAML, found unexpected end of stream"),
        ("data: x\n\nsystem: a\x07", "line 3: the character 0x7 is not for text; remove it"),
        ("data: x\n---\ndata: y", "line 2: not YAML, but found another document"),
        ("data: &a [*a]", "line 1: not YAML, found unconstructable recursive node"),
        ("data: *a", "line 1: not YAML, found undefined alias 'a'"),
        ("? [a]\n: 3", "line 1: a field is named by one word"),
        ("- data", "the YAML is not a mapping"),
        ("data", "the YAML is not a mapping"),
        ('data: "\\UFFFFFFFF"', "not YAML: an escape names no character, or lists nest too deeply"),
        ("data: " + "[" * 5000, "not YAML: an escape names no character, or lists nest too deeply"),
    ],
)
def test_bad_yaml_gives_one_line_with_its_number(text: str, problem: str) -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml(text)
    (found,) = caught.value.problems
    assert found.startswith(problem)
    assert "\n" not in found


def test_all_fields_given_twice_are_named() -> None:
    with pytest.raises(SpecError) as caught:
        RunSpec.from_yaml("data: x\nr: 8\ndata: y\ncolumns: {a: b}\nr: 9")
    assert caught.value.problems == [
        "line 3: 'data' is already set in line 1; keep one",
        "line 5: 'r' is already set in line 2; keep one",
    ]
    with pytest.raises(SpecError, match="line 1: 'a' is already set in line 1"):
        RunSpec.from_yaml("columns: {a: b, a: c}")


def test_tags_build_no_objects() -> None:
    assert read_yaml("data: !!python/object/apply:os.getcwd []") == {"data": []}
    assert read_yaml("r: !!int '8'\nname: !mine x") == {"r": "8", "name": "x"}


# ---- flags


def test_every_field_and_alias_has_a_flag() -> None:
    known = flags()
    for field in RunSpec.describe():
        assert known[field.flag] == field
    assert {known[flag].name for flag in ("--alpha", "--lora-alpha")} == {"alpha"}
    assert known["--no-fast"].name == "fast"
    assert "--no-r" not in known
    assert "--out" not in known
    assert flags(cell=True).keys() - known.keys() == {"--out", "--background", "--no-background"}


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
        (["--lr=1"], "no such flag: '--lr'; did you mean '--learning-rate'?"),
        (["--lora_rank=1"], "no such flag: '--lora-rank'; did you mean '--r'?"),
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
        parse_train(argv)
    assert str(caught.value) == message
    assert capsys.readouterr() == ("", "")


# ---- a file and flags over it


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
            parse_train([argument])
        assert str(caught.value) == message


# ---- cells


def test_a_cell_merges_line_and_body() -> None:
    cell = parse_cell(" qlora --data tickets --out run --background", "model: m\nr: 8\n")
    assert cell == Cell({"data": "tickets", "method": "qlora", "model": "m", "r": "8"}, "run", True)
    assert RunSpec(**cell.fields) == RunSpec(method="qlora", data="tickets", model="m", r=8)


def test_a_cell_may_leave_things_out() -> None:
    assert parse_cell("", "") == Cell({})
    assert parse_cell("--data x", "method: qlora") == Cell({"data": "x", "method": "qlora"})
    assert parse_cell("--no-background").background is False


def test_quotes_group_and_backslashes_stay() -> None:
    cell = parse_cell(r"""lora --data C:\new\x.csv --system "it's fine" --name '#1' """)
    assert cell.fields == {"data": r"C:\new\x.csv", "system": "it's fine", "name": "#1", "method": "lora"}


@pytest.mark.parametrize(
    ("line", "body", "message"),
    [
        ("lora extra", "", "'lora' and 'extra' cannot both be the method; write values behind flags"),
        ("lora --method qlora", "", "--method and 'lora' both name the method; keep one"),
        (
            "lora",
            "method: qlora",
            "method in the first line and method in the body set the same field; keep one",
        ),
        (
            "--alpha 8",
            "lora_alpha: 8",
            "alpha in the first line and lora_alpha in the body set the same field; keep one",
        ),
        (
            "--lora-alpha 8",
            "alpha: 8",
            "alpha in the first line and alpha in the body set the same field; keep one",
        ),
        ("lora", "out: run", "out: belongs in the first line, as --out"),
        ("lora", "background: true", "background: belongs in the first line, as --background"),
        ("--system 'open", "", "a quotation mark is not closed in: --system 'open"),
        ("--otu run", "", "no such flag: '--otu'; did you mean '--out'?"),
        *(
            (f"--out={name}", "", f"--out {name!r}: not a name for a variable; write one such as run")
            for name in ("class", "1x", "a-b", "a.b", "")
        ),
    ],
)
def test_mistyped_cells_are_refused(line: str, body: str, message: str) -> None:
    with pytest.raises(CommandError) as caught:
        parse_cell(line, body)
    assert str(caught.value) == message


def test_lines_are_counted_from_the_first_line_of_the_cell() -> None:
    with pytest.raises(SpecError, match=r"^line 3: 'r' is already set in line 2; keep one$"):
        parse_cell("lora", "r: 1\nr: 2")


def test_text_that_is_no_cell_is_refused() -> None:
    for text in ("", "%peft lora", "%%pefter", "data: x"):
        with pytest.raises(CommandError, match="a cell that describes a run begins with %%peft"):
            RunSpec.from_magic(text)


def test_a_written_cell_reads_well() -> None:
    assert RunSpec(data="tickets", r=8, epochs=2).to_magic() == "%%peft lora --data tickets\nr: 8\nepochs: 2.0\n"
    assert RunSpec(data="tickets").to_magic() == "%%peft lora --data tickets\nmodel: smollm2-135m\n"
    assert RunSpec(data="{x}", method="qlora").to_magic() == "%%peft qlora\ndata: '{x}'\n"


@pytest.fixture(scope="module")
def shell() -> Iterator[tuple[InteractiveShell, list[Cell]]]:
    """Start a real IPython in which names that a cell might hold have other values."""
    shell = InteractiveShell()
    shell.history_manager.enabled = False
    shell.push({"x": "wrong", "tickets": "wrong", "HOME": "wrong"})
    cells: list[Cell] = []
    shell.register_magic_function(lambda line, cell: cells.append(parse_cell(line, cell)), "cell", "peft")
    yield shell, cells
    InteractiveShell.clear_instance()


@settings(max_examples=60)
@example(run=RunSpec(data=">>> a\n... b", system="In [1]: a\n  ...: b"))
@given(run=specs)
def test_ipython_alters_no_written_cell(shell: tuple[InteractiveShell, list[Cell]], run: RunSpec) -> None:
    ip, cells = shell
    ip.run_cell(run.to_magic()).raise_error()
    assert RunSpec(**cells[-1].fields) == run


# ---- help


def test_help_shows_every_flag_with_its_facts() -> None:
    text = help_text()
    assert max(map(len, text.splitlines())) <= 100
    for field in notation.flags(cell=True).values():
        assert f"  {field.flag}" in text
        assert field.help in " ".join(text.split())
        assert field.bounds in text
    assert "  --dropout NUMBER  (share of inputs; default 0.0; at least 0, below 1; also --lora-dropout)\n" in text
    assert "  --loss-on assistant|completion|all  (default assistant)\n" in text
    assert "  --fast, --no-fast  (default true)\n" in text
    assert "  --data TEXT  (required)\n" in text


def test_help_of_one_section_or_field(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spec, "METHODS", {"lora": "Low-rank update of the weights."})
    assert help_text("method").startswith("method\n  --method TEXT  (default lora)\n")
    assert "      lora: Low-rank update of the weights.\n" in help_text("method")
    assert "--learning-rate" not in help_text("method")
    assert help_text("r") == (
        "method\n  --r INTEGER  (default null; at least 1, at most 4,096)\n"
        "      Rank of a low-rank update; a higher one can learn more and has more parameters. null takes\n"
        "      what is usual for the method, 16 for LoRA.\n"
    )
    assert help_text("lora_alpha") == help_text("alpha")
    with pytest.raises(CommandError, match="no such section or field: 'trainin'; did you mean 'training'"):
        help_text("trainin")
