"""The extension in an IPython shell, and in a real kernel as a front end sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from peft_nb.extension import give_body, load_ipython_extension, unload_ipython_extension
from peft_nb.magics.line import COMMANDS
from peft_nb.spec import RunSpec


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingKernelClient]:
    manager: KernelManager
    manager, client = start_new_kernel(cwd=str(tmp_path_factory.mktemp("kernel")))
    client.execute_interactive("%load_ext peft_nb\ntickets = [{'prompt': 'a', 'completion': 'b'}]", timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_loading_twice_and_unloading_leave_nothing_behind(shell: InteractiveShell) -> None:
    load_ipython_extension(shell)
    assert len(shell.Completer.custom_matchers) == 1
    assert shell.input_transformers_cleanup.count(give_body) == 1
    unload_ipython_extension(shell)
    assert shell.find_cell_magic("peft") is None
    assert shell.find_line_magic("peft") is None
    assert shell.Completer.custom_matchers == []
    assert give_body not in shell.input_transformers_cleanup


@pytest.mark.parametrize(
    ("lines", "given"),
    [
        (["%%peft\n"], ["%%peft\n", "\n"]),
        (["%%peft lora --data x\n"], ["%%peft lora --data x\n", "\n"]),
        (["%%peft lora\n", "r: 8\n"], ["%%peft lora\n", "r: 8\n"]),
        (["%%peft?\n"], ["%%peft?\n"]),
        (["%peft runs\n"], ["%peft runs\n"]),
        (["%%time\n"], ["%%time\n"]),
    ],
)
def test_only_a_bare_peft_cell_is_given_a_body(lines: list[str], given: list[str]) -> None:
    assert give_body(lines) == given


def test_question_marks_show_generated_help(shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr("IPython.core.page.page", lambda text, *_, **__: shown.append(text["text/plain"]))
    shell.run_cell("%%peft?")
    shell.run_cell("%peft?")
    cell, line = shown
    assert not [field.flag for field in RunSpec.describe() if field.flag not in cell]
    assert "lora: " in cell
    assert not [name for name in COMMANDS if f"\n  {name} " not in line]


@pytest.mark.notebook
@pytest.mark.parametrize(
    ("cell", "offered"),
    [
        ("%%peft lora --data ti|\nr: 8", ["tickets"]),
        ("%%peft lora --data tickets\nr: 8\nwarm|", ["warmup_steps: ", "warmup_ratio: "]),
        ("%%peft lora --data tickets\ndevice: |\nr: 8", ["auto", "cpu", "cuda", "mps"]),
        ("%peft sto|", ["stop"]),
    ],
)
def test_a_front_end_that_asks_for_completions_gets_ours(
    kernel: BlockingKernelClient, cell: str, offered: list[str]
) -> None:
    before, _, after = cell.partition("|")
    content = kernel.complete(before + after, len(before), reply=True, timeout=30)["content"]
    assert content["matches"] == offered
    assert content["cursor_end"] == len(before)


@pytest.mark.notebook
def test_shift_tab_shows_the_help(kernel: BlockingKernelClient) -> None:
    content = kernel.inspect("%peft", 5, reply=True, timeout=30)["content"]
    assert "\n  resume  " in content["data"]["text/plain"]


@pytest.mark.notebook
@pytest.mark.parametrize("source", ["%peft shwo", "%%peft lora --epoch 3\nr: 8", "%%peft lora --data tickets\nr: zero"])
def test_a_mistake_fails_the_cell_in_one_line(tmp_path: Path, source: str) -> None:
    cells = [nbformat.v4.new_code_cell(code) for code in ("%load_ext peft_nb", source)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    with pytest.raises(CellExecutionError):
        NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}).execute()
    (output,) = cells[1].outputs
    assert output.output_type == "error"
    assert len(output.traceback) == 1
    assert "\n" not in output.traceback[0]
