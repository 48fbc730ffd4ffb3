"""Tests of what the log keeps: features are hashed or dropped before anything is on a disk, and stay so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import pytest
import skops.io

from tests.test_batches import MODEL, SIGNATURE, TASK
from tests.test_predictions import AT
from webapp import artifacts, registry, uploads
from webapp.audit import Actor
from webapp.batches.backends import compute_elsewhere, model_of
from webapp.batches.computing import compute
from webapp.catalog import ServedVersion
from webapp.config import Settings
from webapp.db import Database
from webapp.errors import Invalid
from webapp.intake import Upload
from webapp.predictions.spool import Origin, Record, decode, encode, record
from webapp.recomputation import _may_be_planned
from webapp.serving.loaded import LoadedVersion
from webapp.serving.loading import Loader
from webapp.signature import Signature, compare, from_dict, keeping
from webapp.uploads import Desk, Wish

ORIGIN = Origin(AT, "key1", "r", "api", 0.002)
HASHED, DROPPED = {"name": "income", "log": "hash"}, {"name": "income", "log": "drop"}
OF_AGE, OF_INCOME = {"name": "age", "subject": True}, {"name": "income", "subject": True}


def declared(*features: dict[str, Any], whose: object = None) -> Signature:
    keeping.check(features, whose)
    return keeping.declare(SIGNATURE, features, whose)


@pytest.fixture
def load(settings: Settings) -> Callable[[Signature], LoadedVersion]:
    """Load a version with a signature, as a process does that logs."""

    def made(signature: Signature) -> LoadedVersion:
        store, secret = artifacts.opened(settings), settings.derive("versions")
        digest = store.put(skops.io.dumps(MODEL))
        described = signature.as_dict()
        seal = artifacts.seal(secret, "credit", 1, digest, described)
        version = ServedVersion("credit", 1, "1.0", digest, seal, described)
        return Loader(store, secret, None, log_key=settings.derive(keeping.KEY)).load(version)

    return made


def logged(loaded: LoadedVersion, client_id: str | None = None, **instance: float) -> Record:
    """Predict one instance, and give its record as it came back from the disk."""
    [answer] = loaded.predict([{"age": 30.0, "income": 2.0, **instance}], [""], ["r-0"])
    read = decode(encode(record(ORIGIN, loaded, answer, client_id))[:-1])
    assert read is not None
    return read


Load = Callable[[Signature], LoadedVersion]


def test_where_nothing_is_said_everything_is_kept_and_nobody_named(load: Load) -> None:
    loaded = load(SIGNATURE)
    assert loaded.keeping is None
    made = logged(loaded)
    assert made["instance"] == {"age": 30.0, "income": 2.0}
    assert "subject" not in made


def test_a_hashed_feature_is_told_from_others_and_not_what_it_was(load: Load, settings: Settings) -> None:
    loaded = load(declared(HASHED))
    first, same, other = (logged(loaded, income=each)["instance"] for each in (2.0, 2.0, 3.0))
    assert first["age"] == 30.0
    assert len(first["income"]) == 16
    assert int(first["income"], 16)
    assert first["income"] == same["income"] != other["income"]
    elsewhere = replace(loaded, keeping=keeping.of(loaded.signature, b"another installation's"))
    assert logged(elsewhere, income=2.0)["instance"]["income"] != first["income"]


def test_a_dropped_feature_is_not_there_and_its_answer_is_the_same(load: Load) -> None:
    whole, made = logged(load(SIGNATURE)), logged(load(declared(DROPPED)))
    assert made["instance"] == {"age": 30.0}
    assert made["probabilities"] == whole["probabilities"]


def test_the_same_value_in_two_features_has_two_hashes() -> None:
    kept = keeping.of(declared({"name": "age", "log": "hash"}, HASHED), b"key")
    assert kept is not None
    found = kept.instance((7.0, 7.0))
    assert found["age"] != found["income"]
    assert kept.instance((None, 7.0))["age"] is None, "that it is missing says nothing of it"


@pytest.mark.parametrize(
    ("signature", "expected"),
    [
        (declared(OF_INCOME), "2"),
        (declared({**OF_INCOME, "log": "drop"}), "2"),
        (declared({**OF_INCOME, "log": "hash"}), "2"),
        (declared(whose="id"), "order 7"),
    ],
)
def test_whom_a_prediction_is_about_is_found_by_what_a_person_writes(
    load: Load, settings: Settings, signature: Signature, expected: str
) -> None:
    made = logged(load(signature), client_id="order 7")
    assert made["subject"] in keeping.subjects(settings.derive(keeping.KEY), expected)
    assert made["subject"] not in keeping.subjects(settings.derive(keeping.KEY), "30")


def test_who_sends_no_id_is_nobody(load: Load) -> None:
    assert logged(load(declared(whose="id")))["subject"] is None


def test_numbers_are_one_however_they_are_written_and_texts_are_not() -> None:
    of_number, of_text = keeping.subject(b"key", 7.0), keeping.subject(b"key", "007")
    assert {of_number} < keeping.subjects(b"key", "007") == {of_number, of_text}
    assert of_number in keeping.subjects(b"key", "7")
    assert of_text not in keeping.subjects(b"key", "7")
    assert keeping.subjects(b"key", "nan") == {keeping.subject(b"key", "nan")}


def test_batches_are_kept_alike_wherever_they_are_computed(load: Load, settings: Settings) -> None:
    loaded = load(declared(HASHED, OF_AGE))
    here = compute(loaded, TASK, b"age,income\n20,1\n")
    there = compute_elsewhere(model_of(loaded, str(settings.artifacts_dir)), TASK, b"age,income\n20,1\n")
    first, second = (decode(each.logged[:-1]) for each in (here, there))
    assert first
    assert second
    assert first["instance"] == second["instance"]
    assert first["subject"] == second["subject"]
    assert model_of(load(SIGNATURE), "/nowhere").log_key is None, "a key goes where it is needed"


def test_what_the_log_has_not_is_not_computed_again(load: Load) -> None:
    whole, whose = load(SIGNATURE), load(declared(OF_AGE))
    assert whole.predictor.plan
    assert [_may_be_planned(each) for each in (whole, whose, load(declared(HASHED)), load(declared(DROPPED)))] == [
        True,
        True,
        False,
        False,
    ]


# --- Saying it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "whose", "says"),
    [
        ([{"name": "age", "log": "encrypt"}], None, "store, hash, drop"),
        ([{"name": "age", "log": None}], None, "store, hash, drop"),
        ([{"name": "age", "subject": "yes"}], None, "true or false"),
        ([OF_AGE, OF_INCOME], None, "not several"),
        ([OF_AGE], "id", "not several"),
        ([], "age", "the caller's own"),
        ([], ["id"], "the caller's own"),
    ],
)
def test_what_cannot_be_said_is_refused(features: list[dict[str, Any]], whose: object, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        keeping.check(features, whose)


def test_what_is_hidden_stays_so_in_the_next_version_until_somebody_says_else() -> None:
    old = declared({**OF_INCOME, "log": "hash"})
    assert keeping.inherit(old, SIGNATURE) == old
    stored = keeping.inherit(old, declared({"name": "income", "log": "store"}))
    assert (keeping.hidden(stored), stored.features[1].subject) == ({}, True)
    [difference] = compare.differences(old, stored)
    assert (difference.word, difference.breaking) == ("Log", False)
    other = keeping.inherit(old, declared(whose="id"))
    assert (other.id_is_subject, other.features[1].subject, other.features[1].log) == (True, False, "hash")
    assert keeping.inherit(declared(whose="id"), SIGNATURE).id_is_subject


def test_signatures_from_before_there_was_a_choice_keep_everything() -> None:
    document = SIGNATURE.as_dict()
    document.pop("id_is_subject")
    for feature in document["features"]:
        del feature["log"], feature["subject"]
    assert from_dict(document) == SIGNATURE
    assert keeping.of(from_dict(document), b"key") is None


def test_the_metadata_of_an_upload_says_it_and_the_next_one_inherits_it(
    settings: Settings, database: Database, tmp_path: Path
) -> None:
    joblib.dump(MODEL, tmp_path / "model.joblib")
    desk = Desk(settings, database, artifacts.opened(settings))

    def uploaded(metadata: dict[str, Any]) -> Signature:
        files = Upload(tmp_path / "model.joblib", metadata=metadata)
        done = uploads.upload(desk, Actor("cli:ann"), Wish("credit"), files)
        with database.reading() as session:
            stored = registry.get_version(session, registry.get_model(session, "credit"), done.version["version"])
        return from_dict(stored.signature)

    card = json.loads('{"features": [{"name": "age", "minimum": 18, "log": "drop"}, "income"], "subject": "id"}')
    first, second = uploaded(card), uploaded({})
    assert (first.features[0].minimum, first.features[0].log, first.id_is_subject) == (18, "drop", True)
    assert (second.features[0].minimum, second.features[0].log, second.id_is_subject) == (18, "drop", True)
    with pytest.raises(Invalid, match="store, hash, drop"):
        uploaded({"features": [{"name": "age", "log": "nothing"}]})
