from __future__ import annotations

import subprocess
import sys
from io import BytesIO

from IPython.core.interactiveshell import InteractiveShell
from matplotlib.image import imread

from peft_nb.plots import histogram, loss_curve

LOSSES = [(1, 4.0), (2, 2.0), (3, 1.0)]


def test_a_notebook_shows_it_at_twice_the_resolution_without_the_inline_backend() -> None:
    data, metadata = InteractiveShell.instance().display_formatter.format(loss_curve(LOSSES, [(0, 4.5), (3, 1.5)]))
    assert metadata["image/png"] == {"width": 640, "height": 320}
    assert imread(BytesIO(data["image/png"])).shape == (640, 1280, 4)


def test_the_ground_is_transparent() -> None:
    assert imread(BytesIO(loss_curve(LOSSES).png()))[0, 0, 3] == 0


def test_the_limit_of_a_histogram_is_drawn_when_values_come_near() -> None:
    assert len(histogram([10, 20, 90], 100).axes[0].lines) == 1
    assert len(histogram([10, 20, 30], 100).axes[0].lines) == 0
    assert imread(BytesIO(histogram([7], 100).png()))[0, 0, 3] == 0
    assert histogram([]).png()


def test_curves_without_points_can_be_drawn() -> None:
    assert loss_curve([]).png()


def test_no_global_state_of_matplotlib_is_touched() -> None:
    code = "from peft_nb.plots import loss_curve; loss_curve([(1, 2.0)]).png(); import sys; print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "matplotlib.pyplot" not in told.split()
