"""Pictures of a run, as bare matplotlib figures: no pyplot, no global state, safe in a thread."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# Okabe and Ito's blue and vermilion, which the colour-blind tell apart, and a grey that reads on white and on black.
BLUE, VERMILION, INK = "#0072B2", "#D55E00", "#808080"


class Picture(Figure):
    """A figure on a transparent ground that a notebook shows as it is, without ``%matplotlib inline``."""

    def png(self) -> bytes:
        """Draw it at twice the resolution at which it is shown."""
        out = BytesIO()
        self.savefig(out, format="png", dpi=2 * self.dpi, transparent=True)
        return out.getvalue()

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        width, height = self.get_size_inches() * self.dpi
        return self.png(), {"width": int(width), "height": int(height)}


def loss_curve(
    losses: Sequence[tuple[float, float]],
    eval_losses: Sequence[tuple[float, float]] = (),
    size: tuple[float, float] = (6.4, 3.2),
) -> Picture:
    """Draw losses over steps.

    Parameters
    ----------
    losses, eval_losses : sequence of (step, loss)
        Training and held-out losses, in nats per supervised token.
    size : tuple of float
        Width and height in inches.

    Returns
    -------
    Picture
        With its own canvas.
    """
    figure = Picture(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="loss (nats per token)")
    if losses:
        axes.plot(*zip(*losses, strict=True), color=BLUE, linewidth=1.5, label="training")
    if eval_losses:
        axes.plot(*zip(*eval_losses, strict=True), "o-", color=VERMILION, linewidth=1, markersize=4, label="held-out")
    if losses or eval_losses:
        axes.legend(frameon=False, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(INK)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure
