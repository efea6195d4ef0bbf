from __future__ import annotations

import inspect
import subprocess
import sys
from pkgutil import resolve_name
from typing import Any

import pytest
from IPython.core.formatters import DisplayFormatter

from peft_nb.system import display, frontend
from peft_nb.system.display import PANELS, Displayed, panel_of


class Words(Displayed):
    def __repr__(self) -> str:
        return "words"


class Longer(Words):
    pass


class WordsPanel:
    def __init__(self, words: Words, *more: object) -> None:
        self.words, self.more = words, more

    def _ipython_display_(self) -> None:
        displayed.append(self)


displayed: list[Any] = []


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(display, "PANELS", {f"{__name__}.Words": f"{__name__}:WordsPanel"})


def test_a_result_is_shown_by_the_panel_of_its_type_or_of_a_type_above_it() -> None:
    panel = panel_of(Longer(), 1)
    assert type(panel).__name__ == "WordsPanel"
    assert panel.more == (1,)
    assert Words().panel is not Words().panel


def test_the_panel_shows_a_result_only_where_there_are_widgets(monkeypatch: pytest.MonkeyPatch) -> None:
    words, formatter = Words(), DisplayFormatter()
    assert formatter.format(words)[0] == {"text/plain": "words"}
    monkeypatch.setattr(frontend, "frontend", lambda: "jupyterlab")
    assert formatter.format(words) == ({}, {})
    (panel,) = displayed
    assert panel.result is words


@pytest.mark.parametrize(("result", "panel"), PANELS.items())
def test_what_is_registered_is_there(result: str, panel: str) -> None:
    module, _, name = result.rpartition(".")
    assert inspect.isclass(resolve_name(f"{module}:{name}"))
    assert resolve_name(panel).__module__ == panel.partition(":")[0]


def test_nothing_of_widgets_is_imported_before_a_panel_is_shown() -> None:
    code = (
        "import sys\nimport peft_nb, peft_nb.ui.runs, peft_nb.ui.live\nfrom peft_nb.system.display import PANELS\n"
        "assert PANELS\nprint({'ipywidgets', 'anywidget'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
