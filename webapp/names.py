"""The exact names that may stand in a model file. The table belongs to the server; no upload can extend it."""

from __future__ import annotations

import json
from pathlib import Path

# Made by scripts/estimator_names.py from the installed scikit-learn, frozen for its minor version.
_TABLE = json.loads((Path(__file__).parent / "names.json").read_text(encoding="utf-8"))

PICKLE: frozenset[str] = frozenset(_TABLE["pickle"])
SKOPS: frozenset[str] = frozenset(_TABLE["skops"])
# What each name may stand for in a .skops file: pairs of the loader of a node and the name in it.
SKOPS_NODES: frozenset[tuple[str, str]] = frozenset((loader, name) for loader, name in _TABLE["skops_nodes"])
