"""Modelport: puts scikit-learn models into production."""

__version__ = "0.1.0"
