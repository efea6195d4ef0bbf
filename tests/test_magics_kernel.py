from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BlockingKernelClient]:
    manager: KernelManager
    manager, client = start_new_kernel(cwd=str(tmp_path_factory.mktemp("kernel")))
    client.execute_interactive("%load_ext peft_nb\ntickets = [{'prompt': 'a', 'completion': 'b'}]", timeout=60)
    yield client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    ("cell", "offered"),
    [
        ("%%peft lora --data ti|\nr: 8", ["tickets"]),
        ("%%peft lora --data tickets\nr: 8\nwarm|", ["warmup_steps: "]),
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


def test_shift_tab_shows_the_help(kernel: BlockingKernelClient) -> None:
    content = kernel.inspect("%peft", 5, reply=True, timeout=30)["content"]
    assert "%peft resume RUN" in content["data"]["text/plain"]


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
