"""How quantities are said, so that the panel, the summary and the terminal say them alike."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from peft_nb.errors import PeftNbError
from peft_nb.models.quiet import first_line


def duration(seconds: float) -> str:
    """Say a time in the two units a person would use.

    Parameters
    ----------
    seconds : float
        Seconds, not negative.

    Returns
    -------
    str
        Such as ``"4.2 s"``, ``"38 s"``, ``"2 min 5 s"`` or ``"3 h 20 min"``.
    """
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 9.95 and seconds != whole else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def memory(megabytes: float) -> str:
    """Say an amount of memory or disk, given in MB, in MB or GB."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes:.3g} MB"


def loss(value: float) -> str:
    """Say a loss with three decimals; one that is no number is said in words."""
    return f"{value:.3f}" if math.isfinite(value) else "not a number"


def count(number: float, noun: str) -> str:
    """Say a number of things, with the noun in the right number: ``"1 step"``, ``"1,200 steps"``."""
    return f"{number:,.0f} {noun}" if number == 1 else f"{number:,.0f} {noun}s"


def share(part: float) -> str:
    """Say a fraction between 0 and 1 as a percentage with two significant digits."""
    return f"{100 * part:.2g} %" if part < 0.1 else f"{100 * part:.0f} %"


SAID: dict[str, Callable[[float], str]] = {
    "loss": loss,
    "rise": lambda value: f"{value:+.3f}",
    "score": lambda value: f"{value:,.3f}",
    "share": share,
    "count": lambda value: f"{value:,.0f}",
    "s": duration,
    "ms": lambda value: f"{value:.3g} ms",
    "MB": memory,
    "kWh": lambda value: f"{1000 * value:,.3g} Wh" if value < 1 else f"{value:,.3g} kWh",
    "kg": lambda value: f"{1000 * value:,.3g} g" if value < 1 else f"{value:,.3g} kg",
}


def measured(value: float, unit: str) -> str:
    """Say the value of a metric in its unit; one that is not known stands behind four significant digits."""
    if unit in SAID:
        return SAID[unit](value)
    return (f"{value:,.0f} {unit}" if abs(value) >= 1000 else f"{value:.4g} {unit}").rstrip()


def spoken(error: Exception) -> str:
    """Say in a line what went wrong: a user's mistake in its own, anything else with its kind, and in the log."""
    if isinstance(error, PeftNbError):
        return first_line(error)
    logging.getLogger(__name__).error("%s", error, exc_info=error)
    return f"{type(error).__name__}: {first_line(error)}"
