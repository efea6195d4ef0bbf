"""What a person sees of a run: the live panel and the static summary. Knows events, never torch."""
