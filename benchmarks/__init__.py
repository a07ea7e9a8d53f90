"""Comparisons with other people's models, run from a checkout: `python -m benchmarks.rivals`."""
