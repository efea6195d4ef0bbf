from __future__ import annotations

import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from peft_nb.system import frontend

REPO = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("shown_in", "kernel", "lab", "heard"),
    [
        ("jupyterlab", (7, 1), "4.4.0", True),
        ("jupyterlab", (7, 4), None, True),
        ("jupyterlab", (7, 4), "4.3.8", False),
        ("jupyterlab", (6, 29), "4.6.6", False),
        ("vscode", (7, 4), "4.6.6", False),
        ("colab", (7, 4), None, False),
    ],
)
def test_where_a_press_reaches_a_kernel_that_is_busy(
    monkeypatch: pytest.MonkeyPatch, shown_in: str, kernel: tuple[int, int], lab: str | None, heard: bool
) -> None:
    def version(package: str) -> str:
        if lab is None:
            raise frontend.metadata.PackageNotFoundError(package)
        return lab

    monkeypatch.setattr(frontend, "frontend", lambda: shown_in)
    monkeypatch.setattr(frontend.metadata, "version", version)
    monkeypatch.setitem(sys.modules, "ipykernel", SimpleNamespace(version_info=(*kernel, 0)))
    assert frontend.comms_while_busy() == heard


@pytest.mark.notebook
def test_frontends_are_told_apart_in_a_real_kernel() -> None:
    manager_module = pytest.importorskip("jupyter_client.manager")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("VSCODE_", "JPY_SESSION", "COLAB_"))}
    manager, client = manager_module.start_new_kernel(
        kernel_name="python3", cwd=str(REPO), env=clean, startup_timeout=60
    )

    def ask(code: str) -> str:
        reply = client.execute_interactive(code, user_expressions={"told": "frontend()"}, output_hook=print, timeout=30)
        return str(reply["content"]["user_expressions"]["told"]["data"]["text/plain"]).strip("'")

    try:
        assert ask("import os, sys, types\nfrom peft_nb.system.frontend import frontend") == "notebook-headless"
        assert ask("os.environ['JPY_SESSION_NAME'] = '/notebooks/tickets.ipynb'") == "jupyterlab"
        assert ask("os.environ['VSCODE_CWD'] = '/'") == "vscode"
        assert ask("sys.modules['google.colab'] = types.ModuleType('google.colab')") == "colab"
        assert ask("__vsc_ipynb_file__ = 'tickets.ipynb'") == "vscode"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
