"""Tests of what is learned about an estimator: asked of real ones, fitted on small data, then served and compared."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.dummy import DummyRegressor
from sklearn.ensemble import (
    HistGradientBoostingClassifier,
    IsolationForest,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.multioutput import ClassifierChain, MultiOutputClassifier, MultiOutputRegressor
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, OrdinalEncoder, StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from webapp.errors import Invalid
from webapp.serving.predictor import Predictor, assemble
from webapp.signature import Feature, Signature, from_dict
from webapp.signature.check import Checker
from webapp.signature.learn import Learned, first_step, learn

COUNT = 40
RANDOM = np.random.default_rng(11)
MATRIX = RANDOM.normal(size=(COUNT, 3)).round(3)
FRAME = pd.DataFrame(MATRIX, columns=["age", "income", "score"])
LABELS = np.tile([0, 1], COUNT // 2)
TWO_LABELS = np.column_stack([LABELS, np.tile([0, 0, 1, 1], COUNT // 4)])
TWO_NUMBERS = np.column_stack([MATRIX.sum(axis=1), MATRIX[:, 0] * 2])
# One column of categories with missing values, one of numbers with missing values, one complete.
MIXED = pd.DataFrame(
    {
        "colour": ["red", "green", "blue", None] * 10,
        "size": [1.0, 2.0, 3.5, math.nan, 5.0] * 8,
        "weight": np.arange(COUNT, dtype=float),
    }
)
TEXTS = ["a good day", "a bad day", "good and bad", "neither"] * 10


def learned_from(
    estimator: Any, reference: pd.DataFrame | None = None, declared: Sequence[Mapping[str, Any]] = ()
) -> Learned:
    """Learn as the trial of an upload does, which keeps scikit-learn's warnings to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return learn(estimator, assemble, reference=reference, declared=declared)


def refusal(
    estimator: Any, reference: pd.DataFrame | None = None, declared: Sequence[Mapping[str, Any]] = ()
) -> Invalid:
    with pytest.raises(Invalid) as caught:
        learned_from(estimator, reference, declared)
    return caught.value


def names(signature: Signature) -> list[str]:
    return [feature.name for feature in signature.features]


def nullable(signature: Signature) -> list[str]:
    return [feature.name for feature in signature.features if feature.nullable]


def named(signature: Signature, name: str) -> Feature:
    return next(feature for feature in signature.features if feature.name == name)


def instances(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """A frame's rows as a client sends them: plain values, null for what is missing."""
    rows = frame.astype(object).to_dict("records")
    return [{str(name): None if pd.isna(value) else value for name, value in row.items()} for row in rows]


def served(estimator: Any, signature: Signature, sent: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What clients get for instances, by the signature as it is stored."""
    stored = from_dict(json.loads(json.dumps(signature.as_dict(), allow_nan=False)))
    pointers = [""] * len(sent)
    rows = Checker(stored).rows(sent, pointers)
    return [outcome.prediction for outcome in Predictor(estimator, stored).predict(rows, pointers)]


def assert_served_exactly(estimator: Any, frame: pd.DataFrame) -> Signature:
    """What is served for a frame's rows is what the estimator says of the frame. Gives what was learned."""
    signature = learned_from(estimator, frame).signature
    assert served(estimator, signature, instances(frame)) == np.asarray(estimator.predict(frame)).tolist()
    return signature


def colours(encoder: Any, chosen: Any = ("colour",)) -> Pipeline:
    """A pipeline that encodes MIXED's colours and ignores the rest."""
    chosen = list(chosen) if isinstance(chosen, tuple) else chosen
    return make_pipeline(ColumnTransformer([("encoded", encoder, chosen)]), KNeighborsClassifier(3)).fit(MIXED, LABELS)


# --- Names ------------------------------------------------------------------------------------------------


def test_names_and_their_order_come_from_the_frame_the_estimator_was_fitted_with() -> None:
    signature = learned_from(LogisticRegression().fit(FRAME, LABELS)).signature
    assert (names(signature), signature.container) == (["age", "income", "score"], "frame")


def test_names_come_from_a_pipelines_first_fitted_step() -> None:
    scaler = StandardScaler().fit(FRAME)
    model = LogisticRegression().fit(scaler.transform(FRAME), LABELS)
    glued = Pipeline([("scaler", scaler), ("model", model)])
    assert names(learned_from(glued).signature) == ["age", "income", "score"]


def test_steps_that_do_nothing_are_not_the_first_step() -> None:
    scaler = StandardScaler()
    inner = Pipeline([("none", None), ("inner", Pipeline([("pass", "passthrough"), ("scaler", scaler)]))])
    assert first_step(inner) is scaler


def test_names_of_an_array_come_from_the_metadata() -> None:
    declared = [{"name": name} for name in ("c", "a", "b")]
    signature = learned_from(LogisticRegression().fit(MATRIX, LABELS), declared=declared).signature
    assert (names(signature), signature.container) == (["c", "a", "b"], "array")


def test_names_of_an_array_come_from_the_references_header() -> None:
    assert names(learned_from(LogisticRegression().fit(MATRIX, LABELS), FRAME).signature) == list(FRAME)


def test_names_in_the_metadata_go_before_those_in_the_reference() -> None:
    declared = [{"name": name} for name in ("score", "age", "income")]
    signature = learned_from(LogisticRegression().fit(MATRIX, LABELS), FRAME, declared).signature
    assert names(signature) == ["score", "age", "income"]


def test_an_array_without_names_has_numbered_features() -> None:
    assert names(learned_from(LogisticRegression().fit(MATRIX, LABELS)).signature) == ["x0", "x1", "x2"]


def test_the_order_of_the_metadata_does_not_change_the_estimators() -> None:
    declared = [{"name": "score", "minimum": 1}, {"name": "age", "minimum": 2}]
    signature = learned_from(LogisticRegression().fit(FRAME, LABELS), declared=declared).signature
    assert [(feature.name, feature.minimum) for feature in signature.features] == [
        ("age", 2),
        ("income", None),
        ("score", 1),
    ]


def test_columns_of_a_reference_are_found_by_name_and_others_are_passed_over() -> None:
    reference = FRAME[["score", "age", "income"]].assign(target=LABELS)
    signature = learned_from(LogisticRegression().fit(FRAME, LABELS), reference).signature
    assert names(signature) == ["age", "income", "score"]
    assert named(signature, "score").observed_maximum == FRAME["score"].max()


def test_numbers_in_a_references_header_are_names() -> None:
    learned = learned_from(LogisticRegression().fit(MATRIX, LABELS), pd.DataFrame(MATRIX))
    assert names(learned.signature) == ["0", "1", "2"]


def test_without_a_reference_the_uploader_is_told_so() -> None:
    model = LogisticRegression().fit(FRAME, LABELS)
    assert learned_from(model).notes == ["no_reference"]
    assert learned_from(model, FRAME).notes == []


def test_an_estimator_that_knows_no_features_needs_names() -> None:
    model = DummyRegressor().fit([1, 2, 3], [4.0, 5.0, 6.0])
    assert refusal(model).code == "model_features_unknown"
    assert names(learned_from(model, declared=[{"name": "anything"}]).signature) == ["anything"]


# --- Categories -------------------------------------------------------------------------------------------


def test_an_encoder_that_refuses_strange_categories_makes_a_rule() -> None:
    signature = assert_served_exactly(colours(OneHotEncoder(handle_unknown="error")), MIXED)
    colour = named(signature, "colour")
    assert (colour.kind, colour.nullable) == ("string", True)
    assert colour.allowed == colour.observed_values == ("blue", "green", "red")


def test_an_encoder_that_ignores_strange_categories_makes_an_observation_only() -> None:
    model = colours(OneHotEncoder(handle_unknown="ignore"))
    signature = assert_served_exactly(model, MIXED)
    colour = named(signature, "colour")
    assert (colour.kind, colour.allowed, colour.observed_values) == ("string", None, ("blue", "green", "red"))
    strange = instances(MIXED.assign(colour="violet"))
    assert len(served(model, signature, strange)) == COUNT


def test_an_encoders_categories_are_known_without_a_reference() -> None:
    signature = learned_from(colours(OneHotEncoder(handle_unknown="error"))).signature
    assert named(signature, "colour").allowed == ("blue", "green", "red")


@pytest.mark.parametrize(
    ("encoder", "allowed"),
    [
        (OrdinalEncoder(encoded_missing_value=-1), ("blue", "green", "red")),
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-2, encoded_missing_value=-1), None),
    ],
)
def test_an_ordinal_encoder_is_asked_too(encoder: OrdinalEncoder, allowed: tuple[str, ...] | None) -> None:
    signature = assert_served_exactly(colours(encoder), MIXED)
    colour = named(signature, "colour")
    assert (colour.allowed, colour.observed_values) == (allowed, ("blue", "green", "red"))


def test_categories_that_are_numbers_stay_numbers() -> None:
    frame = pd.DataFrame({"grade": [1, 2, 3, 5] * 10})
    model = make_pipeline(OneHotEncoder(handle_unknown="error"), LogisticRegression()).fit(frame, LABELS)
    signature = assert_served_exactly(model, frame)
    grade = named(signature, "grade")
    assert (grade.kind, grade.allowed, grade.observed_minimum) == ("number", (1.0, 2.0, 3.0, 5.0), None)
    assert served(model, signature, [{"grade": 5}]) == served(model, signature, [{"grade": 5.0}])


def test_categories_behind_an_imputer_are_found() -> None:
    imputer = SimpleImputer(strategy="constant", fill_value="unknown")
    signature = assert_served_exactly(colours(make_pipeline(imputer, OneHotEncoder())), MIXED)
    colour = named(signature, "colour")
    assert (colour.allowed, colour.nullable) == (("blue", "green", "red", "unknown"), True)


def test_categories_of_several_columns_belong_to_their_columns() -> None:
    frame = MIXED.assign(shape=["round", "square"] * 20)
    encode = ColumnTransformer([("e", OneHotEncoder(), ["shape", "colour"]), ("n", "passthrough", ["weight"])])
    signature = assert_served_exactly(make_pipeline(encode, DecisionTreeClassifier()).fit(frame, LABELS), frame)
    assert named(signature, "shape").allowed == ("round", "square")
    assert named(signature, "colour").allowed == ("blue", "green", "red")
    assert named(signature, "weight").allowed is None


def test_a_missing_value_becomes_what_the_encoder_learned_it_as() -> None:
    with_none = MIXED.assign(colour=MIXED["colour"].astype(object).where(MIXED["colour"].notna(), None))
    with_nan = with_none.assign(colour=with_none["colour"].where(MIXED["colour"].notna(), math.nan))
    for frame, missing in ((with_none, "none"), (with_nan, "nan")):
        encode = ColumnTransformer([("e", OneHotEncoder(handle_unknown="error"), ["colour"])])
        model = make_pipeline(encode, DecisionTreeClassifier()).fit(frame, LABELS)
        signature = assert_served_exactly(model, frame)
        colour = named(signature, "colour")
        assert (colour.missing, colour.nullable, colour.allowed) == (missing, True, ("blue", "green", "red"))


def test_an_encoder_that_saw_no_missing_value_takes_none() -> None:
    frame = MIXED.assign(colour=MIXED["colour"].fillna("grey"))
    encode = ColumnTransformer([("e", OneHotEncoder(handle_unknown="error"), ["colour"])])
    model = make_pipeline(encode, DecisionTreeClassifier()).fit(frame, LABELS)
    assert nullable(learned_from(model, frame).signature) == ["size", "weight"]


def test_categories_of_small_floats_do_not_count_a_missing_one() -> None:
    frame = pd.DataFrame({"half": np.array([0.5, 1.5, math.nan, 2.5] * 10, dtype=np.float32)})
    model = make_pipeline(OneHotEncoder(handle_unknown="error"), DecisionTreeClassifier()).fit(frame, LABELS)
    half = named(assert_served_exactly(model, frame), "half")
    assert (half.allowed, half.nullable) == ((0.5, 1.5, 2.5), True)


def test_histogram_boostings_own_categories_are_observed() -> None:
    frame = MIXED.assign(colour=MIXED["colour"].astype("category"))
    model = HistGradientBoostingClassifier(categorical_features="from_dtype", max_iter=5).fit(frame, LABELS)
    colour = named(assert_served_exactly(model, frame), "colour")
    assert (colour.kind, colour.nullable, colour.allowed) == ("string", True, None)
    assert colour.observed_values == ("blue", "green", "red")


# --- Columns that a ColumnTransformer chooses ---------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen",
    [
        ["colour"],
        [0],
        [-3],
        slice(0, 1),
        slice("colour", "colour"),
        slice(None, "colour"),
        [True, False, False],
        np.array([True, False, False]),
        pd.Index(["colour"]),
        make_column_selector(dtype_include=["str", "object"]),
        lambda frame: [name for name in frame if name == "colour"],
        lambda frame: slice(0, 1),
    ],
)
def test_an_encoders_columns_are_found_however_they_were_chosen(chosen: Any) -> None:
    signature = assert_served_exactly(colours(OneHotEncoder(handle_unknown="error"), chosen), MIXED)
    assert [feature.allowed for feature in signature.features] == [("blue", "green", "red"), None, None]


@pytest.mark.parametrize("chosen", ["review", 0])
def test_a_single_column_of_text_is_found_by_name_and_by_position(chosen: str | int) -> None:
    frame = pd.DataFrame({"review": TEXTS, "stars": MATRIX[:, 0]})
    prepare = ColumnTransformer([("t", TfidfVectorizer(), chosen)], remainder="passthrough")
    model = make_pipeline(prepare, LogisticRegression()).fit(frame, LABELS)
    signature = learned_from(model).signature
    assert [(feature.kind, feature.allowed) for feature in signature.features] == [("string", None), ("number", None)]
    assert served(model, signature, instances(frame)) == model.predict(frame).tolist()


def test_a_slice_of_names_includes_its_last_one() -> None:
    frame = MIXED.assign(shape=["round", "square"] * 20)[["colour", "shape", "weight"]]
    encode = ColumnTransformer([("e", OneHotEncoder(), slice("colour", "shape"))])
    signature = assert_served_exactly(make_pipeline(encode, DecisionTreeClassifier()).fit(frame, LABELS), frame)
    assert named(signature, "shape").allowed == ("round", "square")
    assert named(signature, "weight").allowed is None


def test_the_remainders_columns_are_found() -> None:
    encode = ColumnTransformer([("n", "passthrough", ["weight"]), ("d", "drop", ["size"])], remainder=OneHotEncoder())
    model = make_pipeline(encode, DecisionTreeClassifier()).fit(MIXED, LABELS)
    assert named(assert_served_exactly(model, MIXED), "colour").allowed == ("blue", "green", "red")


def test_columns_of_an_array_are_chosen_by_position() -> None:
    matrix = np.column_stack([MATRIX[:, 0], np.tile([3.0, 4.0], COUNT // 2)])
    encode = ColumnTransformer([("e", OneHotEncoder(), [1])], remainder="passthrough")
    model = make_pipeline(encode, DecisionTreeClassifier()).fit(matrix, LABELS)
    signature = learned_from(model).signature
    assert [feature.allowed for feature in signature.features] == [None, (3.0, 4.0)]


# --- Null -------------------------------------------------------------------------------------------------

NULL_TAKERS = {
    "imputer": make_pipeline(SimpleImputer(), LogisticRegression()),
    "histogram_boosting": HistGradientBoostingClassifier(max_iter=5),
    "forest": RandomForestClassifier(n_estimators=3),
}
NULL_REFUSERS = {
    "scaler": make_pipeline(StandardScaler(), LogisticRegression()),
    "linear": LogisticRegression(),
    "neighbours": KNeighborsClassifier(),
}


@pytest.mark.parametrize("container", ["frame", "array"])
@pytest.mark.parametrize("name", NULL_TAKERS)
def test_every_feature_may_be_null_where_the_estimator_takes_it(name: str, container: str) -> None:
    model = NULL_TAKERS[name].fit(FRAME if container == "frame" else MATRIX, LABELS)
    assert nullable(learned_from(model, FRAME).signature) == list(FRAME)


@pytest.mark.parametrize("container", ["frame", "array"])
@pytest.mark.parametrize("name", NULL_REFUSERS)
def test_no_feature_may_be_null_where_the_estimator_refuses_it(name: str, container: str) -> None:
    model = NULL_REFUSERS[name].fit(FRAME if container == "frame" else MATRIX, LABELS)
    assert nullable(learned_from(model, FRAME).signature) == []


@pytest.mark.parametrize("imputed", [0, 1, 2])
def test_only_the_column_that_is_imputed_may_be_null(imputed: int) -> None:
    name = FRAME.columns[imputed]
    prepare = ColumnTransformer([("imputed", SimpleImputer(), [name])], remainder=StandardScaler())
    model = make_pipeline(prepare, LogisticRegression()).fit(FRAME, LABELS)
    signature = learned_from(model, FRAME).signature
    assert nullable(signature) == [name]
    assert len(served(model, signature, instances(FRAME.assign(**{name: None})))) == COUNT


def test_an_estimator_that_answers_null_with_no_number_refuses_it() -> None:
    passes_on = make_pipeline(FunctionTransformer(), TransparentSum()).fit(FRAME)
    assert nullable(learned_from(passes_on, FRAME).signature) == []


class TransparentSum(LinearRegression):  # type: ignore[misc] # scikit-learn has no types
    """Adds the columns up, and lets what is missing through."""

    def fit(self, inputs: pd.DataFrame, _targets: object = None) -> TransparentSum:
        self.n_features_in_ = inputs.shape[1]
        return self

    def predict(self, inputs: pd.DataFrame) -> Any:
        return np.asarray(inputs, dtype=float).sum(axis=1)


def test_what_the_metadata_says_of_null_is_not_probed() -> None:
    declared = [{"name": "age", "nullable": False}]
    model = make_pipeline(SimpleImputer(), LogisticRegression()).fit(FRAME, LABELS)
    assert nullable(learned_from(model, FRAME, declared).signature) == ["income", "score"]


def test_a_reference_whose_every_row_lacks_something_can_be_used() -> None:
    gaps = FRAME.copy()
    gaps.iloc[::2, 0] = math.nan
    gaps.iloc[1::2, 1] = math.nan
    model = HistGradientBoostingClassifier(max_iter=5).fit(gaps, LABELS)
    signature = assert_served_exactly(model, gaps)
    assert nullable(signature) == list(FRAME)
    assert named(signature, "age").observed_minimum == gaps["age"].min()


# --- Kinds and observations -------------------------------------------------------------------------------


def test_the_range_of_numbers_is_observed() -> None:
    reference = FRAME.assign(age=[math.nan, 18, 75, 40] * 10)
    age = named(learned_from(HistGradientBoostingClassifier().fit(FRAME, LABELS), reference).signature, "age")
    assert (age.observed_minimum, age.observed_maximum, age.minimum, age.maximum) == (18.0, 75.0, None, None)


def test_a_boolean_column_is_boolean() -> None:
    frame = FRAME.assign(member=np.tile([True, True, False, False], 10))
    signature = assert_served_exactly(LogisticRegression().fit(frame, LABELS), frame)
    assert (named(signature, "member").kind, named(signature, "age").kind) == ("boolean", "number")


def test_an_encoded_boolean_column_is_boolean() -> None:
    frame = pd.DataFrame({"member": np.tile([True, True, False, False], 10)})
    model = make_pipeline(OneHotEncoder(handle_unknown="error"), LogisticRegression()).fit(frame, LABELS)
    member = named(assert_served_exactly(model, frame), "member")
    assert (member.kind, member.observed_values, member.allowed) == ("boolean", (False, True), None)


def test_booleans_with_gaps_are_boolean_and_may_be_null() -> None:
    frame = pd.DataFrame({"member": pd.Series([True, False, None, True] * 10, dtype=object)})
    encoder = OneHotEncoder(handle_unknown="ignore")
    model = make_pipeline(FunctionTransformer(_as_text), encoder, LogisticRegression()).fit(frame, LABELS)
    signature = assert_served_exactly(model, frame)
    assert (named(signature, "member").kind, nullable(signature)) == ("boolean", ["member"])


def _as_text(frame: pd.DataFrame) -> Any:
    return frame.apply(lambda column: column.map({True: "yes", False: "no"}).fillna("unknown"))


def test_few_distinct_strings_are_categories_and_many_are_free_text() -> None:
    frame = pd.DataFrame({"city": ["Ulm", "Bonn"] * 20, "remark": [f"remark {number}" for number in range(COUNT)]})
    # No encoder: only the reference knows what there is.
    counts = make_pipeline(FunctionTransformer(_lengths), LogisticRegression()).fit(frame, LABELS)
    signature = assert_served_exactly(counts, frame)
    assert [feature.kind for feature in signature.features] == ["string", "string"]
    assert [feature.observed_values for feature in signature.features] == [("Bonn", "Ulm"), None]


def _lengths(frame: pd.DataFrame) -> Any:
    return np.column_stack([frame[name].str.len() for name in frame])


def test_pandas_own_strings_with_missing_values_are_served_exactly() -> None:
    assert str(MIXED["colour"].dtype) == "str"
    prepare = ColumnTransformer(
        [("e", OneHotEncoder(handle_unknown="error"), ["colour"]), ("n", SimpleImputer(), ["size", "weight"])]
    )
    signature = assert_served_exactly(make_pipeline(prepare, LogisticRegression()).fit(MIXED, LABELS), MIXED)
    assert nullable(signature) == ["colour", "size", "weight"]
    assert named(signature, "colour").missing == "nan"


# --- Text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reads",
    [TfidfVectorizer(), CountVectorizer(), FeatureUnion([("a", TfidfVectorizer()), ("b", CountVectorizer())])],
    ids=["tfidf", "counts", "union"],
)
def test_a_text_pipeline_takes_one_string(reads: Any) -> None:
    model = make_pipeline(reads, LogisticRegression()).fit(TEXTS, LABELS)
    signature = learned_from(model, pd.DataFrame({"review": TEXTS})).signature
    assert (names(signature), signature.container) == (["review"], "text")
    [text] = signature.features
    assert (text.kind, text.nullable, text.allowed) == ("string", False, None)
    assert served(model, signature, [{"review": each} for each in TEXTS]) == model.predict(TEXTS).tolist()


def test_the_metadata_names_the_text() -> None:
    model = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, LABELS)
    assert names(learned_from(model, declared=[{"name": "review"}]).signature) == ["review"]


def test_a_text_column_beside_numbers_is_free_text() -> None:
    frame = pd.DataFrame({"review": TEXTS, "stars": MATRIX[:, 0]})
    prepare = ColumnTransformer([("t", TfidfVectorizer(), "review")], remainder="passthrough")
    signature = assert_served_exactly(make_pipeline(prepare, LogisticRegression()).fit(frame, LABELS), frame)
    assert signature.container == "frame"
    assert (named(signature, "review").kind, named(signature, "review").allowed) == ("string", None)
    assert named(signature, "stars").kind == "number"


# --- Outputs ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("estimator", "targets", "task", "classes", "probabilities"),
    [
        (LogisticRegression(), LABELS, "classification", (0, 1), "table"),
        (LogisticRegression(), np.where(LABELS, "yes", "no"), "classification", ("no", "yes"), "table"),
        (LogisticRegression(), LABELS.astype(bool), "classification", (False, True), "table"),
        (SVC(), LABELS, "classification", (0, 1), "none"),
        (Ridge(), TWO_NUMBERS[:, 0], "regression", None, "none"),
        (KMeans(2, n_init=1), None, "clustering", None, "none"),
        (IsolationForest(n_estimators=5), None, "outlier detection", None, "none"),
    ],
)
def test_one_output_is_called_prediction(
    estimator: Any, targets: Any, task: str, classes: tuple[Any, ...] | None, probabilities: str
) -> None:
    signature = assert_served_exactly(estimator.fit(FRAME, targets), FRAME)
    [output] = signature.outputs
    assert (output.name, output.classes) == ("prediction", classes)
    assert (signature.task, signature.probabilities, signature.multi_output) == (task, probabilities, False)


@pytest.mark.parametrize(
    ("estimator", "targets", "classes", "probabilities"),
    [
        (Ridge(), TWO_NUMBERS, None, "none"),
        (MultiOutputRegressor(Ridge()), TWO_NUMBERS, None, "none"),
        (RandomForestRegressor(3), TWO_NUMBERS, None, "none"),
        (RandomForestClassifier(3), TWO_LABELS, (0, 1), "tables"),
        (MultiOutputClassifier(LogisticRegression()), TWO_LABELS, (0, 1), "tables"),
        (ClassifierChain(LogisticRegression()), TWO_LABELS, (0, 1), "columns"),
    ],
    ids=lambda each: type(each).__name__,
)
def test_several_outputs_are_numbered(estimator: Any, targets: Any, classes: Any, probabilities: str) -> None:
    model = estimator.fit(FRAME, targets)
    signature = learned_from(model, FRAME).signature
    assert [(output.name, output.classes) for output in signature.outputs] == [("y0", classes), ("y1", classes)]
    assert (signature.probabilities, signature.multi_output) == (probabilities, True)
    found = served(model, signature, instances(FRAME))
    assert [[each["y0"], each["y1"]] for each in found] == model.predict(FRAME).tolist()


# --- What the metadata declares -----------------------------------------------------------------------------

MODEL = LogisticRegression().fit(FRAME, LABELS)
ARRAY_MODEL = LogisticRegression().fit(MATRIX, LABELS)


def test_declared_rules_become_the_features() -> None:
    rules = {
        "name": "age",
        "type": "integer",
        "nullable": True,
        "minimum": 18,
        "maximum": 100.5,
        "allowed": [18, 20, 100],
        "default": 20,
        "description": "In years.",
        "message": "An adult's age.",
    }
    reference = FRAME.assign(age=np.tile([18.0, 20.0], COUNT // 2))
    age = named(learned_from(MODEL, reference, [rules]).signature, "age")
    assert age == Feature(
        name="age",
        kind="integer",
        nullable=True,
        minimum=18.0,
        maximum=100.5,
        allowed=(18.0, 20.0, 100.0),
        default=20.0,
        description="In years.",
        message="An adult's age.",
        observed_minimum=18.0,
        observed_maximum=20.0,
    )


def test_a_rule_that_is_null_is_not_declared() -> None:
    rules = {"name": "age", "type": None, "minimum": None, "maximum": None, "allowed": None, "default": None}
    assert learned_from(MODEL, FRAME, [rules]).signature == learned_from(MODEL, FRAME).signature


def test_declared_strings_and_booleans_have_rules_of_their_kind() -> None:
    model = colours(OneHotEncoder(handle_unknown="ignore"))
    declared = [{"name": "colour", "allowed": ["red", "violet"], "default": "red"}]
    colour = named(learned_from(model, MIXED, declared).signature, "colour")
    assert (colour.kind, colour.allowed, colour.default) == ("string", ("red", "violet"), "red")


def test_what_was_observed_as_another_type_is_forgotten() -> None:
    model = make_pipeline(FunctionTransformer(_as_numbers), LogisticRegression()).fit(FRAME, LABELS)
    signature = learned_from(model, FRAME, [{"name": "age", "type": "string"}]).signature
    age = named(signature, "age")
    assert (age.kind, age.observed_minimum, age.observed_maximum) == ("string", None, None)
    assert [warning["feature"] for warning in Checker(signature).warnings(("35", 99.0, 0.0))] == ["income"]


def _as_numbers(frame: pd.DataFrame) -> Any:
    return frame.astype(float)


@pytest.mark.parametrize(
    "rules",
    [
        {"type": "float"},
        {"type": ["number"]},
        {"typ": "number"},
        {"minimum": "eighteen"},
        {"minimum": True},
        {"maximum": math.nan},
        {"minimum": 9, "maximum": 1},
        {"allowed": "abc"},
        {"allowed": 5},
        {"allowed": []},
        {"allowed": [[1]]},
        {"allowed": [1, None]},
        {"allowed": ["a"]},
        {"default": "abc"},
        {"default": True},
        {"default": [1]},
        {"default": 200, "maximum": 100},
        {"default": 3, "allowed": [1, 2]},
        {"type": "integer", "default": 1.5},
        {"nullable": "yes"},
        {"nullable": 1},
        {"description": 5},
        {"message": ["Wrong."]},
        {"type": "string", "minimum": 3},
        {"type": "boolean", "allowed": [1]},
    ],
    ids=str,
)
def test_rules_that_cannot_be_meant_are_refused(rules: Mapping[str, Any]) -> None:
    refused = refusal(MODEL, FRAME, [{"name": "age", **rules}])
    assert refused.code == "metadata_unreadable"
    assert "“age”" in refused.detail


def test_every_rule_that_cannot_be_read_is_named() -> None:
    detail = refusal(MODEL, None, [{"name": "age", "minimum": "a", "allowed": 5, "default": 3}]).detail
    assert "allowed, minimum" in detail


def test_metadata_that_names_too_many_or_too_few_features_is_refused() -> None:
    for count in (2, 4):
        refused = refusal(ARRAY_MODEL, declared=[{"name": f"f{number}"} for number in range(count)])
        assert refused.code == "metadata_features_differ"
        assert f"names {count} features" in refused.detail


def test_metadata_that_names_a_feature_the_estimator_does_not_know_is_refused() -> None:
    refused = refusal(MODEL, FRAME, [{"name": "age"}, {"name": "shoe size"}])
    assert refused.code == "metadata_features_differ"
    assert refused.detail.endswith(": shoe size.")


def test_a_declared_type_that_the_reference_contradicts_is_refused() -> None:
    model = colours(OneHotEncoder(handle_unknown="ignore"))
    assert refusal(model, MIXED, [{"name": "colour", "type": "number"}]).code == "metadata_features_differ"


# --- Parts that do not fit -----------------------------------------------------------------------------------


def test_a_reference_without_some_of_the_features_is_refused_and_they_are_named() -> None:
    refused = refusal(MODEL, FRAME[["income"]])
    assert refused.code == "reference_columns_missing"
    assert refused.detail == "The reference has no column for: age, score; it has: income."


def test_a_reference_without_rows_is_refused() -> None:
    assert refusal(MODEL, FRAME.iloc[:0]).code == "reference_empty"


def test_an_estimator_that_cannot_predict_the_reference_is_refused() -> None:
    assert refusal(MODEL, FRAME.assign(age="old")).code == "model_trial_failed"


def test_the_rows_to_try_begin_with_complete_ones() -> None:
    gaps = FRAME.copy()
    gaps.iloc[:5, 0] = math.nan
    rows = learned_from(HistGradientBoostingClassifier(max_iter=5).fit(gaps, LABELS), gaps).rows
    assert len(rows) == COUNT
    assert rows[0] == tuple(FRAME.iloc[5])
    assert [row[0] for row in rows[-5:]] == [None] * 5
