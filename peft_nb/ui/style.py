"""Styles of what stands in saved notebooks, where no style sheet is: inline, in the colours of the notebook's theme."""

from functools import cache
from pathlib import Path

BOX = (
    "max-width:960px;line-height:1.5;font-family:var(--jp-ui-font-family,system-ui,sans-serif);"
    "font-size:var(--jp-ui-font-size1,13px);color:var(--jp-ui-font-color1,inherit)"
)
MUTED = "opacity:.75"
NUMBERS = "font-variant-numeric:tabular-nums"


@cache
def _without_kernel() -> str:
    return Path(__file__).with_name("without_kernel.css").read_text("utf-8")


def staying(page: str, key: str) -> str:
    """Mark the page of a panel, so that one of the two is seen: the panel while its kernel lives, else the page."""
    return f'<div class="peft-nb-stays" data-panel="{key}"><style>{_without_kernel()}</style>{page}</div>'
