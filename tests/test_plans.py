"""Tests of plans: each answers as its estimator does, exactly, or leaves the rows to it."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import make_column_transformer
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import (
    ElasticNet,
    HuberRegressor,
    Lasso,
    LinearRegression,
    LogisticRegression,
    Perceptron,
    PoissonRegressor,
    Ridge,
    RidgeClassifier,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import BernoulliNB, GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    OneHotEncoder,
    OrdinalEncoder,
    PolynomialFeatures,
    RobustScaler,
    StandardScaler,
)
from sklearn.svm import SVC, LinearSVC, LinearSVR
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor, ExtraTreeClassifier, ExtraTreeRegressor

from webapp.errors import Invalid
from webapp.serving.plans import Plan, Unplanned, compiled
from webapp.serving.plans.itself import LEADING
from webapp.serving.predictor import Predictor, assemble
from webapp.signature import Row, Signature, Value
from webapp.signature.learn import learn

# As in a web worker: what numpy and encoders warn of while they predict is for those who train.
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore:Found unknown categories:UserWarning"),
    pytest.mark.filterwarnings("ignore:X does not have valid feature names:UserWarning"),
]

MANY = 100_000
# Few enough rows for a plan of trees to ask them through its joined tree.
FEW = 8
ALONE = 30
TRAINED = 400
NUMBERS = list("abcde")


# --- What is planned ----------------------------------------------------------------------------------------


def frame() -> pd.DataFrame:
    random = np.random.default_rng(1)
    numbers = random.normal(size=(TRAINED, 5)) * [1, 100, 1e4, 1e-3, 1] + [0, 50, -1e4, 1, 0]
    made = pd.DataFrame(numbers, columns=NUMBERS)
    made["city"] = pd.Series(
        random.choice(["Bonn", "Köln", "Ulm", "Hof"], TRAINED, p=[0.5, 0.3, 0.18, 0.02]), dtype=object
    )
    made["size"] = pd.Series(random.choice(["S", "M", "L"], TRAINED), dtype=object)
    made["flag"] = random.random(TRAINED) < 0.5
    return made


def holed(whole: pd.DataFrame) -> pd.DataFrame:
    """Give the same with missing values in the numbers and in the city."""
    random = np.random.default_rng(2)
    made = whole.copy()
    for name in [*NUMBERS, "city"]:
        made.loc[random.random(TRAINED) < 0.1, name] = math.nan
    return made


WHOLE = frame()
HOLED = holed(WHOLE)
PLAIN = WHOLE[NUMBERS]
ARRAY = PLAIN.to_numpy()
TARGET = WHOLE["a"] * 3 + WHOLE["b"] / 100 + np.random.default_rng(3).normal(size=TRAINED)
TWO = np.where(TARGET > 0, "yes", "no")
THREE = np.digitize(TARGET, [-2, 2])


def parts(*, sparse: bool = False) -> Any:
    return make_column_transformer(
        (make_pipeline(SimpleImputer(), StandardScaler()), NUMBERS),
        (make_pipeline(SimpleImputer(strategy="most_frequent"), OneHotEncoder(handle_unknown="ignore")), ["city"]),
        (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), ["size"]),
        ("passthrough", ["flag"]),
        sparse_threshold=1.0 if sparse else 0.0,
    )


def forest(kind: Any = RandomForestClassifier, trees: int = 15) -> Any:
    return kind(trees, random_state=0)


def boosting(kind: Any, **options: Any) -> Any:
    return kind(n_estimators=15, random_state=0, **options)


def histograms(kind: Any, **options: Any) -> Any:
    return kind(max_iter=15, random_state=0, **options)


class Own(RandomForestClassifier):  # type: ignore[misc] # scikit-learn has no types
    """A class of somebody's own, which may answer otherwise."""


# The estimator, what it is fitted with, and for what.
KINDS: dict[str, tuple[Any, Any, Any]] = {
    "a forest behind a scaler": (make_pipeline(StandardScaler(), forest()), PLAIN, TWO),
    "a forest of three classes": (forest(), ARRAY, THREE),
    "a forest that takes missing values": (forest(), HOLED[NUMBERS], TWO),
    "a forest behind columns": (make_pipeline(parts(), forest()), HOLED, TWO),
    "a forest behind a sparse matrix": (make_pipeline(parts(sparse=True), forest()), HOLED, TWO),
    "a forest of numbers": (
        make_pipeline(RobustScaler(), MaxAbsScaler(), forest(RandomForestRegressor)),
        PLAIN,
        TARGET,
    ),
    "extra trees": (make_pipeline(MinMaxScaler(), forest(ExtraTreesClassifier)), ARRAY, TWO),
    "extra trees of numbers": (forest(ExtraTreesRegressor), PLAIN, TARGET),
    "a forest of one tree": (forest(trees=1), PLAIN, THREE),
    "a tree": (make_pipeline(StandardScaler(), DecisionTreeClassifier(random_state=0)), PLAIN, THREE),
    "a tree of numbers": (DecisionTreeRegressor(random_state=0), ARRAY, TARGET),
    "an extra tree": (ExtraTreeClassifier(random_state=0), PLAIN, TWO),
    "an extra tree of numbers": (ExtraTreeRegressor(random_state=0), PLAIN, TARGET),
    "boosting": (make_pipeline(StandardScaler(), boosting(GradientBoostingClassifier)), PLAIN, TWO),
    "boosting of three classes": (boosting(GradientBoostingClassifier), ARRAY, THREE),
    "boosting by exponential loss": (boosting(GradientBoostingClassifier, loss="exponential"), ARRAY, TWO),
    "boosting of numbers": (boosting(GradientBoostingRegressor, loss="huber"), PLAIN, TARGET),
    "boosting from zero": (boosting(GradientBoostingRegressor, init="zero"), PLAIN, TARGET),
    "boosting behind columns": (make_pipeline(parts(), boosting(GradientBoostingRegressor)), HOLED, TARGET),
    "histograms": (make_pipeline(StandardScaler(), histograms(HistGradientBoostingClassifier)), PLAIN, TWO),
    "histograms of three classes": (histograms(HistGradientBoostingClassifier), ARRAY, THREE),
    "histograms that take missing values": (histograms(HistGradientBoostingRegressor), HOLED[NUMBERS], TARGET),
    "histograms by logarithm": (histograms(HistGradientBoostingRegressor, loss="poisson"), PLAIN, TARGET.abs()),
    "histograms behind an encoder": (
        make_pipeline(
            make_column_transformer(
                (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan), ["city", "size"]),
                remainder="passthrough",
            ),
            histograms(HistGradientBoostingClassifier),
        ),
        HOLED,
        TWO,
    ),
    "a logistic regression": (make_pipeline(StandardScaler(), LogisticRegression()), PLAIN, TWO),
    "a logistic regression of three classes": (make_pipeline(MinMaxScaler(), LogisticRegression()), ARRAY, THREE),
    "a logistic regression behind columns": (make_pipeline(parts(), LogisticRegression()), HOLED, TWO),
    "a logistic regression behind a sparse matrix": (
        make_pipeline(parts(sparse=True), LogisticRegression()),
        HOLED,
        THREE,
    ),
    "stochastic descent": (make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", random_state=0)), PLAIN, TWO),
    "stochastic descent of three classes": (
        make_pipeline(StandardScaler(), SGDClassifier(loss="log_loss", alpha=1, random_state=0)),
        PLAIN,
        THREE,
    ),
    "a perceptron": (make_pipeline(StandardScaler(), Perceptron(random_state=0)), PLAIN, THREE),
    "a ridge of classes": (make_pipeline(StandardScaler(), RidgeClassifier()), PLAIN, TWO),
    "a linear support vector machine": (make_pipeline(StandardScaler(), LinearSVC(random_state=0)), PLAIN, THREE),
    "a linear regression": (LinearRegression(), PLAIN, TARGET),
    "a ridge": (make_pipeline(StandardScaler(), Ridge()), ARRAY, TARGET),
    "a lasso": (make_pipeline(StandardScaler(with_mean=False), Lasso(0.01)), PLAIN, TARGET),
    "an elastic net behind an imputer": (
        make_pipeline(SimpleImputer(strategy="median", add_indicator=True), MinMaxScaler(clip=True), ElasticNet(0.01)),
        HOLED[NUMBERS],
        TARGET,
    ),
    "a robust regression": (make_pipeline(RobustScaler(), HuberRegressor(max_iter=1000)), PLAIN, TARGET),
    "a linear support vector regression": (make_pipeline(StandardScaler(), LinearSVR(random_state=0)), PLAIN, TARGET),
    "stochastic descent to numbers": (make_pipeline(StandardScaler(), SGDRegressor(random_state=0)), PLAIN, TARGET),
    "what a search has found": (
        make_pipeline(StandardScaler(), GridSearchCV(make_pipeline(MaxAbsScaler(), Ridge()), {"ridge__alpha": [1, 9]})),
        PLAIN,
        TARGET,
    ),
    "a ridge that fills with a text of its own": (
        make_pipeline(SimpleImputer(strategy="constant", fill_value="none"), OneHotEncoder(), Ridge()),
        WHOLE[["city", "size"]],
        TARGET,
    ),
    "a ridge of rare values": (
        make_pipeline(
            OneHotEncoder(min_frequency=20, handle_unknown="infrequent_if_exist", drop="first"),
            MaxAbsScaler(),
            Ridge(),
        ),
        WHOLE[["city", "size"]],
        TARGET,
    ),
}
# Of these it is the estimator itself that is asked, with numbers instead of a table.
ITSELF: dict[str, tuple[Any, Any, Any]] = {
    "neighbors": (KNeighborsClassifier(), ARRAY, THREE),
    "neighbors of numbers": (make_pipeline(StandardScaler(), KNeighborsRegressor()), PLAIN, TARGET),
    "a support vector machine": (make_pipeline(StandardScaler(), SVC()), PLAIN, THREE),
    "a network behind columns": (
        make_pipeline(parts(), MLPClassifier((8,), tol=1.0, random_state=0)),
        HOLED,
        TWO,
    ),
    "naive Bayes": (make_pipeline(StandardScaler(), GaussianNB()), PLAIN, TWO),
    "a vote": (
        VotingClassifier([("trees", forest()), ("line", LogisticRegression())], voting="soft"),
        PLAIN / 1e4,
        TWO,
    ),
    "a class of its own": (Own(5), PLAIN, TWO),
    "a link of its own": (PoissonRegressor(), PLAIN / 1e4, TARGET.abs()),
    "another beginning": (boosting(GradientBoostingRegressor, init=LinearRegression()), PLAIN, TARGET),
    "probabilities of another kind": (SGDClassifier(loss="modified_huber", random_state=0), PLAIN / 1e4, TWO),
}
KINDS |= ITSELF


@dataclass(frozen=True)
class Fitted:
    """A fitted estimator, its signature, rows that it was trained with, and its plan."""

    estimator: Any
    signature: Signature
    rows: list[Row]
    plan: Plan

    def answer(self, rows: Sequence[Row]) -> tuple[Any, Any]:
        """Ask the estimator itself."""
        matrix = assemble(self.signature, rows)
        table = self.estimator.predict_proba(matrix) if self.signature.probabilities == "table" else None
        return np.asarray(self.estimator.predict(matrix)).reshape(len(rows)), table


@cache
def fitted(name: str) -> Fitted:
    template, given, target = KINDS[name]
    estimator = clone(template).fit(given, target)
    reference = given if isinstance(given, pd.DataFrame) else pd.DataFrame(given)
    learned = learn(estimator, assemble, reference=reference, declared=())
    plan = compiled(estimator, learned.signature)
    assert plan is not None
    return Fitted(estimator, learned.signature, learned.rows, plan)


# --- Every kind, on very many rows --------------------------------------------------------------------------


def adversarial(made: Fitted, count: int) -> list[Row]:
    """Make rows of values at thresholds and one step beside them, of ends, of missing and unseen values."""
    random = np.random.default_rng(4)
    columns = []
    for position, feature in enumerate(made.signature.features):
        seen = [row[position] for row in made.rows]
        pool: list[Value] = [value for value in seen if value is not None]
        if feature.kind in {"number", "integer"}:
            edges = made.plan.edges().get(position, [])
            beside = [math.nextafter(edge, end) for edge in edges for end in (-math.inf, math.inf)]
            single = [
                float(np.nextafter(np.float32(edge), np.float32(end))) for edge in edges for end in (-np.inf, np.inf)
            ]
            pool += [
                *edges,
                *beside,
                *single,
                *random.normal(size=200).tolist(),
                *random.uniform(-1e5, 1e5, 200).tolist(),
            ]
            pool += [0.0, -0.0, 5e-324, 1e-45, -1e-40, 1e30, -1e30, float(np.float32(0.1)), 0.1]
        elif feature.kind == "string" and feature.allowed is None:
            pool += ["", "Aachen", "bonn"]
        if feature.nullable:
            pool += [None] * (len(pool) // 10)
        columns.append([pool[at] for at in random.integers(len(pool), size=count).tolist()])
    return list(zip(*columns, strict=True))


def largest_difference(one: Any, other: Any, floor: float = 0.0) -> float:
    """Give the largest relative difference; what is smaller than `floor` is measured by that."""
    if one is None or other is None:
        assert one is other
        return 0.0
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    size = np.maximum(np.maximum(np.abs(one), np.abs(other)), floor)
    return float(np.max(np.abs(one - other) / np.where(size == 0, 1, size)))


def compare(answer: tuple[Any, Any], expected: tuple[Any, Any], floor: Callable[[Any], float] = lambda _: 0.0) -> float:
    """Expect the same labels, and give by how much numbers differ."""
    predicted, wanted = answer[0].reshape(-1), expected[0]
    assert predicted.dtype == wanted.dtype
    found = largest_difference(answer[1], expected[1], floor(expected[1]))
    if wanted.dtype.kind == "f":
        return max(found, largest_difference(predicted, wanted, floor(wanted)))
    assert int((predicted != wanted).sum()) == 0
    return found


def usual(array: Any) -> float:
    return 0.0 if array is None else float(np.median(np.abs(array)))


def in_parts_by(ask: Callable[[Sequence[Row]], tuple[Any, Any]], rows: Sequence[Row]) -> tuple[Any, Any]:
    """Ask a few rows at a time."""
    answers = [ask(rows[first : first + FEW]) for first in range(0, len(rows), FEW)]
    tables = None if answers[0][1] is None else np.concatenate([answer[1] for answer in answers])
    return np.concatenate([answer[0].reshape(-1) for answer in answers]), tables


def median_microseconds(ask: Callable[[Sequence[Row]], object], rows: Sequence[Row]) -> float:
    took = []
    for row in rows:
        started = time.perf_counter()
        ask([row])
        took.append(time.perf_counter() - started)
    return statistics.median(took) * 1e6


@pytest.mark.parametrize("name", KINDS)
def test_a_plan_answers_as_its_estimator_does(name: str) -> None:
    made = fitted(name)
    rows = adversarial(made, MANY)
    expected = made.answer(rows)
    at_once = compare(made.plan.ask(rows), expected)
    # What is asked in small calls goes another way through trees; linear algebra rounds by the size of the call.
    count = MANY // 10 // FEW * FEW
    together, tables = in_parts_by(made.plan.ask, rows[:count])
    shortened = expected[0][:count], None if expected[1] is None else expected[1][:count]
    if made.plan.name.endswith("without a table"):
        # What is asked in both ways is the same; how much its size rounds depends on the machine.
        shortened = in_parts_by(made.answer, rows[:count])
    in_parts = compare((together, tables), shortened, usual)
    alone = max(compare(made.plan.ask([row]), made.answer([row])) for row in rows[:ALONE])
    plan, estimator = median_microseconds(made.plan.ask, rows[:1000]), median_microseconds(made.answer, rows[:ALONE])
    print(
        f"\n{made.plan.name}: {MANY:,} rows, 0 label differences, at most {max(at_once, alone):.0e} (in small calls"
        f" {in_parts:.0e}); one row {plan:.0f} µs, scikit-learn {estimator:.0f} µs"
    )
    assert max(at_once, alone, in_parts) <= 1e-12


# --- Labels that follow from probabilities ------------------------------------------------------------------

# Whole numbers, of which many rows are alike: neighbours and counts are often even.
COUNTS = np.random.default_rng(5).integers(0, 4, (TRAINED, 3)).astype(float)
COUNTED = np.where(COUNTS[:, 0] > COUNTS[:, 1], "more", np.where(COUNTS[:, 2] > 1, "less", "same"))
MADE_OTHERWISE: dict[str, Callable[[], Any]] = {
    "BaggingClassifier": lambda: BaggingClassifier(GaussianNB(), 4, random_state=0),
    "CalibratedClassifierCV": lambda: CalibratedClassifierCV(GaussianNB(), cv=2),
    "KNeighborsClassifier": lambda: KNeighborsClassifier(4),
    "MLPClassifier": lambda: MLPClassifier((8,), tol=1.0, random_state=0),
    "VotingClassifier": lambda: VotingClassifier([("a", GaussianNB()), ("b", BernoulliNB())], voting="soft"),
}


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("kind", sorted(LEADING, key=lambda kind: kind.__name__), ids=lambda kind: kind.__name__)
def test_a_label_that_follows_from_the_probabilities_is_the_estimators(kind: type[Any], classes: int) -> None:
    labels = COUNTED if classes == 3 else np.where(COUNTED == "same", "same", "other")
    estimator = MADE_OTHERWISE.get(kind.__name__, kind)().fit(COUNTS, labels)
    learned = learn(estimator, assemble, reference=pd.DataFrame(COUNTS), declared=())
    plan = compiled(estimator, learned.signature)
    assert plan is not None
    made = Fitted(estimator, learned.signature, learned.rows, plan)
    rows: list[Row] = [tuple(row) for row in np.stack(np.meshgrid(*[np.arange(4.0)] * 3), -1).reshape(-1, 3).tolist()]
    assert compare(plan.ask(rows), made.answer(rows)) <= 1e-12
    assert max(compare(plan.ask([row]), made.answer([row])) for row in rows) <= 1e-12


def test_a_label_is_computed_by_itself_only_where_the_probabilities_are_even(monkeypatch: pytest.MonkeyPatch) -> None:
    given = pd.DataFrame({"x": [0.0, 1.0, 2.0, 3.0]})
    estimator = KNeighborsClassifier(2).fit(given, ["a", "a", "b", "b"])
    learned = learn(estimator, assemble, reference=given, declared=())
    plan = compiled(estimator, learned.signature)
    assert plan is not None
    assert plan.name == "KNeighborsClassifier asked for its probabilities alone, without a table"
    even = (1.5,)
    assert plan.ask([even])[0].tolist() == ["a"]
    monkeypatch.delattr(KNeighborsClassifier, "predict")
    assert plan.ask([(0.0,), (3.0,)])[0].tolist() == ["a", "b"]
    with pytest.raises(Unplanned):
        plan.ask([even])


# --- What is left to the estimator --------------------------------------------------------------------------


PROPERTIES = [
    "a forest that takes missing values",
    "a forest behind a scaler",
    "boosting",
    "histograms behind an encoder",
    "a logistic regression behind columns",
    "an elastic net behind an imputer",
    "a ridge of rare values",
]


def any_value(kind: str) -> some.SearchStrategy[Value]:
    if kind == "string":
        return (
            some.none()
            | some.sampled_from(["Bonn", "Hof", "S"])
            | some.text(max_size=3).filter(lambda text: "\0" not in text)
        )
    return some.none() | (some.booleans() if kind == "boolean" else some.floats(allow_nan=False, allow_infinity=False))


@pytest.mark.parametrize("name", PROPERTIES)
@settings(max_examples=60, deadline=None)
@given(data=some.data())
def test_any_row_is_answered_exactly_or_left_to_the_estimator(name: str, data: some.DataObject) -> None:
    made = fitted(name)
    row = tuple(data.draw(any_value(feature.kind)) for feature in made.signature.features)
    try:
        expected = made.answer([row])
    except ValueError:
        with pytest.raises(Unplanned):
            made.plan.ask([row])
        return
    try:
        answer = made.plan.ask([row])
    except Unplanned:
        return
    assert np.array_equal(answer[0].reshape(-1), expected[0], equal_nan=expected[0].dtype.kind == "f")
    assert (answer[1] is None and expected[1] is None) or np.array_equal(answer[1], expected[1], equal_nan=True)


STRANGE: dict[str, tuple[str, Row]] = {
    "a number beyond single precision": ("a forest of three classes", (1e39, 0.0, 0.0, 0.0, 0.0)),
    "one beyond it after scaling": ("a forest behind a scaler", (0.0, 0.0, 0.0, 1e38, 0.0)),
    "a missing number in trees that take none": ("boosting", (None, 0.0, 0.0, 0.0, 0.0)),
    "a missing number in a product": ("a ridge", (0.0, 0.0, None, 0.0, 0.0)),
    "an overflow in a product": ("a ridge", (1e308, 1e308, 1e308, 1e308, 1e308)),
    "a value that the encoder refuses": ("refusing", ("Aachen", 0.0)),
    "one that stands where null was": ("a ridge that fills with a text of its own", (None, "S")),
}


@pytest.fixture(scope="module")
def refusing() -> Fitted:
    steps = make_column_transformer((OneHotEncoder(), ["city"]), remainder="passthrough")
    given = WHOLE[["city", "a"]]
    estimator = make_pipeline(steps, LogisticRegression()).fit(given, TWO)
    learned = learn(estimator, assemble, reference=given, declared=())
    plan = compiled(estimator, learned.signature)
    assert plan is not None
    return Fitted(estimator, learned.signature, learned.rows, plan)


@pytest.mark.parametrize("what", STRANGE)
def test_what_the_estimator_may_refuse_is_left_to_it(what: str, refusing: Fitted) -> None:
    name, row = STRANGE[what]
    made = refusing if name == "refusing" else fitted(name)
    with pytest.raises(Unplanned):
        made.plan.ask([row])
    with pytest.raises(Unplanned):
        made.plan.ask([made.rows[0], row])
    # Behind the plan stands the estimator, with its own reasons.
    itself = Predictor(made.estimator, made.signature)
    with pytest.raises(Invalid) as refused:
        itself.predict([row], [""])
    with pytest.raises(Invalid) as refused_too:
        itself.by(made.plan).predict([row], [""])
    assert refused_too.value.code == refused.value.code


OTHERS: dict[str, tuple[Any, Any, Any]] = {
    "a function": (make_pipeline(FunctionTransformer(np.abs), forest()), PLAIN, TWO),
    "polynomials": (make_pipeline(PolynomialFeatures(), LinearRegression()), PLAIN, TARGET),
    "several outputs": (forest(RandomForestRegressor), PLAIN, np.column_stack((TARGET, TARGET))),
    "categories of its own": (
        histograms(HistGradientBoostingRegressor, categorical_features=["city"]),
        WHOLE[["a", "city"]].astype({"city": "category"}),
        TARGET,
    ),
    "a text that stands for null": (
        make_pipeline(
            SimpleImputer(missing_values="?", strategy="most_frequent"),
            OneHotEncoder(handle_unknown="ignore"),
            LogisticRegression(),
        ),
        WHOLE[["city", "size"]],
        TWO,
    ),
    "weights of columns": (
        make_pipeline(
            make_column_transformer((StandardScaler(), ["a"]), (MinMaxScaler(), ["b"])).set_params(
                transformer_weights={"standardscaler": 2.0}
            ),
            Ridge(),
        ),
        PLAIN,
        TARGET,
    ),
}


@pytest.mark.parametrize("what", OTHERS)
def test_other_kinds_have_no_plan(what: str) -> None:
    template, given, target = OTHERS[what]
    estimator = clone(template).fit(given, target)
    learned = learn(
        estimator, assemble, reference=given.astype({"city": object}) if "city" in given else given, declared=()
    )
    assert compiled(estimator, learned.signature) is None


# --- What was changed after fitting -------------------------------------------------------------------------


def fewer_trees(pipeline: Any) -> None:
    pipeline[-1].estimators_ = pipeline[-1].estimators_[:5]


def turned_classes(pipeline: Any) -> None:
    pipeline[-1].classes_ = pipeline[-1].classes_[::-1]


def other_scale(pipeline: Any) -> None:
    pipeline[0].scale_ = pipeline[0].scale_ * 2


def no_mean(pipeline: Any) -> None:
    pipeline[0].with_mean = False


def sparse_coefficients(pipeline: Any) -> None:
    pipeline[-1].sparsify()


def whole_coefficients(pipeline: Any) -> None:
    pipeline[-1].coef_ = np.round(pipeline[-1].coef_ * 100).astype(int)


def no_intercept(pipeline: Any) -> None:
    pipeline[-1].intercept_ = 0


def faster(pipeline: Any) -> None:
    pipeline[-1].learning_rate = 0.9


def other_start(pipeline: Any) -> None:
    pipeline[-1].init_ = "zero"


def other_baseline(pipeline: Any) -> None:
    pipeline[-1]._baseline_prediction = pipeline[-1]._baseline_prediction + 1


def turned_stages(pipeline: Any) -> None:
    pipeline[-1]._predictors = pipeline[-1]._predictors[::-1][:7]


CHANGES: list[tuple[str, Callable[[Any], None]]] = [
    ("a forest behind a scaler", fewer_trees),
    ("a forest behind a scaler", turned_classes),
    ("a forest behind a scaler", other_scale),
    ("a forest behind a scaler", no_mean),
    ("a logistic regression", turned_classes),
    ("a logistic regression", sparse_coefficients),
    ("a logistic regression", whole_coefficients),
    ("a logistic regression", no_intercept),
    ("boosting", faster),
    ("boosting", other_start),
    ("histograms", other_baseline),
    ("histograms", turned_stages),
]


@pytest.mark.parametrize(("name", "change"), CHANGES)
def test_what_was_changed_after_fitting_is_planned_as_it_is(name: str, change: Callable[[Any], None]) -> None:
    made = fitted(name)
    estimator = copy.deepcopy(made.estimator)
    change(estimator)
    rows = adversarial(made, 1000)
    changed = Fitted(estimator, made.signature, made.rows, made.plan).answer(rows)
    plan = compiled(estimator, made.signature)
    if plan is not None:
        assert compare(plan.ask(rows), changed) <= 1e-12
    # The change is one that counts.
    before = made.answer(rows)
    assert change is sparse_coefficients or not np.array_equal(before[1], changed[1]) or (before[0] != changed[0]).any()


def test_a_plan_keeps_nothing_of_the_rows() -> None:
    made = fitted("a forest behind a scaler")
    first = made.plan.ask(made.rows[:3])
    kept = first[1].copy()
    made.plan.ask(made.rows[3:6])
    assert np.array_equal(first[1], kept)
