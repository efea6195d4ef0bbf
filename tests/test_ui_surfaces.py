from __future__ import annotations

import pytest

from peft_nb.events import Notice, StatusChanged
from peft_nb.system import frontend
from peft_nb.ui import surfaces
from peft_nb.ui.surfaces import NotebookSurface, Surface, TerminalSurface, WidgetSurface, surface
from tests.test_ui_live import follow, steps


@pytest.mark.parametrize(
    ("shown_in", "kind"),
    [
        ("terminal", TerminalSurface),
        ("notebook-headless", NotebookSurface),
        ("jupyterlab", WidgetSurface),
        ("vscode", WidgetSurface),
        ("colab", WidgetSurface),
    ],
)
def test_a_run_is_shown_by_what_the_front_end_can_show(
    monkeypatch: pytest.MonkeyPatch, shown_in: str, kind: type[Surface]
) -> None:
    monkeypatch.setattr(frontend, "frontend", lambda: shown_in)
    assert type(surface()) is kind


def test_a_terminal_gets_lines_on_stderr_and_the_summary_on_stdout(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(surfaces.TerminalSurface, "interval_s", 0.1)
    story = [Notice("3 examples were cut"), 0.15, *steps(), 0.15, StatusChanged("finished")]
    follow(story, name="run")
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert lines.count("3 examples were cut") == 1
    assert len(lines) == len(set(lines))
    assert "step 20 of 20" in captured.err
    assert captured.out.startswith("lora on smollm2-135m (lora-3f9a2c) finished\n")
    assert 'run.generate("…")' in captured.out
