"""Which model answers a request that names none."""

from __future__ import annotations

from dataclasses import replace

import limits
import pytest

from webapp.api import native
from webapp.app import create_app
from webapp.catalog import Catalog, ServedModel, ServedVersion
from webapp.config import Settings
from webapp.errors import Conflict
from webapp.keys import KeyRecord


def key(*models: str) -> KeyRecord:
    """A key for some models; for every model when none is named."""
    allowed = frozenset(models) or None
    return KeyRecord("k", False, frozenset({"predict"}), allowed, limits.parse("1/second"), expires_at=0.0)  # noqa: FBT003


def model(name: str, *, active: bool = True) -> ServedModel:
    """A model with one version."""
    version = ServedVersion(name, 1, "1", "artifact", "seal", {})
    return ServedModel(name, 1 if active else None, {1: version})


def chosen(settings: Settings, asked_by: KeyRecord, *models: ServedModel) -> str:
    """Give the model that answers."""
    app = create_app(settings)
    app.extensions["modelport"].runtime.switch(Catalog(1, {each.name: each for each in models}))
    with app.test_request_context("/predict"):
        return native.default_model(asked_by)


def test_the_only_active_model_answers(settings: Settings) -> None:
    assert chosen(settings, key(), model("a"), model("b", active=False)) == "a"


def test_the_only_model_that_the_key_may_use_answers(settings: Settings) -> None:
    assert chosen(settings, key("b"), model("a"), model("b")) == "b"


def test_the_set_default_answers_where_the_key_may_use_it(settings: Settings) -> None:
    settings = replace(settings, default_model="a")
    assert chosen(settings, key(), model("a"), model("b")) == "a"
    assert chosen(settings, key("b"), model("a"), model("b")) == "b"


def test_of_several_the_names_to_choose_from_are_given(settings: Settings) -> None:
    with pytest.raises(Conflict) as caught:
        chosen(settings, key("a", "b", "d"), model("b"), model("a"), model("c"), model("d", active=False))
    assert (caught.value.code, caught.value.more) == ("model_not_named", {"models": ["a", "b"]})


def test_without_an_active_model_it_is_said(settings: Settings) -> None:
    with pytest.raises(Conflict) as caught:
        chosen(settings, key(), model("a", active=False))
    assert (caught.value.code, caught.value.more) == ("no_active_model", {"models": []})
