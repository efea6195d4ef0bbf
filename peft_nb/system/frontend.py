"""What shows the output of this process, and what it can show."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from typing import Any, Literal

Frontend = Literal["jupyterlab", "vscode", "colab", "notebook-headless", "terminal"]


def frontend() -> Frontend:
    """Tell what shows the output of this process.

    Returns
    -------
    str
        ``vscode``: its extension left ``__vsc_ipynb_file__`` in the namespace, or ``VSCODE_PID`` or
        ``VSCODE_CWD`` in the environment; ``colab``: the kernel has loaded ``google.colab``; ``jupyterlab``:
        a Jupyter server (JupyterLab, Notebook 7, Binder) started the kernel and set ``JPY_SESSION_NAME``;
        ``notebook-headless``: another client did (nbclient, papermill, nbval); ``terminal``: no kernel.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    if shell is None or not hasattr(shell, "kernel"):
        return "terminal"
    if "__vsc_ipynb_file__" in shell.user_ns:
        return "vscode"
    if "google.colab" in sys.modules:
        return "colab"
    if os.environ.keys() & {"VSCODE_PID", "VSCODE_CWD"}:
        return "vscode"
    return "jupyterlab" if "JPY_SESSION_NAME" in os.environ else "notebook-headless"


def comms_while_busy() -> bool:
    """Tell whether what is pressed in a widget reaches the kernel while a cell is running.

    Returns
    -------
    bool
        Where the front end sends widgets' messages to a subshell of the kernel: JupyterLab 4.4 and later with
        ipykernel 7.1 and later. Elsewhere they wait until the cell has ended, and only the interrupt comes through.
    """
    kernel = sys.modules.get("ipykernel")
    if frontend() != "jupyterlab" or kernel is None or kernel.version_info[:2] < (7, 1):
        return False
    try:  # where JupyterLab is installed elsewhere than its kernels, its version cannot be known
        return tuple(map(int, metadata.version("jupyterlab").split(".")[:2])) >= (4, 4)
    except (metadata.PackageNotFoundError, ValueError):
        return True


def widgets() -> bool:
    """Tell whether what shows the output of this process also shows widgets."""
    return frontend() in ("jupyterlab", "vscode", "colab")


def variables() -> dict[str, Any]:
    """The notebook's variables, where names in a spec are looked up first."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return shell.user_ns if shell else {}
