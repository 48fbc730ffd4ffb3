"""Drift: whether what comes in and goes out is still what the reference had; counts in, verdicts out."""
