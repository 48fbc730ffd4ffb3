"""Tests of serving: loaded versions, the switch between them while others predict, and plain exact answers."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier

from webapp import artifacts
from webapp.artifacts import ArtifactStore
from webapp.catalog import Catalog, ServedModel, ServedVersion
from webapp.errors import Conflict, Invalid, NotFound, Unavailable
from webapp.serving.loaded import LoadedVersion
from webapp.serving.predictor import Outcome, Predictor, assemble
from webapp.serving.runtime import MOST_EXTRA_VERSIONS, Runtime
from webapp.signature import Feature, Kind, Output, Row, Signature
from webapp.signature.check import Checker
from webapp.signature.learn import learn

# As in a web worker: what numpy warns of while it predicts is for those who train.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SECRET = b"the secret that seals versions"
RANDOM = np.random.default_rng(3)
FRAME = pd.DataFrame(RANDOM.normal(size=(30, 2)), columns=["a", "b"])
LABELS = np.tile([0, 1, 2], 10)
INSTANCE = {"a": 0.5, "b": -1.0}


class NotServed(DecisionTreeClassifier):  # type: ignore[misc] # scikit-learn has no types
    """An estimator of somebody's own, which the server's table does not name."""


@dataclass
class Shelf:
    """Stored versions of models, the registry's part played by a dictionary."""

    folder: Path
    loads: list[str] = field(default_factory=list)
    versions: dict[str, dict[int, ServedVersion]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store = ArtifactStore(self.folder)
        self.runtime = Runtime(self.store, SECRET, self.loaded)

    def loaded(self, loaded: LoadedVersion) -> None:
        self.loads.append(f"{loaded.version.model}/{loaded.version.number}")

    def add(self, model: str = "m", estimator: Any = None) -> ServedVersion:
        """Store the next version; without an estimator one that always answers with its own number."""
        versions = self.versions.setdefault(model, {})
        number = len(versions) + 1
        if estimator is None:
            constant = DummyClassifier(strategy="constant", constant=f"v{number}")
            estimator = constant.fit(FRAME, [f"v{number}", "other"] * 15)
        signature = learn(estimator, assemble, reference=None, declared=()).signature.as_dict()
        digest = self.store.put(skops.io.dumps(estimator))
        seal = artifacts.seal(SECRET, model, number, digest, signature)
        versions[number] = ServedVersion(model, number, f"v{number}", digest, seal, signature)
        return versions[number]

    def switch(self, **active: int | None) -> list[str]:
        """Serve what is on the shelf, with these versions active."""
        models = {name: ServedModel(name, active.get(name), dict(self.versions[name])) for name in self.versions}
        return self.runtime.switch(Catalog(self.runtime.catalog.generation + 1, models))

    def path(self, version: ServedVersion) -> Path:
        return self.folder / version.artifact[:2] / version.artifact

    def overwrite(self, version: ServedVersion, content: bytes) -> None:
        path = self.path(version)
        path.chmod(0o600)
        path.write_bytes(content)

    def answer(self, model: str = "m", number: int | None = None) -> dict[str, Any]:
        return self.runtime.served(model, number).predict([INSTANCE], [""], ["request-0"])[0].document


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    made = Shelf(tmp_path)
    for _ in range(2):
        made.add()
    return made


def flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


# --- The switch -------------------------------------------------------------------------------------------


def test_before_the_first_switch_nothing_is_served(shelf: Shelf) -> None:
    assert shelf.runtime.serves_all()
    with pytest.raises(NotFound, match="unknown_model"):
        shelf.runtime.served("m")


def test_the_active_version_answers(shelf: Shelf) -> None:
    assert shelf.switch(m=2) == []
    assert shelf.runtime.serves_all()
    document = shelf.answer()
    assert document == {
        "prediction": "v2",
        "probability": 1.0,
        "probabilities": {"other": 0.0, "v2": 1.0},
        "model": "m",
        "model_version": "v2",
        "prediction_id": "request-0",
    }


def test_a_model_without_an_active_version_says_so(shelf: Shelf) -> None:
    shelf.switch()
    assert shelf.runtime.serves_all()
    with pytest.raises(Conflict, match="no_active_model"):
        shelf.runtime.served("m")
    assert shelf.answer(number=1)["prediction"] == "v1"


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "flipped": (flip, "is not what was stored"),
    "truncated": (lambda content: content[:-100], "is not what was stored"),
    "empty": (lambda _: b"", "is not what was stored"),
    "another": (lambda _: skops.io.dumps(Ridge().fit([[0.0]], [0.0])), "is not what was stored"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_the_last_good_version_goes_on_when_the_new_ones_bytes_are_damaged(shelf: Shelf, name: str) -> None:
    damage, reason = DAMAGES[name]
    shelf.switch(m=1)
    newest = shelf.versions["m"][2]
    whole = shelf.path(newest).read_bytes()
    shelf.overwrite(newest, damage(whole))

    [failure] = shelf.switch(m=2)
    assert failure.startswith("m 2: ")
    assert reason in failure
    assert not shelf.runtime.serves_all()
    assert shelf.runtime.catalog.resolve("m").number == 2
    assert shelf.answer()["prediction"] == shelf.answer()["model_version"] == "v1"

    shelf.overwrite(newest, whole)
    assert shelf.switch(m=2) == []
    assert shelf.runtime.serves_all()
    assert shelf.answer()["prediction"] == "v2"


def test_the_last_good_version_goes_on_when_the_new_ones_bytes_are_missing(shelf: Shelf) -> None:
    shelf.switch(m=1)
    shelf.path(shelf.versions["m"][2]).unlink()
    [failure] = shelf.switch(m=2)
    assert "is not in the store" in failure
    assert shelf.answer()["prediction"] == "v1"


@pytest.mark.parametrize(
    "changed",
    [
        {"seal": "0" * 64},
        {"seal": ""},
        {"number": 3},
        {"signature": {}},
    ],
    ids=str,
)
def test_the_last_good_version_goes_on_when_the_new_ones_row_was_changed(shelf: Shelf, changed: dict[str, Any]) -> None:
    shelf.switch(m=1)
    row = replace(shelf.versions["m"][2], **changed)
    versions = {1: shelf.versions["m"][1], row.number: row}
    model = ServedModel("m", row.number, versions)
    [failure] = shelf.runtime.switch(Catalog(9, {"m": model}))
    assert "The version's row is not what was stored." in failure
    assert not shelf.runtime.serves_all()
    assert shelf.answer()["prediction"] == "v1"


def test_a_row_that_names_another_versions_artifact_is_noticed(shelf: Shelf) -> None:
    one, two = shelf.versions["m"].values()
    shelf.versions["m"][2] = replace(two, artifact=one.artifact)
    assert "The version's row is not what was stored." in shelf.switch(m=2)[0]


def test_an_artifact_that_names_what_is_not_in_the_table_is_not_loaded(shelf: Shelf) -> None:
    shelf.switch(m=1)
    shelf.add(estimator=NotServed().fit(FRAME, LABELS))
    assert "names what is not served" in shelf.switch(m=3)[0]
    assert shelf.answer()["prediction"] == "v1"


def test_a_version_that_never_loaded_is_unavailable(shelf: Shelf) -> None:
    shelf.overwrite(shelf.versions["m"][1], b"")
    shelf.switch(m=1)
    with pytest.raises(Unavailable, match="version_not_loaded"):
        shelf.runtime.served("m")


def test_one_damaged_model_does_not_stop_the_others(shelf: Shelf) -> None:
    shelf.overwrite(shelf.add("broken"), b"")
    shelf.add("whole")
    failures = shelf.switch(m=1, broken=1, whole=1)
    assert [failure.partition(":")[0] for failure in failures] == ["broken 1"]
    assert shelf.answer("m")["model"] == "m"
    assert shelf.answer("whole")["model"] == "whole"


def test_returning_to_the_version_that_was_active_loads_nothing(shelf: Shelf) -> None:
    shelf.switch(m=1)
    shelf.switch(m=2)
    # Not even its bytes are needed any more.
    shelf.path(shelf.versions["m"][1]).unlink()
    assert shelf.switch(m=1) == []
    assert shelf.answer()["prediction"] == "v1"
    assert shelf.loads == ["m/1", "m/2"]


def test_a_switch_that_changes_nothing_of_a_model_loads_nothing(shelf: Shelf) -> None:
    shelf.switch(m=1)
    before = shelf.runtime.served("m")
    shelf.add("n")
    shelf.switch(m=1, n=1)
    assert shelf.runtime.served("m") is before
    assert shelf.loads == ["m/1", "n/1"]


def test_a_request_keeps_the_version_it_took_at_its_start(shelf: Shelf) -> None:
    shelf.switch(m=1)
    taken = shelf.runtime.served("m")
    shelf.switch(m=2)
    assert taken.predict([INSTANCE], [""], ["request-0"])[0].document["prediction"] == "v1"
    assert shelf.answer()["prediction"] == "v2"


def test_answers_never_mix_versions_while_they_are_switched(shelf: Shelf) -> None:
    shelf.switch(m=1)
    switches, done, answered = 50, threading.Event(), threading.Semaphore(0)

    def ask() -> set[tuple[str, str, str]]:
        seen = set()
        while not done.is_set():
            loaded = shelf.runtime.served("m")
            for answer in loaded.predict([INSTANCE, INSTANCE], ["/0", "/1"], ["0", "1"]):
                document = answer.document
                best = max(document["probabilities"], key=document["probabilities"].__getitem__)
                seen.add((document["model_version"], document["prediction"], best))
            answered.release()
        return seen

    def switch(number: int) -> list[str]:
        # Somebody answers between two switches, and others are in the middle of it.
        while answered.acquire(blocking=False):
            pass
        assert answered.acquire(timeout=60)
        return shelf.switch(m=1 + number % 2)

    with ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask) for _ in range(4)]
        try:
            failures = [switch(number) for number in range(switches)]
        finally:
            done.set()
        seen = set().union(*(each.result() for each in asking))
    assert failures == [[]] * switches
    assert seen == {("v1", "v1", "v1"), ("v2", "v2", "v2")}
    assert shelf.loads == ["m/1", "m/2"]


# --- Versions that are asked for by number --------------------------------------------------------------------


def test_a_version_asked_for_by_number_is_loaded_once_however_many_ask_at_once(shelf: Shelf) -> None:
    shelf.switch(m=1)
    together = threading.Barrier(8)

    def ask(_: int) -> LoadedVersion:
        together.wait()
        return shelf.runtime.served("m", 2)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, range(8)))
    assert all(each is found[0] for each in found)
    assert shelf.loads == ["m/1", "m/2"]
    assert shelf.answer(number=2)["prediction"] == "v2"
    assert shelf.answer()["prediction"] == "v1"


def test_the_active_version_asked_for_by_number_is_the_same_one(shelf: Shelf) -> None:
    shelf.switch(m=1)
    assert shelf.runtime.served("m", 1) is shelf.runtime.served("m")


def test_a_version_that_was_loaded_by_number_is_not_loaded_again_when_activated(shelf: Shelf) -> None:
    shelf.switch(m=1)
    loaded = shelf.runtime.served("m", 2)
    shelf.switch(m=2)
    assert shelf.runtime.served("m") is loaded


def test_versions_beside_the_active_ones_are_bounded(shelf: Shelf) -> None:
    for _ in range(MOST_EXTRA_VERSIONS + 2):
        shelf.add()
    shelf.switch(m=1)
    numbers = range(2, len(shelf.versions["m"]) + 1)
    for number in numbers:
        assert shelf.answer(number=number)["prediction"] == f"v{number}"
        assert len(shelf.runtime._extra) <= MOST_EXTRA_VERSIONS
    assert shelf.answer()["prediction"] == "v1"
    before = len(shelf.loads)
    # The oldest one had to go, and comes back when it is asked for.
    assert shelf.answer(number=numbers[-1])["prediction"] == f"v{numbers[-1]}"
    assert len(shelf.loads) == before
    assert shelf.answer(number=2)["prediction"] == "v2"
    assert len(shelf.loads) == before + 1


def test_a_damaged_version_asked_for_by_number_is_refused_and_can_be_repaired(shelf: Shelf) -> None:
    shelf.switch(m=1)
    other = shelf.versions["m"][2]
    whole = shelf.path(other).read_bytes()
    shelf.overwrite(other, flip(whole))
    for _ in range(2):
        with pytest.raises(Unavailable, match="artifact_damaged"):
            shelf.runtime.served("m", 2)
    assert shelf.runtime.serves_all()
    shelf.overwrite(other, whole)
    assert shelf.answer(number=2)["prediction"] == "v2"


def test_a_stored_file_that_is_no_model_is_refused_without_its_inner_error(shelf: Shelf) -> None:
    shelf.switch(m=1)
    two = shelf.versions["m"][2]
    digest = shelf.store.put(b"not a model")
    seal = artifacts.seal(SECRET, "m", 2, digest, two.signature)
    shelf.versions["m"][2] = replace(two, artifact=digest, seal=seal)
    shelf.switch(m=1)
    with pytest.raises(Unavailable, match="version_not_loadable"):
        shelf.runtime.served("m", 2)


def test_an_unknown_model_or_version_is_not_found(shelf: Shelf) -> None:
    shelf.switch(m=1)
    with pytest.raises(NotFound, match="unknown_version"):
        shelf.runtime.served("m", 3)
    with pytest.raises(NotFound, match="unknown_model"):
        shelf.runtime.served("n")
    with pytest.raises(NotFound, match="unknown_model"):
        shelf.runtime.served("n", 1)


# --- One request ------------------------------------------------------------------------------------------


def loaded_version(estimator: Any) -> LoadedVersion:
    signature = learn(estimator, assemble, reference=FRAME, declared=()).signature
    version = ServedVersion("m", 1, "1", "", "", {})
    return LoadedVersion(version, signature, Checker(signature), Predictor(estimator, signature), 0.0)


def test_each_answer_has_its_row_and_its_id() -> None:
    loaded = loaded_version(LogisticRegression().fit(FRAME, LABELS))
    answers = loaded.predict([INSTANCE, {"b": 2, "a": 1}], ["/0", "/1"], ["first", "second"])
    assert [answer.document["prediction_id"] for answer in answers] == ["first", "second"]
    assert [answer.row for answer in answers] == [(0.5, -1.0), (1.0, 2.0)]


def test_an_answer_has_warnings_only_when_there_are_some() -> None:
    loaded = loaded_version(LogisticRegression().fit(FRAME, LABELS))
    plain, strange = loaded.predict([INSTANCE, {"a": 0, "b": 99}], ["/0", "/1"], ["0", "1"])
    assert "warnings" not in plain.document
    assert [(each["feature"], each["code"]) for each in strange.document["warnings"]] == [
        ("b", "outside_observed_range")
    ]


def test_problems_of_all_instances_are_reported_before_anything_is_predicted() -> None:
    loaded = loaded_version(LogisticRegression().fit(FRAME, LABELS))
    with pytest.raises(Invalid) as caught:
        loaded.predict([{"a": 1}, INSTANCE, {"a": "x", "b": 1}], ["/i/0", "/i/1", "/i/2"], ["0", "1", "2"])
    assert {problem.pointer for problem in caught.value.problems} == {"/i/0/b", "/i/2/a"}


# --- The predictor ----------------------------------------------------------------------------------------


def predictor(estimator: Any, frame: pd.DataFrame = FRAME) -> Predictor:
    return Predictor(estimator, learn(estimator, assemble, reference=frame, declared=()).signature)


def rows_of(frame: pd.DataFrame) -> list[Row]:
    return list(frame.itertuples(index=False, name=None))


def outcomes(estimator: Any, frame: pd.DataFrame = FRAME) -> list[Outcome]:
    return predictor(estimator, frame).predict(rows_of(frame), [""] * len(frame))


@pytest.mark.parametrize(
    ("classes", "kind"),
    [
        ([0, 1, 2], int),
        (["red", "green", "blue"], str),
        ([0.0, 1.0, 2.0], float),
        ([False, True, True], bool),
        (np.array(["x", "y", "z"], dtype=object), str),
        (np.array([1, 2, 3], dtype=np.uint8), int),
    ],
    ids=str,
)
def test_labels_and_probabilities_are_plain_json_values(classes: Any, kind: type) -> None:
    labels = np.asarray(classes)[LABELS]
    estimator = DecisionTreeClassifier(max_depth=2).fit(FRAME, labels)
    found = outcomes(estimator)
    assert {type(outcome.prediction) for outcome in found} == {kind}
    assert [outcome.prediction for outcome in found] == estimator.predict(FRAME).tolist()
    table = estimator.predict_proba(FRAME).tolist()
    for outcome, row in zip(found, table, strict=True):
        assert list(outcome.probabilities.items()) == list(zip(map(str, estimator.classes_.tolist()), row, strict=True))
        assert {type(share) for share in outcome.probabilities.values()} == {float}
        assert outcome.probability == outcome.probabilities[str(outcome.prediction)] == max(row)
    assert json.loads(json.dumps([outcome.probabilities for outcome in found], allow_nan=False))


def test_a_regressor_gives_plain_floats_and_no_probabilities() -> None:
    estimator = Ridge().fit(FRAME, FRAME["a"])
    found = outcomes(estimator)
    assert [outcome.prediction for outcome in found] == estimator.predict(FRAME).tolist()
    assert {type(outcome.prediction) for outcome in found} == {float}
    assert {(outcome.probability, outcome.probabilities) for outcome in found} == {(None, None)}


@pytest.mark.parametrize(
    "estimator", [MultiOutputClassifier(LogisticRegression()), ClassifierChain(LogisticRegression())]
)
def test_several_outputs_are_objects_by_name(estimator: Any) -> None:
    targets = np.column_stack([LABELS == 1, LABELS == 2]).astype(int)
    estimator.fit(FRAME, targets)
    predicted = estimator.predict(FRAME).tolist()
    for outcome, labels in zip(outcomes(estimator), predicted, strict=True):
        assert outcome.prediction == {"y0": labels[0], "y1": labels[1]}
        for name, label in outcome.prediction.items():
            shares = outcome.probabilities[name]
            assert list(shares) == ["0", "1"]
            assert math.isclose(sum(shares.values()), 1.0)
            assert outcome.probability[name] == shares[str(int(label))] >= 0.5


def test_answers_do_not_depend_on_what_else_is_asked() -> None:
    estimator = make_pipeline(StandardScaler(), DecisionTreeClassifier(max_depth=3)).fit(FRAME, LABELS)
    made = predictor(estimator)
    alone = [made.predict([row], [""])[0] for row in rows_of(FRAME)]
    assert alone == outcomes(estimator)


# An overflow is numpy's warning; pytest would make an error of it.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("sent", [1e10, -1e10])
def test_an_answer_that_is_no_finite_number_is_refused(sent: float) -> None:
    estimator = LinearRegression().fit(FRAME, FRAME["a"])
    made = predictor(estimator)
    estimator.coef_ = np.array([1e308, 0.0])
    assert math.isfinite(made.predict([(0.5, 0.0)], [""])[0].prediction)
    with pytest.raises(Invalid) as caught:
        made.predict([(0.5, 0.0), (sent, 0.0)], ["/0", "/1"])
    assert caught.value.code == "prediction_not_finite"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_one_output_of_several_that_is_not_finite_is_refused() -> None:
    estimator = LinearRegression().fit(FRAME, FRAME)
    made = predictor(estimator)
    estimator.coef_ = np.array([[1.0, 0.0], [0.0, 1e308]])
    with pytest.raises(Invalid, match="prediction_not_finite"):
        made.predict([(0.5, 1e10)], [""])


def test_what_the_model_itself_refuses_is_reported_row_by_row() -> None:
    frame = pd.DataFrame({"c": ["red", "green", "blue"] * 10})
    estimator = make_pipeline(OneHotEncoder(handle_unknown="error"), LogisticRegression()).fit(frame, LABELS)
    made = predictor(estimator, frame)
    sent: list[Row] = [("red",), ("violet",), ("blue",), (None,)]
    with pytest.raises(Invalid) as caught:
        made.predict(sent, [f"/instances/{number}" for number in range(4)])
    assert caught.value.code == "model_refused_input"
    assert [(problem.pointer, problem.code) for problem in caught.value.problems] == [
        ("/instances/1", "model_refused_input"),
        ("/instances/3", "model_refused_input"),
    ]
    assert "violet" not in caught.value.detail
    assert [outcome.prediction for outcome in made.predict(sent[:1], [""])] == [0]


# --- The estimator's input ------------------------------------------------------------------------------------


def described(*features: Feature, container: Any = "frame") -> Signature:
    return Signature(features, container, "regression", (Output("prediction"),))


@pytest.mark.parametrize(
    ("kind", "missing", "values", "dtype"),
    [
        ("number", "nan", [1.0, None], "float64"),
        ("integer", "nan", [1.0, 2.0], "float64"),
        ("boolean", "nan", [True, False], "bool"),
        ("boolean", "nan", [True, None], "object"),
        ("string", "nan", ["a", None], "object"),
        ("string", "none", ["a", None], "object"),
    ],
)
def test_a_frames_columns_have_the_types_of_their_kinds(
    kind: Kind, missing: Any, values: Sequence[Any], dtype: str
) -> None:
    signature = described(Feature("x", kind, nullable=True, missing=missing))
    column = assemble(signature, [(value,) for value in values])["x"]
    assert str(column.dtype) == dtype
    for value, put in zip(values, column.tolist(), strict=True):
        if value is not None or missing == "none":
            assert put is value or put == value
        else:
            assert isinstance(put, float)
            assert math.isnan(put)


def test_a_frames_columns_are_in_the_signatures_order() -> None:
    signature = described(Feature("b"), Feature("a", "string"), Feature("c", "boolean"))
    assert list(assemble(signature, [(1.0, "x", True)])) == ["b", "a", "c"]


def test_an_array_lies_in_memory_as_people_make_it() -> None:
    matrix = assemble(described(Feature("a"), Feature("b"), container="array"), [(1.0, 2.0), (3.0, None)])
    assert matrix.shape == (2, 2)
    assert matrix.dtype == np.float64
    assert matrix.flags.c_contiguous
    np.testing.assert_array_equal(matrix, [[1.0, 2.0], [3.0, math.nan]])


def test_text_is_a_list_of_strings() -> None:
    assert assemble(described(Feature("text", "string"), container="text"), [("a",), ("b",)]) == ["a", "b"]


def test_one_row_in_thousands_that_the_estimator_refuses_is_found_in_few_attempts() -> None:
    class Picky(LinearRegression):
        calls = 0

        def predict(self, X: Any) -> Any:  # noqa: N803 - as scikit-learn
            type(self).calls += 1
            if (np.asarray(X) == 777).any():
                message = "not 777"
                raise ValueError(message)
            return super().predict(X)

    estimator = Picky().fit([[0.0], [1.0]], [0.0, 1.0])
    signature = Signature((Feature("x0"),), "array", "regression", (Output("prediction"),))
    rows = [(float(number),) for number in range(4096)]
    pointers = [f"/instances/{number}" for number in range(4096)]
    with pytest.raises(Invalid) as caught:
        Predictor(estimator, signature).predict(rows, pointers)
    assert [problem.pointer for problem in caught.value.problems] == ["/instances/777"]
    assert Picky.calls <= 1 + 2 * 13
