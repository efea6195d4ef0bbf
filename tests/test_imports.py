"""What must be there at once imports nothing heavy; one process, forked for each case, looks at all of them."""

from __future__ import annotations

import json
from pathlib import Path

from tests.conftest import Python

HEAVY = ["datasets", "matplotlib", "pandas", "peft", "torch", "transformers"]
TORCH = ["peft", "torch", "transformers"]
CHECKS = ["datasketch", "presidio_analyzer", "spacy"]

CASES: dict[str, tuple[str, list[str]]] = {
    "the public names": (
        "import peft_nb; [getattr(peft_nb, name) for name in ('RunSpec', 'train', 'load', 'runs')]",
        HEAVY,
    ),
    "the extension": (
        "from IPython.core.interactiveshell import InteractiveShell\n"
        "InteractiveShell.instance().run_line_magic('load_ext', 'peft_nb')",
        [*HEAVY, "huggingface_hub", "ipywidgets", "peft_nb.magics", "pydantic", "yaml"],
    ),
    "the store": ("from peft_nb.store import Store; Store('store').all()", [*HEAVY, "numpy"]),
    "a server": (
        "from peft_nb.serving import server; from peft_nb.store import Store; server.running(Store('store'))",
        [*HEAVY, "gguf", "numpy", "xllamacpp"],
    ),
    "data in a list": (
        "from peft_nb.data import sources, detection, encoding\n"
        "rows = [{'question': 'a', 'answer': 'b'}]\n"
        "assert sources.data_variables({'rows': rows}) == ['rows']\n"
        "detection.detect(sources.read('rows', {'rows': rows}).train)",
        [*HEAVY, "pyarrow"],
    ),
    "checks of data": (
        "from peft_nb.data.quality import characters, duplicates, pii, secrets; from peft_nb.ui import check",
        [*HEAVY, *CHECKS, "numpy"],
    ),
    "names of models": (
        "from peft_nb.models import load, models, resolve; models()",
        ["datasets", *TORCH],
    ),
    "GGUF": (
        "import peft_nb.adapters.gguf; from peft_nb.adapters.exporters import EXPORTERS; EXPORTERS['gguf'].help",
        [*HEAVY, "gguf", "xllamacpp"],
    ),
    "methods": (
        "import peft_nb.methods.bitfit, peft_nb.methods.bottleneck, peft_nb.methods.full\n"
        "from peft_nb.ui.methods import listed; listed(None, {})._repr_html_()",
        TORCH,
    ),
    "help of a method": (
        "from peft_nb.methods import REGISTRY\nfrom peft_nb.ui.methods import explained; explained(REGISTRY['lora'])",
        TORCH,
    ),
    "advice": (
        "from peft_nb.planning.advise import advise\n"
        "repr(advise('support-desk', goal='style', memory_gb=8)); advise()._repr_html_()",
        ["datasets", "pandas", *TORCH],
    ),
    "forecasts": ("import peft_nb.planning.estimate, peft_nb.ui.forecast", TORCH),
    "options of preferences": (
        "from peft_nb.training.preference_losses import problems; list(problems('sigmoid'))\n"
        "from peft_nb.training import group_losses",
        TORCH,
    ),
    "comparisons": ("from peft_nb import compare, Comparison", HEAVY),
    "sweeps": (
        "from peft_nb import Sweep, sweep, discover; from peft_nb.spec.sweep import SweepSpec\n"
        "SweepSpec(data='tickets', sweep={'r': [4, 8]}); from peft_nb.store import Store; Store('store').sweeps.all()",
        [*HEAVY, "optuna", "sqlalchemy"],
    ),
    "live display and summary": (
        "from peft_nb.ui import live, status, summary, view\n"
        "from peft_nb.events import StepLogged\n"
        "seen = view.replay([StepLogged(s, 0, 1, 1, 1, 1, 1, s) for s in range(3)])\n"
        "assert '<img' in summary.html(seen, {})",
        ["matplotlib.pyplot", "pandas", *TORCH],
    ),
    "pictures": (
        "from peft_nb.plots import loss_curve; loss_curve([(1, 2.0)]).png()",
        ["matplotlib.pyplot", "pandas", *TORCH],
    ),
}

CHILD = """
import json, os, sys
import peft_nb
for name, (code, forbidden) in json.loads(sys.argv[1]).items():
    if not (child := os.fork()):
        exec(code, {})
        print(json.dumps([name, [module for module in forbidden if module in sys.modules]]), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_nothing_heavy_is_imported_before_it_is_needed(tmp_path: Path, python: Python) -> None:
    process = python("-c", CHILD, json.dumps(CASES), cwd=tmp_path)
    imported = dict(map(json.loads, process.communicate()[0].splitlines()))
    assert imported == {case: [] for case in CASES}
