from __future__ import annotations

import pytest

from peft_nb.ui import progress_bar as module


@pytest.mark.parametrize(
    ("frontend", "bars"), [("jupyterlab", True), ("notebook-headless", False), ("terminal", False)]
)
def test_bars_are_for_people(monkeypatch: pytest.MonkeyPatch, frontend: str, bars: bool) -> None:
    monkeypatch.setattr(module.frontend, "frontend", lambda: frontend)
    with module.progress_bar() as progress:
        assert (progress is not None) == bars
        if progress:
            progress(0.5, "reading")
            progress(0.1, "counting")
