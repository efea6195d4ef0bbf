"""``%%peft`` and ``%peft``: arguments, completion, one entry a command."""

from peft_nb.magics import train, sweep, data, documents, runs, route, export, serve, versions, watch, help  # noqa: F401  # isort: skip  (the order of %peft help)
