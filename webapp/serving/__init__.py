"""Serving: loaded versions, the atomic switch between them, and predictions. No database in here."""
