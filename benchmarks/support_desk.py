"""How well a run learns the support desk: the rule of ``peft_nb.data.support_desk`` over its 60 held-out questions.

    python benchmarks/support_desk.py [--FLAG VALUE ...]

Trains as the first run in ``notebooks/quickstart.ipynb`` does, on all topics; flags, the same as in a cell, override
that. The base and the adapter then answer every held-out question, and each answer is judged for the house style, the
fact, and both.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from peft_nb import Run, RunSpec, train
from peft_nb.data.support_desk import judge, load
from peft_nb.errors import PeftNbError
from peft_nb.spec import notation

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "quickstart.ipynb"


def taught() -> dict[str, object]:
    """The fields of the notebook's first run, for all of the desk's rows."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    first = next(source for cell in cells if (source := "".join(cell["source"])).startswith("%%peft"))
    return {**notation.read_cell(first, RunSpec.describe()).fields, "data": "support-desk", "eval_data": None}


def score(rows: Sequence[dict[str, str]], answers: Sequence[str]) -> str:
    """Count the answers that are right, by rule."""
    verdicts = [judge(row, answer) for row, answer in zip(rows, answers, strict=True)]
    right, style, fact = (sum(getattr(one, name) for one in verdicts) for name in ("right", "style", "fact"))
    return f"{right:2} of {len(rows)} right   (style {style}, fact {fact})"


def report(run: Run) -> None:
    """Let base and adapter answer all held-out questions, and print what came of it."""
    rows = load()["eval"]
    questions = [row["question"] for row in rows]
    began = time.perf_counter()
    adapted = run.generate(questions, max_new_tokens=48)
    middle = time.perf_counter()
    base = run.generate(questions, adapter=False, max_new_tokens=48)
    spent = time.perf_counter() - middle
    metrics = run.metrics
    print()
    for row, answer in zip(rows, adapted, strict=True):
        if not judge(row, answer).right:
            print(f"wrong: {row['question']}\n       {answer}\n       ({row['key']} is expected)")
    print(f"base      {score(rows, base)}   eval loss {metrics['base_eval_loss']:.3f}   answered in {spent:.0f} s")
    print(
        f"adapter   {score(rows, adapted)}   eval loss {metrics['eval_loss']:.3f}   answered in {middle - began:.0f} s"
    )
    print(
        f"training  {metrics['steps']} steps in {metrics['train_seconds']:.0f} s, {run.facts.dtype}, "
        f"last epoch's loss {metrics['train_loss']:.3f}, peak {metrics['peak_memory_mb'] / 1000:.1f} GB"
    )


def main() -> None:
    """Train and report; one line for a mistake."""
    try:
        spec = RunSpec(**{**taught(), **notation.parse_train(sys.argv[1:], RunSpec.describe())})
        with TemporaryDirectory() as folder:
            os.environ["PEFT_NB_STORE"] = folder
            report(train(spec))
    except PeftNbError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
