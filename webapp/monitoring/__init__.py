"""Monitoring: reports of whether models are still good, made of what was logged."""
