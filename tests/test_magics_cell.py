from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager, start_new_kernel

from peft_nb.errors import CommandError, SpecError
from tests.shell import refused

SETUP = """
%load_ext peft_nb
import pandas
tickets = pandas.DataFrame({"prompt": [f"What is {n} plus one?" for n in range(12)],
                            "completion": [f"It is {n + 1}." for n in range(12)]})
"""
STEPPING = "tokens/s"  # a step has been taken in this panel
BODY = "batch_size: 2\nmax_length: 64\neval_fraction: 0.2\njudge: off\n"


@dataclass
class Reply:
    """What a cell did: how it ended, each message's text, and what its output areas hold at the end."""

    status: str
    seconds: float
    shown: list[str] = field(default_factory=list)
    areas: dict[str, dict[str, str]] = field(default_factory=dict)
    results: list[str] = field(default_factory=list)
    errors: list[list[str]] = field(default_factory=list)


@dataclass
class Kernel:
    """A kernel as a front end sees it."""

    manager: KernelManager
    client: BlockingKernelClient
    areas: dict[str, dict[str, str]] = field(default_factory=dict)

    def run(self, code: str, on_html: Callable[[str], None] = lambda html: None) -> Reply:
        reply = Reply("", 0.0)

        def hook(message: dict[str, Any]) -> None:
            kind, content = message["header"]["msg_type"], message["content"]
            if kind in ("display_data", "update_display_data"):
                area = content["transient"]["display_id"]
                self.areas[area] = reply.areas[area] = content["data"]
                reply.shown.append(content["data"]["text/plain"])
                on_html(content["data"]["text/html"])
            elif kind == "execute_result":
                reply.results.append(content["data"]["text/plain"])
            elif kind == "error":
                reply.errors.append(content["traceback"])

        began = time.monotonic()
        answer = self.client.execute_interactive(code, output_hook=hook, timeout=300)
        reply.status, reply.seconds = answer["content"]["status"], time.monotonic() - began
        return reply

    def interrupt_at(self, *patterns: str) -> Callable[[str], None]:
        waiting = list(patterns)

        def on_html(html: str) -> None:
            if waiting and re.search(waiting[0], html):
                waiting.pop(0)
                self.manager.interrupt_kernel()

        return on_html


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kernel]:
    manager, client = start_new_kernel(cwd=str(tmp_path_factory.mktemp("kernel")))
    kernel = Kernel(manager, client)
    assert kernel.run(SETUP).status == "ok"
    yield kernel
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.mark.notebook
def test_a_cell_trains_and_leaves_one_summary_and_the_run(kernel: Kernel) -> None:
    reply = kernel.run(f"%%peft lora --data tickets --out run\nmax_steps: 3\n{BODY}")
    assert (reply.status, reply.results, reply.errors) == ("ok", [], [])
    ((_, summary),) = reply.areas.items()
    assert re.match(r"lora on smollm2-135m \(lora-\w+\) finished", summary["text/plain"])
    assert "3 of 3" in summary["text/html"]
    assert "data:image/png;base64," in summary["text/html"]
    assert len(reply.shown) <= 5 * reply.seconds + 2
    assert kernel.run("run").results[0].endswith(" finished>")


@pytest.mark.notebook
def test_saved_shown_and_loaded_by_name(kernel: Kernel) -> None:
    assert kernel.run("%peft save run adapter\nfrom pathlib import Path").status == "ok"
    assert kernel.run("(Path('adapter') / 'adapter_model.safetensors').exists()").results == ["True"]
    shown = kernel.run("%peft show run").shown[0]
    assert kernel.run("%peft show").shown[0] == shown
    assert kernel.run("name = run.id\ndel run").status == "ok"
    assert kernel.run("%peft load {name} --out run").results == []
    assert kernel.run("%peft show run").shown[0] == shown


@pytest.mark.notebook
def test_a_missing_variable_is_one_line_at_once(kernel: Kernel) -> None:
    reply = kernel.run("%%peft lora --data tickts\nr: 8")
    ((line,),) = reply.errors
    assert line.startswith("DataError: ")
    assert "did you mean 'tickets'?" in line
    assert reply.shown == []
    assert reply.seconds < 2


@pytest.mark.notebook
def test_an_interrupt_stops_after_the_step_and_two_give_up(kernel: Kernel) -> None:
    endless = f"%%peft lora --data tickets --out run\nmax_steps: 100000\n{BODY}"
    reply = kernel.run(endless, kernel.interrupt_at(STEPPING))
    assert (reply.status, reply.errors) == ("ok", [])
    assert re.match(r"lora on smollm2-135m \(lora-\w+\) stopped: ", reply.shown[-1])
    assert "%peft resume run" in reply.shown[-1]
    assert kernel.run("isinstance(run.generate('What is 3 plus one?', max_new_tokens=4), str)").results == ["True"]

    again = kernel.run("%peft resume run", kernel.interrupt_at(STEPPING, "interrupt again"))
    for (line,) in again.errors:  # none if the step was over before the second interrupt came
        assert line.startswith("RunError: ")
        assert "checkpoint" in line
    assert kernel.run("run.wait().status").results == ["'stopped'"]
    assert len(kernel.areas) >= 3


@pytest.mark.notebook
def test_in_the_background_the_kernel_stays_free_and_the_cell_is_kept_up_to_date(kernel: Kernel) -> None:
    reply = kernel.run(f"%%peft lora --data tickets --out run --background\nmax_steps: 100000\n{BODY}")
    assert (reply.status, reply.results) == ("ok", [])
    assert reply.seconds < 3
    (area,) = reply.areas
    assert kernel.run("1 + 1").results == ["2"]
    assert kernel.run("import time\nwhile len(run.history) < 2: time.sleep(0.1)").shown
    assert kernel.run("%peft stop").status == "ok"
    assert kernel.run("run.wait().status").results == ["'stopped'"]
    assert re.match(r"lora on smollm2-135m \(lora-\w+\) stopped: ", kernel.areas[area]["text/plain"])
    assert kernel.run("%peft stop").errors == [["RunError: no run is active here"]]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("%%peft lora --epoch 3", "did you mean '--epochs'?"),
        ("%%peft lora --epochs", "--epochs"),
        ("%%peft lora qlora", "qlora"),
        ("%%peft lora --data 'x", "quotation mark"),
    ],
)
def test_mistakes_in_fields_are_command_errors_too(shell: InteractiveShell, source: str, said: str) -> None:
    assert said in refused(shell, source, CommandError)


def test_all_wrong_fields_are_named_at_once(shell: InteractiveShell) -> None:
    told = refused(shell, "%%peft lroa --data tickets\nlearning_rat: 1\nr: 0", SpecError)
    assert [problem.split(":")[0] for problem in told.splitlines()] == ["method", "r", "learning_rat"]


def test_a_cell_without_body_still_is_a_cell(shell: InteractiveShell) -> None:
    assert "data" in refused(shell, "%%peft", SpecError)
