"""Clips of speech with their texts: found, read, checked and turned into examples."""
