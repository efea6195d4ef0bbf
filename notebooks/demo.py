"""``make demo``: executes ``quickstart.ipynb`` from top to bottom, says how it goes, and shows what changed.

All it makes goes to ``build/demo``, which git ignores and the next demo replaces; the notebook itself stays as it is.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from textwrap import wrap
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from peft_nb.ui import wording

HERE = Path(__file__).parent
FOLDER = HERE.parent / "build" / "demo"
WIDTH, GUTTER, LABEL = 80, 3, 18  # columns
EVERY_S = 5.0  # between two passing lines in a log

RESULTS = """
import json
print(json.dumps({
    "answers": answers.to_dict("records"), "score": score, "asked": len(held_out), "metrics": run.metrics,
}))
"""


class Narrator(NotebookClient):
    """Executes a notebook and says how far it is: a line a cell, and below it what a running cell shows."""

    began = spoke = time.monotonic()

    def say(self, text: str, *, passing: bool = False) -> None:
        """Print a line; one that is passing is written over by the next, or in a log printed now and then."""
        clock = time.monotonic()
        live = sys.stdout.isatty()
        if not passing or live or clock - self.spoke >= EVERY_S:
            self.spoke = clock
            parts = f"{clock - self.began:5.0f} s  {text}".split(" · ")
            while len(parts) > 2 and len(" · ".join(parts)) >= WIDTH:
                del parts[-2]  # the last tells the time left
            line = " · ".join(parts)[: WIDTH - 1]
            print(f"\r\033[K{line}" if live else line, end="" if live and passing else "\n", flush=True)

    def process_message(self, msg: dict[str, Any], cell: dict[str, Any], cell_index: int) -> Any:
        """Take in what the kernel tells; a run says in one line of plain text how far it is."""
        shown = msg["content"].get("data", {}).get("text/plain", "")
        if msg["msg_type"] in ("display_data", "update_display_data") and "\n" not in shown:
            self.say(shown, passing=True)
        return super().process_message(msg, cell, cell_index)  # type: ignore[arg-type]


def headings(notebook: nbformat.NotebookNode) -> dict[str, str]:
    """Number the code cells and name them by the sections they stand in, by cell id."""
    count = sum(cell.cell_type == "code" for cell in notebook.cells)
    found: dict[str, str] = {}
    title = ""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            found[cell.id] = f"cell {len(found) + 1} of {count}: {title}"
        elif cell.source.startswith("#"):
            title = cell.source.partition("\n")[0].lstrip("# ")
    return found


def execute(path: Path) -> dict[str, Any]:
    """Execute a notebook in `FOLDER`, keep it there with its outputs, and fetch its results from the kernel."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    notebook = nbformat.read(path, as_version=4)
    titles, last = headings(notebook), nbformat.v4.new_code_cell(RESULTS)
    notebook.cells.append(last)
    narrator = Narrator(
        notebook,
        resources={"metadata": {"path": str(FOLDER)}},
        extra_arguments=["--IPKernelApp.log_level=ERROR"],  # else it warns that its sockets are not encrypted
        on_cell_execute=lambda cell, cell_index: narrator.say(titles.get(cell.id, "results")),
    )
    try:
        narrator.execute()
    finally:
        notebook.cells.remove(last)
        nbformat.write(notebook, FOLDER / path.name)
    return json.loads(last.outputs[0]["text"])


def beside(left: str, right: str) -> list[str]:
    """Set two texts in columns."""
    wide = (WIDTH - GUTTER) // 2
    columns = wrap(left, wide), wrap(right, wide)
    height = max(map(len, columns))
    padded = [column + [""] * (height - len(column)) for column in columns]
    return [f"{a:<{wide + GUTTER}}{b}".rstrip() for a, b in zip(*padded, strict=True)]


def report(results: dict[str, Any]) -> str:
    """Lay out what changed."""
    metrics, score, asked = results["metrics"], results["score"], results["asked"]
    lines = ["", "WHAT CHANGED", "", *beside("The base (first 48 tokens)", "The adapter")]
    for row in results["answers"]:
        lines += ["─" * WIDTH, *wrap(row["question"], WIDTH), "", *beside(row["base"], row["adapter"])]
    trained = wording.count(metrics["trainable_parameters"], "parameter")
    facts = {
        "eval loss": f"{metrics['base_eval_loss']:.3f} → {metrics['eval_loss']:.3f}",
        "eval answers": f"{score['right']} of {asked} right (style {score['style']}, fact {score['fact']})",
        "training time": f"{wording.duration(metrics['train_seconds'])} for {metrics['steps']} steps",
        "trained": f"{trained}, {wording.share(metrics['trainable_share'])} of the model",
        "peak memory": wording.memory(metrics["peak_memory_mb"]),
        "adapter": f"{wording.memory(metrics['adapter_mb'])}, build/demo/support-desk-adapter",
    }
    lines += ["─" * WIDTH, *(f"{label:<{LABEL}}{fact}" for label, fact in facts.items())]
    return "\n".join([*lines, "", "Next: make lab opens this notebook in JupyterLab, to change and run yourself."])


def main() -> None:
    """Run the demo; what goes wrong is said in one line."""
    print("Executing notebooks/quickstart.ipynb; the first time, it fetches the base model.\n")
    try:
        results = execute(HERE / "quickstart.ipynb")
    except CellExecutionError as error:
        sys.exit(f"\nThe notebook failed: {error.ename}: {error.evalue}")
    except KeyboardInterrupt:
        sys.exit("\nInterrupted.")
    print(report(results))


if __name__ == "__main__":
    main()
