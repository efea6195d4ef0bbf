"""Trained adapters at work beside one base."""
