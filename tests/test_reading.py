"""Tests of reading a pickle without running it: hostile files are refused with all findings, honest ones are not."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sklearn
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn import ensemble, linear_model, naive_bayes, neighbors, neural_network, preprocessing, svm, tree
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_iris
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.experimental import enable_iterative_imputer  # noqa: F401 - makes the next line possible
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor, kernels
from sklearn.impute import IterativeImputer, SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from tests import attacks
from tests.faults import mutations
from webapp import names
from webapp.errors import Invalid
from webapp.intake import reading
from webapp.intake.formats import unpack
from webapp.intake.reading import calls

ROOT = Path(__file__).parent.parent
PROTOCOLS = (2, 3, 4, 5)
MIB = 1024**2


def refusal(content: bytes) -> Invalid:
    """Read a file that must be refused; give the refusal."""
    with pytest.raises(Invalid) as raised:
        reading.read(content, names.PICKLE)
    assert "Nothing in the file was run." in raised.value.detail
    assert found(raised.value)
    return raised.value


def found(refused: Invalid) -> list[dict[str, Any]]:
    findings = refused.more["findings"]
    assert isinstance(findings, list)
    return findings


def named(refused: Invalid) -> set[str]:
    return {finding["name"] for finding in found(refused)}


def code(content: bytes) -> str:
    return refusal(content).code


# --- Honest files -----------------------------------------------------------------------------------------


X, Y = load_iris(return_X_y=True)
WORDS = np.array(["one", "two", "three"])[Y]
TEXTS = ["one two three", "two three four", "five one", "six"] * 10
PLACES = np.array([["Bonn"], ["Rome"], ["Oslo"]] * 50, dtype=object)
LOGISTIC_MODEL = LogisticRegression(max_iter=500)
COLUMNS = ColumnTransformer([("a", preprocessing.StandardScaler(), slice(0, 2)), ("b", "drop", [3])])
RANDOM = np.random.RandomState(0)
WEIGHTED = {"metric": "seuclidean", "metric_params": {"V": np.ones(4)}}
# Estimators and their data, among them each whose state is read by compiled code.
KINDS: dict[str, tuple[Any, ...]] = {
    "logistic": (LOGISTIC_MODEL, X, WORDS),
    "routed": (LOGISTIC_MODEL, X, Y),
    "forest": (RandomForestClassifier(5, random_state=RANDOM), X, WORDS),
    "tree": (tree.DecisionTreeRegressor(), X, Y),
    "boosting": (HistGradientBoostingClassifier(max_iter=3, early_stopping=True, scoring=None), X, Y),
    "gradient": (ensemble.GradientBoostingClassifier(n_estimators=3), X, Y),
    "isolation": (ensemble.IsolationForest(n_estimators=5), X),
    "balls": (neighbors.KNeighborsClassifier(algorithm="ball_tree"), X, Y),
    "boxes": (neighbors.KNeighborsRegressor(algorithm="kd_tree", metric="minkowski", p=3), X, Y),
    "distances": (neighbors.KNeighborsClassifier(**WEIGHTED), X, Y),
    "vectors": (svm.SVC(), X, Y),
    "descent": (linear_model.SGDClassifier(), X, WORDS),
    "layers": (neural_network.MLPClassifier(max_iter=300, tol=0.1, early_stopping=True), X, Y),
    "bayes": (naive_bayes.GaussianNB(), X, Y),
    "text": (make_pipeline(TfidfVectorizer(), linear_model.RidgeClassifier()), TEXTS, [0, 1, 0, 1] * 10),
    "sparse": (neighbors.KNeighborsClassifier(), scipy.sparse.csr_matrix(X), Y),
    "columns": (make_pipeline(COLUMNS, LOGISTIC_MODEL), X, Y),
    "encoder": (make_pipeline(SimpleImputer(strategy="most_frequent"), preprocessing.OneHotEncoder()), PLACES),
    "splines": (preprocessing.SplineTransformer(), X),
    "imputer": (IterativeImputer(max_iter=2, tol=1.0), np.where(X > 6, np.nan, X)),
    "process": (GaussianProcessRegressor(kernels.RBF() + kernels.WhiteKernel(), alpha=0.1, optimizer=None), X, Y),
    "target": (TransformedTargetRegressor(linear_model.Ridge(), func=np.log1p, inverse_func=np.expm1), X, Y),
    "search": (GridSearchCV(LOGISTIC_MODEL, {"C": range(1, 3)}, scoring="f1_macro", cv=2), X, Y),
    "flags": (preprocessing.OrdinalEncoder(), X > 3),
}


@cache
def fitted(kind: str) -> Any:
    """Fit an estimator; one of them refers back to itself."""
    estimator, *data = KINDS[kind]
    found = clone(estimator).fit(*data)
    if kind == "routed":
        with sklearn.config_context(enable_metadata_routing=True):
            found.set_fit_request(sample_weight=True)
    return found


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("kind", KINDS)
def test_honest_files_are_read_to_their_end(kind: str, protocol: int) -> None:
    estimator = fitted(kind)
    for content in (pickle.dumps(estimator, protocol), attacks.dumped(estimator, protocol=protocol)):
        read = reading.read(content, names.PICKLE)
        assert read.library == sklearn.__version__
        assert read.names <= names.PICKLE
        assert type(estimator).__module__ + "." + type(estimator).__name__ in read.names
        assert read.objects
        assert read.claimed_bytes <= len(content) * 8


@pytest.mark.parametrize("method", ["zlib", "gzip", "bz2", "xz", "lzma"])
@pytest.mark.parametrize("kind", ["logistic", "forest", "encoder"])
def test_honest_files_are_read_in_every_compression(kind: str, method: str) -> None:
    content = unpack(attacks.dumped(fitted(kind), compress=(method, 3))).content
    assert reading.read(content, names.PICKLE).library == sklearn.__version__


def test_what_is_made_without_being_called_is_written_in_python() -> None:
    """Classes of compiled code have no meaning before `__init__`, and would be used all the same."""
    for full in names.PICKLE:
        try:
            calls.make(full, [])
        except calls.Unusual:
            continue
        module, _, name = full.rpartition(".")
        cls = getattr(import_module(module), name)
        assert isinstance(cls, type), full
        assert str(inspect.getsourcefile(cls)).endswith(".py"), full


def test_what_may_be_called_stands_in_the_table() -> None:
    present = {name.replace("__builtin__", "builtins") for name in names.PICKLE}
    assert set(calls.CALLS) <= present


def test_the_oldest_version_in_a_file_is_told() -> None:
    old, new = LogisticRegression(), LogisticRegression()
    content = pickle.dumps([old, new], 4)
    first = content.index(sklearn.__version__.encode())
    # The second refers to the first one's text: so both are old now.
    aged = content[:first] + b"0" * len(sklearn.__version__) + content[first + len(sklearn.__version__) :]
    assert reading.read(aged, names.PICKLE).library == "0" * len(sklearn.__version__)
    states = [
        attacks.named("sklearn.pipeline.Pipeline")
        + b")\x81}"
        + attacks.text("_sklearn_version")
        + attacks.text(version)
        + b"sb"
        for version in ("1.10.1", "1.9.1", "1.9.2")
    ]
    assert reading.read(attacks.pickled(b"(" + b"".join(states) + b"t"), names.PICKLE).library == "1.9.1"


# --- S1, S2: names ----------------------------------------------------------------------------------------


def test_there_are_many_unsafe_names() -> None:
    assert len(set(attacks.UNSAFE)) * len(attacks.WAYS) >= 150
    assert not names.PICKLE.intersection(attacks.UNSAFE)


@pytest.mark.parametrize("way", attacks.WAYS)
def test_every_unsafe_name_is_refused_in_every_way_and_named(way: str) -> None:
    for full in attacks.UNSAFE:
        for protocol in PROTOCOLS:
            refused = refusal(attacks.pickled(attacks.WAYS[way](full), protocol))
            assert refused.code == "model_unknown_names", full
            assert full in named(refused)


def test_names_from_texts_are_refused_as_well() -> None:
    for full in attacks.UNSAFE:
        module, _, attribute = full.rpartition(".")
        refused = refusal(attacks.pickled(attacks.stacked(module, attribute) + attacks.text("true") + b"\x85R"))
        assert refused.code == "model_unknown_names"
        assert full in named(refused)


def test_protocol_0_is_refused_and_the_names_in_it_are_told() -> None:
    refused = refusal(b"cposix\nsystem\np0\n(S'true'\np1\ntp2\nRp3\n.")
    assert refused.code == "model_unknown_names"
    assert "posix.system" in named(refused)
    assert code(b"(lp0\nI1\na.") == "model_format_too_old"


@pytest.mark.parametrize(
    ("module", "attribute"),
    [
        ("sklearn.tree", "_classes.DecisionTreeClassifier"),
        ("sklearn", "tree._tree.Tree"),
        ("sklearn.linear_model._logistic.LogisticRegression", "fit"),
        ("sklearn.pipeline", "Pipeline.__init__.__globals__"),
        ("numpy", "dtype.type"),
        ("", "numpy.dtype"),
        ("numpy ", "dtype"),
        ("numpy", "dtype "),
        ("numpy\n", "dtype"),
        ("numpy", "ndarray\x00"),
        ("\uff4eumpy", "dtype"),
        ("numpy", ""),
    ],
)
def test_names_that_only_resemble_those_of_the_table_are_refused(module: str, attribute: str) -> None:
    assert code(attacks.pickled(attacks.stacked(module, attribute))) == "model_unknown_names"


def test_what_hides_behind_arrays_is_found(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    call = attacks.Calls(os.system, f"touch {marker}")
    for protocol in PROTOCOLS:
        for content in (
            attacks.dumped([np.arange(1000.0), call], protocol=protocol),
            attacks.dumped(
                [np.arange(1000.0, dtype=">f4")[::2], np.asfortranarray(np.eye(3)), call], protocol=protocol
            ),
            attacks.in_an_array(call),
        ):
            refused = refusal(content)
            assert refused.code == "model_unknown_names"
            assert "posix.system" in named(refused)
    for method in ("zlib", "gzip", "bz2", "xz", "lzma"):
        packed = attacks.dumped([np.arange(1000.0), call], compress=(method, 3))
        assert "posix.system" in named(refusal(bytes(unpack(packed).content)))
    assert not marker.exists()


def test_a_file_with_functions_of_ones_own_is_told_so() -> None:
    refused = refusal(attacks.pickled(b"(" + attacks.named("__main__.clean") + attacks.named("__main__.Model") + b"t"))
    assert refused.code == "model_custom_code"
    assert {finding["meaning"].split(";")[0] for finding in found(refused)} == {"A function or class of your own"}
    mixed = attacks.pickled(b"(" + attacks.named("__main__.clean") + attacks.named("os.system") + b"t")
    assert code(mixed) == "model_unknown_names"


def test_all_names_are_reported_with_their_places() -> None:
    bad = ["os.system", "__main__.clean", "xgboost.sklearn.XGBClassifier"]
    between = attacks.named("numpy.ndarray") + attacks.text("os.system")
    content = attacks.pickled(b"(" + between + b"".join(attacks.reduced(name) + between for name in bad * 2) + b"t")
    refused = refusal(content)
    wanted = [{"name": name, "offset": content.index(attacks.named(name))} for name in bad]
    assert [{key: finding[key] for key in ("name", "offset")} for finding in found(refused)] == wanted
    assert all(name in refused.detail for name in bad)
    assert "Belongs to another library" in found(refused)[2]["meaning"]


def test_at_most_a_hundred_findings_are_listed_and_the_rest_is_counted() -> None:
    content = attacks.pickled(b"(" + b"".join(attacks.named(f"evil.f{number}") for number in range(1250)) + b"t")
    refused = refusal(content)
    assert len(found(refused)) == 100
    assert "1,150 more" in refused.detail
    assert len(json.dumps(refused.more)) < 100_000
    many = attacks.pickled(b"N" + b"N0" * 5000 + attacks.reduced("os.system") + b"0")
    assert "os.system" in named(refusal(many))


def test_names_are_told_in_plain_characters() -> None:
    refused = refusal(attacks.pickled(attacks.stacked("evil\x1b[2J\u202e<b>", "x" * 100_000)))
    assert found(refused)[0]["name"].startswith("evil\\x1b[2J\\u202e<b>.xxx")
    assert len(found(refused)[0]["name"]) <= 220


# --- Allowed names in a way that no honest file uses --------------------------------------------------------

NDARRAY = attacks.named("numpy.ndarray")
RECONSTRUCT = attacks.named("numpy._core.multiarray._reconstruct")
EMPTY_ARRAY = RECONSTRUCT + NDARRAY + b"K\x00\x85C\x01b\x87R"
F8 = attacks.dtype_of("f8")
LOGISTIC = attacks.named("sklearn.linear_model._logistic.LogisticRegression") + b")\x81"
TREE = attacks.named("sklearn.tree._tree.Tree")
MISUSED = {
    "a metric is called": attacks.named("sklearn.metrics._classification.accuracy_score") + b")R",
    "an estimator is called": attacks.named("sklearn.pipeline.Pipeline") + b")R",
    "NumPy's function is called": attacks.named("numpy.log1p") + b"K\x01\x85R",
    "an array is called": NDARRAY + b"K\x09\x85\x85R",
    "a codec is loaded": attacks.named("_codecs.encode") + attacks.text("x") + attacks.text("rot13") + b"\x86R",
    "text is called": attacks.text("numpy.log1p") + b")R",
    "a result is called": LOGISTIC + b")R",
    "an array of another class": RECONSTRUCT + attacks.named("numpy.ma.MaskedArray") + b"K\x00\x85C\x01b\x87R",
    "an array of a size": RECONSTRUCT + NDARRAY + b"K\x09\x85C\x01b\x87R",
    "an array without a state": EMPTY_ARRAY + b"\x85",
    "an array of fewer bytes": EMPTY_ARRAY + b"(K\x01K\x02\x85" + F8 + b"\x89C\x0812345678tb",
    "an array of more bytes": EMPTY_ARRAY + b"(K\x01K\x00\x85" + F8 + b"\x89C\x0812345678tb",
    "an array of a negative size": EMPTY_ARRAY + b"(K\x01J\xff\xff\xff\xff\x85" + F8 + b"\x89C\x0812345678tb",
    "an array of objects in bytes": EMPTY_ARRAY
    + b"(K\x01K\x01\x85"
    + attacks.dtype_of("O8", b"J\xff\xff\xff\xff" * 2 + b"K?")
    + b"\x89C\x0812345678tb",
    "an array of numbers in a list": EMPTY_ARRAY + b"(K\x01K\x01\x85" + F8 + b"\x89]K\x01atb",
    "truth values of 2": EMPTY_ARRAY + b"(K\x01K\x02\x85" + attacks.dtype_of("b1") + b"\x89C\x02\x00\x02tb",
    "a state given twice": EMPTY_ARRAY + (b"(K\x01K\x01\x85" + F8 + b"\x89C\x0812345678tb") * 2,
    "numbers flagged as objects": attacks.dtype_of("f8", b"J\xff\xff\xff\xff" * 2 + b"K\x3f"),
    "numbers of another size": attacks.dtype_of("f8", b"K\x01J\xff\xff\xff\xffK\x00"),
    "objects without their flags": attacks.dtype_of("O8"),
    "a type that is parsed": attacks.named("numpy.dtype") + attacks.text("f8,O") + b"\x89\x88\x87R",
    "a type of no size": attacks.named("numpy.dtype") + attacks.text("U0") + b"\x89\x88\x87R",
    "a type from a class": attacks.named("numpy.dtype") + NDARRAY + b"\x89\x88\x87R",
    "a type without a state": attacks.named("numpy.dtype") + attacks.text("f8") + b"\x89\x88\x87R\x85",
    "a scalar of fewer bytes": attacks.named("numpy._core.multiarray.scalar") + F8 + b"C\x041234\x86R",
    "a scalar of objects": attacks.named("numpy._core.multiarray.scalar")
    + attacks.dtype_of("O8", b"J\xff\xff\xff\xff" * 2 + b"K?")
    + b"N\x86R",
    "a tree that is not called": TREE + b")\x81",
    "a tree of no sizes": TREE + b"K\x01NK\x01\x87R",
    "a tree of neighbours that is not complete": attacks.named("sklearn.neighbors._kd_tree.newObj")
    + attacks.named("sklearn.neighbors._kd_tree.KDTree")
    + b"\x85R\x85",
    "a class of another module": attacks.named("sklearn.neighbors._kd_tree.newObj")
    + attacks.named("sklearn.neighbors._ball_tree.BallTree")
    + b"\x85R",
    "a function that is made": attacks.named("sklearn.metrics._classification.accuracy_score") + b")\x81",
    "an estimator with arguments": attacks.named("sklearn.pipeline.Pipeline") + b"N\x85\x81",
    "a class with a state": attacks.named("sklearn.pipeline.Pipeline") + b"}" + attacks.text("x") + b"Nsb",
    "a list with a state": b"]}b",
    "a state that is no dict": LOGISTIC + b"]b",
    "a state in slots": LOGISTIC + b"N}" + attacks.text("coef_") + b"Ns\x86b",
    "a state with odd keys": LOGISTIC + b"}K\x01Nsb",
    "a state that sets the class": LOGISTIC
    + b"}"
    + attacks.text("__class__")
    + attacks.named("sklearn.pipeline.Pipeline")
    + b"sb",
    "a state that sets a method": LOGISTIC + b"}" + attacks.text("predict") + attacks.named("numpy.log1p") + b"sb",
    "one state for two": b"(}" + attacks.text("C") + b"K\x01sq\x000" + (LOGISTIC + b"h\x00b") * 2 + b"t",
    "items in no dict": b"]K\x01K\x02s",
    "values in no list": b"}K\x01a",
    "keys in an estimator": LOGISTIC + b"K\x01K\x02s",
    "a list in itself": b"]q\x00h\x00a",
    "a list that changes later": b"]q\x00\x85(h\x00K\x01at",
    "a range of text": attacks.named("builtins.range") + attacks.text("x") + b"\x85R",
    "a generator by name": attacks.named("numpy.random._pickle.__bit_generator_ctor")
    + attacks.text("Philox")
    + b"\x85R",
    "a generator without its state": attacks.named("numpy.random._pickle.__bit_generator_ctor")
    + attacks.named("numpy.random._mt19937.MT19937")
    + b"\x85R\x85",
    "an object outside": b"K\x01Q",
    "an object outside, as text": b"Pdatabase\n",
    "an extension": b"\x82\x01",
    "another buffer": b"\x97",
    "values thrown away": b"NN0",
    "a value doubled": b"]2\x86",
    "memory out of order": b"Nq\x05",
    "two values": b"NN",
    "a wrapper with a method": attacks.wrapper(F8, b"K\x02\x85", attacks.text("read") + attacks.named("numpy.log1p"))
    + b"\x0f"
    + b"\xff" * 15
    + bytes(16),
    "a wrapper of nothing": attacks.named("joblib.numpy_pickle.NumpyArrayWrapper") + b")\x81}b",
    "a long number": b"\x8b\x02\x00\x00\x00\x01\x01",
    "Python 2's name in Python 3": attacks.named("__builtin__.object"),
}


@pytest.mark.parametrize("case", MISUSED)
def test_names_of_the_table_are_refused_when_misused(case: str) -> None:
    assert code(attacks.pickled(MISUSED[case])) == "model_structure_invalid"


def test_a_position_beyond_the_key_of_random_numbers_is_refused() -> None:
    content = pickle.dumps(preprocessing.QuantileTransformer(random_state=np.random.RandomState(0)), 2)
    assert reading.read(content, names.PICKLE)
    at = content.index(b"X\x03\x00\x00\x00pos") + 8
    put = content.index(b"M\x70\x02", at)
    assert code(content[:put] + b"M\x71\x02" + content[put + 3 :]) == "model_structure_invalid"


def test_a_tree_that_claims_more_nodes_than_it_has_is_refused() -> None:
    content = pickle.dumps(tree.DecisionTreeClassifier(max_depth=1).fit([[0], [1]], [0, 1]), 2)
    at = content.index(b"node_count")
    put = content.index(b"K\x03", at)
    assert code(content[:put] + b"K\x7f" + content[put + 2 :]) == "model_structure_invalid"


# --- S3: old files ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["NDArrayWrapper", "ZNDArrayWrapper"])
def test_arrays_in_files_of_their_own_are_too_old(name: str) -> None:
    refused = refusal(attacks.old_array(name, "/etc/passwd"))
    assert refused.code == "model_format_too_old"
    assert named(refused) == {f"joblib.numpy_pickle.{name}"}


# --- S4: claims -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        attacks.claiming(10**11),
        attacks.claiming(2**61),
        attacks.nested(200_000),
        attacks.nested_in_groups(200_000),
        attacks.nested_in_tuples(200_000),
        *(attacks.lengthy(opcode, 2**62) for opcode in attacks.LENGTHY),
        *(attacks.lengthy(opcode, 2**64 - 1) for opcode in attacks.LENGTHY),
    ],
    ids=["1e11 doubles", "2**61 doubles", "lists", "groups", "tuples", *attacks.LENGTHY]
    + [f"{opcode} 2**64" for opcode in attacks.LENGTHY],
)
def test_what_claims_too_much_is_refused(content: bytes) -> None:
    tracemalloc.start()
    assert code(content) == "model_unpacks_too_large"
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 400 * MIB


def test_a_file_of_too_many_values_is_refused() -> None:
    assert code(attacks.pickled(b"N" * 6_000_000)) == "model_unpacks_too_large"


def test_bytes_that_many_arrays_share_are_counted_for_each() -> None:
    size = 4000
    shared = b"B" + size.to_bytes(4, "little") + bytes(size) + b"q\x00" + F8 + b"q\x01"
    array = EMPTY_ARRAY + b"(K\x01M\xf4\x01\x85h\x01\x89h\x00tb"
    assert reading.read(attacks.pickled(b"(" + shared + array * 20 + b"t"), names.PICKLE).claimed_bytes == 20 * size
    assert code(attacks.pickled(b"(" + shared + array * 20_000 + b"t")) == "model_unpacks_too_large"


# --- S5: damage -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("write", [pickle.dumps, attacks.dumped])
def test_a_file_cut_off_anywhere_is_refused(write: Callable[..., bytes], protocol: int) -> None:
    value = [np.arange(3.0), np.array(["a", None], dtype=object), preprocessing.StandardScaler(), "text", 2**80]
    content = write(value, protocol=protocol)
    assert reading.read(content, names.PICKLE)
    codes = {code(content[:end]) for end in range(len(content))}
    assert codes <= {"model_truncated", "model_damaged"}
    assert code(content[: len(content) // 2]) == "model_truncated"


def test_bytes_behind_the_end_are_refused() -> None:
    refused = refusal(pickle.dumps([1]) + b"more")
    assert refused.code == "model_damaged"
    assert "4 bytes lie behind the end" in refused.detail


def test_a_second_pickle_is_refused() -> None:
    content = pickle.dumps([1])
    refused = refusal(content + attacks.pickled(attacks.reduced("os.system")))
    assert refused.code == "model_damaged"
    assert f"A second pickle follows at byte {len(content)}" in refused.detail


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x04\x95\x08\x00\x00\x00\x00\x00\x00\x00N.......",
        b"\x80\x04\x95\x02\x00\x00\x00\x00\x00\x00\x00]\x95\x01\x00\x00\x00\x00\x00\x00\x00..",
        # A frame within a frame, to the byte.
        b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00N\x95\x01\x00\x00\x00\x00\x00\x00\x00.",
        b"\x80\x04\x95\x03\x00\x00\x00\x00\x00\x00\x00\x8c\x04a" + b"bcd.",
        b"\x80\x04N\x80\x05.",
        b"\x80\x06N.",
        b"\x80\x04\xff.",
        b"\x80\x04R.",
        b"\x80\x04\x8c\x02\xff\xfe.",
        b"\x80\x04h\x00.",
        b"\x80\x04}(K\x01u.",
        b"\x80\x04t.",
        b"\x80\x02cos",
    ],
)
def test_streams_that_readers_could_see_differently_are_refused(content: bytes) -> None:
    assert code(content) in {"model_damaged", "model_truncated", "model_unknown_names"}


def test_the_bytes_of_an_array_begin_where_its_frame_ends() -> None:
    body = attacks.wrapper(F8, b"K\x02\x85")
    padding, numbers = b"\x0f" + b"\xff" * 15, bytes(16)
    framed = b"\x95" + len(body).to_bytes(8, "little") + body
    assert reading.read(attacks.pickled(framed + padding + numbers), names.PICKLE).claimed_bytes == 16
    # Here an unpickler would take the array from behind the frame, and run what follows in it.
    longer = b"\x95" + (len(body) + len(padding + numbers)).to_bytes(8, "little") + body
    assert code(attacks.pickled(longer + padding + numbers)) == "model_damaged"


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"\x80\x05"]))
def test_nothing_but_a_refusal_ever_comes_out(content: bytes, head: bytes) -> None:
    try:
        reading.read(head + content, names.PICKLE)
    except Invalid:
        return


# Opcodes and the names of the table, in any order: these come further than bytes by chance do.
PARTS = (
    *(bytes([opcode]) for opcode in b"(t)]}aesuRb.NqhoidlQ012\x81\x85\x86\x87\x88\x89\x8f\x90\x91\x92\x93\x94\x97\x98"),
    b"K\x01", b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"C\x01b", b"C\x0812345678", b"K\x00\x85", b"]q\x00",
    EMPTY_ARRAY, F8, LOGISTIC, TREE, RECONSTRUCT, NDARRAY, attacks.wrapper(F8, b"K\x00\x85"),
    *(attacks.named(name) for name in sorted(calls.CALLS)),
    *(attacks.text(text) for text in ("f8", "predict", "C", "latin1", "numpy", "dtype", "MT19937", "_sklearn_version")),
)  # fmt: skip


@hypothesis_settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=40), st.sampled_from(PROTOCOLS))
def test_nothing_but_a_refusal_comes_out_of_opcodes_either(parts: list[bytes], protocol: int) -> None:
    try:
        reading.read(attacks.pickled(b"".join(parts), protocol), names.PICKLE)
    except Invalid:
        return


def test_mutated_files_are_refused_or_predict(capsys: pytest.CaptureFixture[str]) -> None:
    """The whole run is `python -m tests.faults.mutations`; in a process of its own, since it forks."""
    command = [sys.executable, "-m", "tests.faults.mutations", "--count", "1000", "--seed", "5"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    with capsys.disabled():
        print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


def test_mutations_are_the_same_for_the_same_seed() -> None:
    samples = mutations.samples()
    for number in range(20):
        _, content = mutations.mutated(samples, number)
        assert mutations.mutated(samples, number)[1] == content


# --- Speed ------------------------------------------------------------------------------------------------


def test_large_files_are_read_quickly_and_without_copies(capsys: pytest.CaptureFixture[str]) -> None:
    x, y = np.random.default_rng(0).normal(size=(2000, 10)), np.arange(2000) % 2
    vocabulary = TfidfVectorizer(vocabulary={f"word{number}": number for number in range(200_000)})
    contents = {
        "a forest of 100 trees": attacks.dumped(RandomForestClassifier(100, max_depth=12, n_jobs=1).fit(x, y)),
        "200 MB of arrays": attacks.dumped([np.zeros(25 * 10**6), np.zeros((100, 100))]),
        "200 MB of arrays, by pickle": pickle.dumps([np.zeros(25 * 10**6)], 5),
        "a vocabulary of 200,000 words": pickle.dumps(vocabulary),
    }
    for what, content in contents.items():
        started = time.process_time()
        read = reading.read(content, names.PICKLE)
        seconds = time.process_time() - started
        with capsys.disabled():
            print(f"\n{what}: {len(content):,} bytes, {read.objects:,} values, {seconds:.3f} s")
    tracemalloc.start()
    reading.read(contents["200 MB of arrays"], names.PICKLE)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < MIB
