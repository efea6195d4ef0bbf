"""What a person sees of a run: the live panel and the static summary. Knows events, never torch."""

from peft_nb.ui import panels  # noqa: F401  (registers them for the results that they show)
