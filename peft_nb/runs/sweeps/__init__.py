"""Searching for settings: which trials there are, what they come to, and what the whole will take."""
