from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from peft_nb.__main__ import main
from peft_nb.adapters.exporters import EXPORTERS
from peft_nb.errors import CommandError
from peft_nb.magics.completion import complete
from peft_nb.runs.run import Run, begin
from peft_nb.spec import RunSpec
from peft_nb.store import Store


@pytest.fixture(scope="module")
def trained(spec: Callable[..., RunSpec], rows: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Run:
    store = Store(tmp_path_factory.mktemp("trained"))
    return begin(spec(data="tickets", name="desk", max_steps=2), namespace={"tickets": rows}, store=store).wait()


@pytest.fixture
def shell(shell: InteractiveShell, trained: Run, monkeypatch: pytest.MonkeyPatch) -> InteractiveShell:
    monkeypatch.setenv("PEFT_NB_STORE", str(trained.folder.parent.parent))
    shell.user_ns["run"] = trained
    return shell


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("run", "desk-script/train.py"),
        ("desk --as script --to plain", "plain/train.py"),
        ("run --as=yaml", "desk.yaml"),
        ("--as adapter run --to kept", "kept/adapter_config.json"),
    ],
)
def test_what_is_written_where(
    shell: InteractiveShell, trained: Run, capsys: pytest.CaptureFixture[str], words: str, written: str
) -> None:
    assert shell.run_line_magic("peft", f"export {words}") is None
    assert Path(written).is_file()
    told = written.partition("/")[0] if "adapter" in words else written
    assert capsys.readouterr().out == f"{trained.id} is exported to {told}\n"


def test_mistakes(shell: InteractiveShell) -> None:
    with pytest.raises(CommandError, match=r"^--as scrpt: not one of script, yaml, adapter.*; did you mean 'scr"):
        shell.run_line_magic("peft", "export run --as scrpt")
    with pytest.raises(CommandError, match=r"^--to: needs a value"):
        shell.run_line_magic("peft", "export run --to")
    with pytest.raises(CommandError, match=r"write %peft export RUN \[--as "):
        shell.run_line_magic("peft", "export run other")
    with pytest.raises(CommandError, match=r"no such flag: '--form'"):
        shell.run_line_magic("peft", "export run --form yaml")


def test_tab_knows_the_forms(shell: InteractiveShell) -> None:
    def found(line: str) -> list[str]:
        return complete(line, 0, len(line), shell.user_ns).matches

    assert {"run", "desk"} <= set(found("%peft export "))
    options = [f"--{name.replace('_', '-')}" for one in EXPORTERS.values() for name in one.options]
    assert found("%peft export run --") == ["--as", "--to", *dict.fromkeys(options)]
    assert found("%peft export run --as ") == list(EXPORTERS)


def test_a_terminal_exports_too(
    shell: InteractiveShell, trained: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["export", "desk", "--as", "yaml"]) == 0
    assert capsys.readouterr().out == f"{trained.id} is exported to desk.yaml\n"
    assert main(["export", "desk", "--as", "gguf", "--to", str(tmp_path / "one.gguf")]) == 0
    assert "equal greedy tokens" in capsys.readouterr().out
    assert main(["export", "desk", "--as", "gguf", "--to", str(tmp_path / "one.gguf")]) == 1
    assert capsys.readouterr().err.endswith("one.gguf: it exists already; choose another name\n")
