"""Runs: their life, the pipeline from data to saved adapter, and what is done with one or several of them."""
