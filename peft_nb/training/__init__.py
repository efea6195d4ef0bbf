"""The engine: padding-free rows, a loss without logits, shared prefixes, on top of transformers' Trainer."""
