"""Adapters on disk: plain PEFT folders that any program with PEFT can load."""

from typing import Literal

Form = Literal["script", "yaml", "adapter", "merged"]
"""What a run can be exported as."""
