from __future__ import annotations

import sys
import time

import pytest

from peft_nb.events import silent
from peft_nb.ui import progress_bar as module
from tests.widgets import published


@pytest.mark.parametrize(
    ("frontend", "bars"), [("jupyterlab", True), ("notebook-headless", False), ("terminal", False)]
)
def test_bars_are_for_people(monkeypatch: pytest.MonkeyPatch, frontend: str, bars: bool) -> None:
    monkeypatch.setattr(module.frontend, "frontend", lambda: frontend)
    with module.progress_bar() as progress:
        assert (progress is not silent) == bars
        progress(0.5, "reading")
        progress(0.1, "counting")


def test_a_bar_names_its_stage_its_clock_runs_by_itself_and_it_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.frontend, "frontend", lambda: "jupyterlab")
    seen: list[str] = []
    with published() as bundles:
        with module.progress_bar("loading <b>", delay_s=0.01) as progress:
            until = time.monotonic() + 10
            while "1 s so far" not in "".join(seen) and time.monotonic() < until:
                time.sleep(0.02)
                seen += [one["text/html"] for one in bundles]
            progress(0.5, "tokenizing")
            while "tokenizing 50 %" not in bundles[0]["text/html"] and time.monotonic() < until:
                time.sleep(0.02)
            assert 'aria-valuenow="50"' in bundles[0]["text/html"]
        assert bundles == [{"text/html": "", "text/plain": ""}]
    assert "loading &lt;b&gt;, 1 s so far" in "".join(seen)
    assert "aria-valuenow" not in seen[0]


def test_what_is_over_at_once_has_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module.frontend, "frontend", lambda: "jupyterlab")
    with published() as bundles, module.progress_bar():
        pass
    assert bundles == []


def test_a_terminal_has_its_line_cleared(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module.frontend, "frontend", lambda: "terminal")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with module.progress_bar("reading", delay_s=0.0):
        time.sleep(0.1)
    said = capsys.readouterr().err
    assert "reading 0%, 0 s" in said
    assert said.endswith("\r" + " " * module.WIDE + "\r")
