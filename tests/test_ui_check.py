from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pandas
import pytest

from peft_nb.errors import DataError, SpecError
from peft_nb.ui.check import check
from tests.templates import tokenizer
from tests.test_data_quality_checks import sound

NOWHERE = "nobody/has-this-model"


def test_held_out_rows_may_be_live() -> None:
    found = check(sound(), eval_data=pandas.DataFrame(sound()[7:9]), model=NOWHERE).findings
    assert [(finding.kind, finding.rows) for finding in found] == [("leak", (7, 8))]


def test_mistakes_are_one_line() -> None:
    with pytest.raises(DataError, match="fit no known layout; say which column is which"):
        check([{"x": "1", "y": "2"}])
    with pytest.raises(SpecError, match="max_length: 3 is below"):
        check(sound(), max_length=3)


# ---- tokens ------------------------------------------------------------------------------------


def test_a_live_pair_lends_its_tokenizer() -> None:
    class Model:
        config = SimpleNamespace(model_type="x")

        def named_modules(self) -> list[Any]:
            return []

        modules = named_modules

    report = check(sound(), model=(Model(), tokenizer()))
    assert report.notes == []
    assert report.tokens(3).tokens
    assert "in memory" not in " ".join(report.next_steps)


# ---- progress ----------------------------------------------------------------------------------


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys\nfrom peft_nb.ui import check\n"
        "print({'torch', 'transformers', 'pandas', 'numpy', 'matplotlib', 'spacy', 'datasketch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_a_method_that_needs_more_rows_says_so() -> None:
    (finding,) = check(sound(60), model=NOWHERE, method="prompt").findings
    assert finding.title == "60 rows, where prompt usually needs 200 (rule of thumb)"
    assert check(sound(60), model=NOWHERE).findings == []
