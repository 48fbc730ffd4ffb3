"""Tests against a running `modelport serve`."""
