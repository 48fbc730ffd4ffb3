"""An estimator in words: its steps on one line, and as a tree with the parameters of each part."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline

MOST_CHARACTERS = 200
MOST_PARTS = 50


def line(estimator: Any) -> str:  # noqa: ANN401 - any estimator
    """Give the kinds of an estimator's steps, in their order."""
    if isinstance(estimator, Pipeline):
        steps = [step for _, step in estimator.steps if isinstance(step, BaseEstimator)]
        return " → ".join(line(step) for step in steps)
    if isinstance(estimator, ColumnTransformer):
        parts = [part for _, part, _ in estimator.transformers_ if isinstance(part, BaseEstimator)]
        return f"ColumnTransformer ({', '.join(line(part) for part in parts)})"
    return type(estimator).__name__


def tree(estimator: BaseEstimator, name: str = "") -> dict[str, Any]:
    """Give an estimator's kind, its parameters as text, and the same of each estimator it is made of.

    `changed` names the parameters that are not what scikit-learn would have chosen.
    """
    parameters = _parameters(estimator)
    defaults = _defaults(type(estimator))
    plain = {key: value for key, value in parameters.items() if not _holds_estimators(value)}
    return {
        "name": name,
        "kind": type(estimator).__name__,
        "parameters": {key: _text(value) for key, value in plain.items()},
        "changed": [key for key, value in plain.items() if key not in defaults or _text(value) != defaults[key]],
        "parts": [tree(part, called) for called, part in _parts(estimator, parameters)][:MOST_PARTS],
    }


def _parameters(estimator: BaseEstimator) -> dict[str, Any]:
    """Give what an estimator was made with; one from another version may lack what was invented since."""
    names = inspect.signature(type(estimator)).parameters
    return {name: getattr(estimator, name) for name in sorted(names) if hasattr(estimator, name)}


def _defaults(kind: type[BaseEstimator]) -> dict[str, str]:
    parameters = inspect.signature(kind).parameters.values()
    return {each.name: _text(each.default) for each in parameters if each.default is not each.empty}


def _text(value: object) -> str:
    text = repr(value)
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"


def _holds_estimators(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(_holds_estimators(each) for each in value)
    return isinstance(value, BaseEstimator)


def _parts(estimator: BaseEstimator, parameters: dict[str, Any]) -> Iterator[tuple[str, BaseEstimator]]:
    named = _named(estimator)
    yield from ((called, part) for called, part in named if isinstance(part, BaseEstimator))
    if not named:
        for key, value in parameters.items():
            several = value if isinstance(value, list | tuple) else [(key, value)]
            pairs = (each[:2] for each in several if isinstance(each, tuple) and len(each) > 1)
            yield from ((str(called), part) for called, part in pairs if isinstance(part, BaseEstimator))


def _named(estimator: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - any estimator
    """Give the steps of what only puts others together, as they were fitted."""
    if isinstance(estimator, Pipeline):
        return list(estimator.steps)
    if isinstance(estimator, ColumnTransformer):
        return [(called, part) for called, part, _ in estimator.transformers_]
    return list(estimator.transformer_list) if isinstance(estimator, FeatureUnion) else []
