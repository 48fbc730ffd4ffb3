"""Tests of the admin UI."""
