"""Pictures of a run, as bare matplotlib figures: no pyplot, no global state, safe in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's blue and orange, which the colour-blind tell apart, and a grey that reads on white and on black.
BLUE, ORANGE, INK = "#0072B2", "#E69F00", "#808080"


def loss_curve(
    losses: Sequence[tuple[float, float]],
    eval_losses: Sequence[tuple[float, float]] = (),
    size: tuple[float, float] = (6.4, 3.2),
) -> Figure:
    """Draw losses over steps on a transparent ground.

    Parameters
    ----------
    losses, eval_losses : sequence of (step, loss)
        Training and held-out losses, in nats per supervised token.
    size : tuple of float
        Width and height in inches.

    Returns
    -------
    matplotlib.figure.Figure
        With its own canvas.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)")
    if losses:
        axes.plot(*zip(*losses, strict=True), color=BLUE, linewidth=1.5, label="training")
    if eval_losses:
        axes.plot(*zip(*eval_losses, strict=True), "o-", color=ORANGE, linewidth=1, markersize=4, label="held-out")
    if losses or eval_losses:
        axes.legend(frameon=False, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
