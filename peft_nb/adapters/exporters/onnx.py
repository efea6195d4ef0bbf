"""A run as ONNX, written by optimum from its merged model; not tested, for want of optimum beside this transformers."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from peft_nb.adapters.exporters.base import Exportable, Exporter
from peft_nb.methods import REGISTRY
from peft_nb.system.files import atomic_folder
from peft_nb.tasks import TASKS


def obstacle(run: Exportable) -> str:
    """Say why a run cannot be written as ONNX, in one line, or nothing."""
    if not REGISTRY[run.spec.method].mergeable:
        return f"method: {run.spec.method} cannot be merged, and ONNX takes no adapters; --as adapter writes it"
    try:
        there = find_spec("optimum.exporters.onnx")  # a part of its own, which optimum alone does not bring
    except ModuleNotFoundError:
        there = None
    if not there:
        return "onnx: optimum writes it, and is not installed; pip install optimum-onnx, or --as merged for optimum-cli"
    return ""


def write(run: Exportable, folder: Path) -> Path:
    """Merge a run, proven as of ``Run.merge``, and let optimum write that as ONNX; errors as there."""
    from optimum.exporters.onnx import main_export

    with atomic_folder(folder) as staging, TemporaryDirectory() as merged:
        run.merge(Path(merged))
        past = "-with-past" if TASKS[run.spec.task].generates else ""  # keys and values of earlier tokens
        main_export(merged, output=staging, task=f"{TASKS[run.spec.task].pipeline_tag}{past}")
    return folder


EXPORTER = Exporter("onnx", "a merged model as ONNX, by optimum", "-onnx", write, obstacle)
