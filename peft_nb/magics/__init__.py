"""``%%peft`` and ``%peft``: arguments, completion, one entry a command, in the order of %peft help."""

# isort: off
from peft_nb.magics import train, sweep, data, documents, runs, route, export, serve, versions  # noqa: F401
from peft_nb.magics import watch, label, explain, probe, help  # noqa: F401
