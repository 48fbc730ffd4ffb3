"""Logged predictions: appended to a spool before the answer leaves, moved from there into SQL."""
