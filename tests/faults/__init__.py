"""Runs that look for faults: long ones are started by hand, samples of them belong to the tests."""
