"""Cells are read as they were written, also by IPython."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from IPython.core.interactiveshell import InteractiveShell
from strategies import specs

from peft_nb.errors import CommandError, SpecError
from peft_nb.spec import RunSpec
from peft_nb.spec.notation.cell import Cell, parse_cell
from peft_nb.spec.place import Place

FIELDS = RunSpec.describe()
pytestmark = pytest.mark.usefixtures("any_method")


def test_a_cell_merges_line_and_body() -> None:
    cell = parse_cell(" qlora --data tickets --out run --background", "model: m\nr: 8\n", FIELDS)
    assert cell == Cell({"data": "tickets", "method": "qlora", "model": "m", "r": "8"}, "run", True)
    assert RunSpec(**cell.fields) == RunSpec(method="qlora", data="tickets", model="m", r=8)


def test_a_cell_may_leave_things_out() -> None:
    assert parse_cell("", "", FIELDS) == Cell({})
    assert parse_cell("--data x", "method: qlora", FIELDS) == Cell({"data": "x", "method": "qlora"})
    assert parse_cell("--no-background", "", FIELDS).background is False


def test_where_to_train_is_said_in_the_line_or_in_the_body() -> None:
    cell = parse_cell("lora --data x --on ray", "workers: 4\ngpus: 1\n", FIELDS)
    assert cell == Cell({"data": "x", "method": "lora"}, place=Place("ray", 4, 1, 1.0))
    assert parse_cell("lora", "on: local:2", FIELDS).place == Place("local:2", 2)
    with pytest.raises(SpecError, match="on: 'mars' is no place"):
        parse_cell("lora --on mars", "", FIELDS)
    with pytest.raises(CommandError, match="on in the first line and on in the body set the same field"):
        parse_cell("lora --on ray", "on: here", FIELDS)


def test_quotes_group_and_backslashes_stay() -> None:
    cell = parse_cell(r"""lora --data C:\new\x.csv --system "it's fine" --name '#1' """, "", FIELDS)
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
        parse_cell(line, body, FIELDS)
    assert str(caught.value) == message


def test_lines_are_counted_from_the_first_line_of_the_cell() -> None:
    with pytest.raises(SpecError, match=r"^line 3: 'r' is already set in line 2; keep one$"):
        parse_cell("lora", "r: 1\nr: 2", FIELDS)


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
    shell.register_magic_function(lambda line, cell: cells.append(parse_cell(line, cell, FIELDS)), "cell", "peft")
    yield shell, cells
    InteractiveShell.clear_instance()


@settings(max_examples=60)
@example(run=RunSpec(data=">>> a\n... b", system="In [1]: a\n  ...: b"))
@given(run=specs)
def test_ipython_alters_no_written_cell(shell: tuple[InteractiveShell, list[Cell]], run: RunSpec) -> None:
    ip, cells = shell
    ip.run_cell(run.to_magic()).raise_error()
    assert RunSpec(**cells[-1].fields) == run
