"""Adapters on disk: plain PEFT folders that any program with PEFT can load."""
