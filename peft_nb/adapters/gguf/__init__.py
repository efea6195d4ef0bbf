"""Models and LoRA adapters as GGUF files, and the proof that llama.cpp answers with them as transformers does.

A newcomer among the architectures is one entry in ``architectures.py``, among the tokenizers one in ``vocabulary.py``.
"""

from __future__ import annotations

from peft_nb.adapters.gguf.lora import write_lora
from peft_nb.adapters.gguf.model import OUTTYPES, obstacle, write_model
from peft_nb.adapters.gguf.proof import BOUNDS, Proof, prove

__all__ = ["BOUNDS", "OUTTYPES", "Proof", "obstacle", "prove", "write_lora", "write_model"]
