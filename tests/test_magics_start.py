from __future__ import annotations

from IPython.core.interactiveshell import InteractiveShell

from peft_nb.data.sources import BUILTIN
from peft_nb.magics.line import COMMANDS, GROUPS, groups
from peft_nb.magics.start import Start
from peft_nb.spec import RunSpec

ROWS = [{"question": "a", "answer": "b"}]


def test_the_cells_name_the_notebooks_own_rows(shell: InteractiveShell) -> None:
    shell.user_ns["tickets"] = ROWS
    page = shell.run_cell("%peft").result
    assert list(page.steps.values()) == [
        "%peft data tickets",
        "%%peft lora --data tickets --out run",
        "%peft compare run base",
        "%peft save run my-adapter",
    ]
    assert RunSpec.from_magic(page.steps["Train"]) == RunSpec(data="tickets")
    assert all(cell in repr(page) and cell in page._repr_html_() for cell in page.steps.values())
    assert "built-in sample" not in repr(page)


def test_without_rows_it_starts_from_a_sample_and_says_so() -> None:
    page = Start.of({"_hidden": ROWS, "number": 3})
    assert page.data in BUILTIN
    assert page.note.startswith(f"{page.data} is a built-in sample")


def test_every_command_is_in_a_group() -> None:
    found = dict(groups())
    assert list(found) == list(dict.fromkeys(GROUPS.values()))
    assert sorted(one.name for some in found.values() for one in some) == sorted(COMMANDS)
    page = Start.of({})._repr_html_()
    assert not [name for name in COMMANDS if f"%peft {name}</code>" not in page]
