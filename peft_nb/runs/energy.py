"""The electricity that a run takes, measured by CodeCarbon (codecarbon.io) where its spec asks for it; offline."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from peft_nb.events import Notice
from peft_nb.models.quiet import first_line
from peft_nb.runs.context import Context

METER = "codecarbon"  # as ``report_to`` names it
COUNTRY = "CODECARBON_COUNTRY_ISO_CODE"  # CodeCarbon's own variable, such as DEU: whose mix of electricity it is


@contextmanager
def metered(context: Context) -> Iterator[None]:
    """Add what is spent inside the ``with`` to the run's metrics, if its spec has ``report_to: codecarbon``.

    Parameters
    ----------
    context : Context
        The run. ``energy_kwh`` is that of the whole machine meanwhile; ``co2_kg`` is told only where the environment
        names the country. A meter that fails is told of once, and the run goes on.
    """
    if METER not in context.spec.report_to:
        yield
        return
    country, tracker = os.environ.get(COUNTRY), None
    try:
        from codecarbon import OfflineEmissionsTracker

        how = {"save_to_file": False, "log_level": "critical", "allow_multiple_runs": True}
        tracker = OfflineEmissionsTracker(country_iso_code=country or "USA", **how)  # without one it asks the network
        tracker.start()
    except Exception as error:
        context.publish(Notice(f"the energy is not measured: {type(error).__name__}: {first_line(error)}", "warning"))
        tracker = None
    try:
        yield
    finally:
        if tracker:
            kilograms = tracker.stop() or 0.0
            found = {"energy_kwh": tracker.final_emissions_data.energy_consumed, "co2_kg": kilograms}
            if not country:
                del found["co2_kg"]
            context.metrics |= {name: context.metrics.get(name, 0.0) + value for name, value in found.items()}
