"""Find by experiment which names a scikit-learn model file may use, and freeze them.

Every estimator that can predict or transform is fitted in many configurations. The
globals in its pickles (protocols 2 to 5, plain and by joblib) and the types skops wants
trusted are recorded, and so are the pairs (loader, name) of its .skops file, since a name
that may be mentioned may not be called. Those of the configurations that pass every check
become `webapp/names.json`. A class or function is only ever let in by its exact name,
because some configuration needs it and nothing below refuses it.

    python scripts/estimator_names.py           write the table, print a summary
    python scripts/estimator_names.py --check   compare with the stored table, exit 1 if it differs
    python scripts/estimator_names.py --check --every 20
                                                one configuration of 20 only: exit 1 if the stored table lacks a name
"""

# ruff: noqa: ANN401 - estimators, settings and data can be anything
from __future__ import annotations

import argparse
import difflib
import inspect
import io
import json
import multiprocessing
import os
import pickle
import pickletools
import re
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

# Before NumPy is imported: sums must not depend on the number of cores.
os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import joblib
import numpy as np
import pandas as pd
import scipy.sparse  # type: ignore[import-untyped]
import scipy.stats  # type: ignore[import-untyped]
import sklearn
import skops.io
from joblib.numpy_pickle import NumpyUnpickler
from sklearn import (
    calibration,
    compose,
    covariance,
    dummy,
    ensemble,
    impute,
    linear_model,
    model_selection,
    multiclass,
    multioutput,
    naive_bayes,
    neighbors,
    preprocessing,
    svm,
    tree,
)
from sklearn import feature_extraction as extraction
from sklearn import feature_selection as selection
from sklearn import gaussian_process as gp
from sklearn.base import clone
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.experimental import enable_halving_search_cv, enable_iterative_imputer  # noqa: F401
from sklearn.frozen import FrozenEstimator
from sklearn.gaussian_process import kernels
from sklearn.metrics import f1_score as f1
from sklearn.metrics import get_scorer, get_scorer_names, make_scorer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.utils import all_estimators, get_tags
from sklearn.utils._param_validation import Options, StrOptions

TABLE = Path(__file__).resolve().parent.parent / "webapp" / "names.json"
PROTOCOLS = (2, 3, 4, 5)

# Wanted by some estimator and refused: one of these in a file refuses the file.
EXCLUDED = {
    **dict.fromkeys(
        ("__builtin__.getattr", "builtins.getattr"), "resolves any attribute of anything (a bound method was pickled)"
    ),
    "functools.partial": "binds any function to arguments of the file's choice",
    "numpy.matrix": "parses text it is given",
    "numpy.vectorize": "calls any function it is given",
    **dict.fromkeys(
        (
            "pandas.Index",
            "pandas.StringDtype",
            "pandas._libs.arrays.__pyx_unpickle_NDArrayBacked",
            "pandas.arrays.StringArray",
            "pandas.core.indexes.base._new_Index",
        ),
        "calls the class it is given, and skops cannot store it: column names belong in a list",
    ),
    **dict.fromkeys(
        (
            "scipy.stats._continuous_distns.reciprocal_gen",
            "scipy.stats._discrete_distns.randint_gen",
            "scipy.stats._distn_infrastructure.rv_continuous_frozen",
            "scipy.stats._distn_infrastructure.rv_discrete_frozen",
        ),
        "holds a distribution, whose __setstate__ runs text of the file with exec",
    ),
    **dict.fromkeys(
        ("sklearn.cluster._kmeans._kmeans_single_elkan", "sklearn.cluster._kmeans._kmeans_single_lloyd"),
        "hands its arguments to native code that trusts their sizes",
    ),
    "sklearn.utils.validation.check_array": "only ever inside functools.partial",
}

# Functions, and classes from outside scikit-learn, that were read by hand: called with
# any arguments they build or compute a value and do nothing else, though some can be
# made to allocate until the memory limit of the child ends it. Whatever else is a
# function or comes from outside is refused, so a new version brings in nothing unread.
#
# _codecs.encode is how protocol 2 writes bytes: text and the word "latin1". With other
# words it can only import a codec of the encodings package, which encodes.
# __builtin__ is what protocol 2 calls builtins, and find_class is told that name.
# mutual_info_* would start processes if called with n_jobs; files only mention them.
REVIEWED_BY_MODULE = {
    "__builtin__": "bool bytes float long object set slice xrange",
    "_codecs": "encode",
    "builtins": "bool float int object range set slice",
    "joblib.numpy_pickle": "NumpyArrayWrapper",
    "numpy": "dtype exp expm1 float32 float64 int32 int64 log log1p mean ndarray number sqrt square uint8",
    "numpy._core.multiarray": "_reconstruct scalar",
    "numpy._core.numeric": "_frombuffer",
    "numpy.ma": "MaskedArray",
    "numpy.ma.core": "_mareconstruct",
    "numpy.random._mt19937": "MT19937",
    "numpy.random._pcg64": "PCG64",
    "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
    "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    "scipy._lib.array_api_compat.numpy._aliases": "asarray",
    "scipy.interpolate._bsplines": "BSpline",
    "scipy.sparse._csc": "csc_array",
    "scipy.sparse._csr": "csr_array csr_matrix",
    "sklearn._loss._loss": "__pyx_unpickle_CyHalfMultinomialLoss",
    "sklearn.feature_selection._mutual_info": "mutual_info_classif mutual_info_regression",
    "sklearn.feature_selection._univariate_selection": "chi2 f_classif f_regression r_regression",
    "sklearn.metrics._classification": "accuracy_score balanced_accuracy_score"
    " brier_score_loss d2_brier_score d2_log_loss_score f1_score jaccard_score log_loss"
    " matthews_corrcoef precision_score recall_score",
    "sklearn.metrics._dist_metrics": "newObj",
    "sklearn.metrics._ranking": "average_precision_score roc_auc_score top_k_accuracy_score",
    "sklearn.metrics._regression": "d2_absolute_error_score explained_variance_score"
    " max_error mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance"
    " mean_poisson_deviance mean_squared_error mean_squared_log_error"
    " median_absolute_error r2_score root_mean_squared_error root_mean_squared_log_error",
    "sklearn.metrics._scorer": "negative_likelihood_ratio positive_likelihood_ratio",
    "sklearn.neighbors._ball_tree": "newObj",
    "sklearn.neighbors._kd_tree": "newObj",
}
REVIEWED = {f"{module}.{name}" for module, names in REVIEWED_BY_MODULE.items() for name in names.split()}
UNREAD = "was not reviewed"

# Whether a mean or a label is a float32 or a float64 is up to the data; no set of samples meets them all.
SCALARS = "bool float16 float32 float64 int8 int16 int32 int64 longdouble str_ uint8 uint16 uint32 uint64"
SCALAR_NODES = {(loader, f"numpy.{name}") for loader in ("NdArrayNode", "TypeNode") for name in SCALARS.split()}


@dataclass(frozen=True)
class Case:
    """An estimator and the samples it may be fitted on: the first that works counts."""

    label: str
    estimator: Any
    samples: tuple[str, ...]
    must_fit: bool = False

    @property
    def kind(self) -> str:
        """Give the name of the estimator's class."""
        return type(self.estimator).__name__


@dataclass(frozen=True)
class Result:
    """What one fitted configuration needs, and why it is refused, if it is."""

    kind: str
    label: str
    pickle: frozenset[str]
    skops: frozenset[str]
    nodes: frozenset[tuple[str, str]]
    refusal: str | None


# --- The data -------------------------------------------------------------------------


@cache
def _samples() -> dict[str, tuple[Any, Any]]:
    """Give small data of every shape, positive so that every estimator takes it."""
    x = np.random.RandomState(0).uniform(0.1, 3, (40, 4))
    y = x @ [1.0, 2, 3, 4]
    group = np.arange(40) % 3
    words = np.array(["no", "yes", "maybe"])[group]
    frame = pd.DataFrame(x, columns=list("abcd"))
    gaps = x.copy()
    gaps[::7, 1] = np.nan
    city = ["Bonn", "Rom", "Oslo", "Bern"] * 10
    kind = pd.Categorical(["x", "y"] * 20)
    texts = ["one two three", "two three four", "five one", "six"] * 10
    table = pd.DataFrame({"city": city, "kind": kind, "n": x[:, 0]})
    holes = table.assign(city=table["city"].mask(table["city"] == "Rom"))
    return {
        "classes": (x, group),
        "numbers": (x, y),
        "binary": (x, group % 2),
        "targets": (x, np.c_[y, 2 * y]),
        "labels": (frame, pd.Series(words)),
        "frame": (frame, pd.Series(y)),
        "multilabel": (x, np.c_[group % 2, group == 1].astype(int)),
        "multiclass": (x, np.c_[words, words[::-1]]),
        "gaps": (gaps, group),
        "gaps numbers": (gaps, y),
        "single": (x.astype("float32"), group),
        "single numbers": (x.astype("float32"), y),
        "sparse": (scipy.sparse.csr_matrix(x), group),
        "sparse array": (scipy.sparse.csc_array(x), group),
        "sparse numbers": (scipy.sparse.csr_matrix(x), y),
        "square": (x @ x.T, group),
        "square numbers": (x @ x.T, y),
        "line": (x[:, 0], y),
        "places": (x[:, :2], group),
        "flags": (x > x.mean(), group),
        "codes": (np.c_[group, x], group),
        "text": (texts, group),
        "dicts": ([{"a": 1, "b": "x"}, {"a": 2, "b": "y"}] * 20, group),
        "table": (table, group),
        "table numbers": (table, y),
        "holes": (holes, group),
        "frame binary": (frame, group % 2),
        "words": (table[["city", "kind"]], group),
        "words with holes": (holes[["city", "kind"]], group),
        "kinds": (table[["kind", "n"]], group),
    }


def _base_samples(estimator: Any) -> tuple[str, ...]:
    tags = get_tags(estimator)
    given = tags.input_tags
    if given.dict and not given.string:
        return ("dicts",)
    if given.string and not given.two_d_array:
        return ("text", "dicts")
    if tags.estimator_type == "regressor":
        return ("numbers", "targets", "line", "square numbers", "binary")
    return ("classes", "binary", "numbers", "square", "multilabel", "words", "places")


def _other_samples(estimator: Any) -> Iterator[str]:
    tags = get_tags(estimator)
    given = tags.input_tags
    numbers = tags.estimator_type == "regressor"
    if not given.two_d_array:
        return
    yield from ("frame", "single numbers") if numbers else ("labels", "single")
    if given.allow_nan:
        yield "gaps numbers" if numbers else "gaps"
    if given.sparse:
        yield from ("sparse numbers",) if numbers else ("sparse", "sparse array")
    if tags.target_tags.multi_output:
        yield from ("targets",) if numbers else ("multilabel", "multiclass")
    if given.categorical or given.string:
        yield from ("table numbers",) if numbers else ("words", "holes")


# --- The estimators -------------------------------------------------------------------

LOGISTIC = linear_model.LogisticRegression()
RIDGE = linear_model.Ridge()
TREE = tree.DecisionTreeClassifier(max_depth=2, random_state=0)
CLASSIFIERS = [("one", LOGISTIC), ("two", naive_bayes.GaussianNB())]
REGRESSORS = [("one", RIDGE), ("two", linear_model.LinearRegression())]
# Labels and images do not go through a pipeline of columns.
OUT_OF_SCOPE = {"LabelBinarizer", "LabelEncoder", "MultiLabelBinarizer", "PatchExtractor"}
# Settings that say how fit runs, not what is stored; scorers have cases of their own.
NOT_STORED = {"copy", "copy_X", "copy_X_train", "copy_x", "scoring", "verbose"}
QUICK = {"cv": 2, "n_estimators": 3, "n_init": 1, "random_state": 0}
NEEDED: dict[str, dict[str, Any]] = {
    "ClassifierChain": {"estimator": LOGISTIC},
    "ColumnTransformer": {"transformers": [("a", preprocessing.MinMaxScaler(), [0])]},
    "DictionaryLearning": {"max_iter": 3},
    "DummyRegressor": {"quantile": 0.5, "constant": 1.0},
    "FeatureUnion": {"transformer_list": [("a", preprocessing.StandardScaler())]},
    "FixedThresholdClassifier": {"estimator": LOGISTIC},
    "GaussianRandomProjection": {"n_components": 2},
    "GridSearchCV": {"estimator": LOGISTIC, "param_grid": {"C": [1, 2]}},
    "HalvingGridSearchCV": {"estimator": LOGISTIC, "param_grid": {"C": [1, 2]}},
    "HalvingRandomSearchCV": {"estimator": LOGISTIC, "param_distributions": {"C": [1, 2]}},
    "HistGradientBoostingClassifier": {"max_iter": 3, "min_samples_leaf": 2},
    "HistGradientBoostingRegressor": {"max_iter": 3, "min_samples_leaf": 2, "quantile": 0.5},
    "IterativeImputer": {"max_iter": 2},
    "LatentDirichletAllocation": {"max_iter": 3},
    "LocalOutlierFactor": {"novelty": True},
    "MiniBatchDictionaryLearning": {"max_iter": 3},
    "MLPClassifier": {"max_iter": 5},
    "MLPRegressor": {"max_iter": 5},
    "MultiOutputClassifier": {"estimator": LOGISTIC},
    "MultiOutputRegressor": {"estimator": RIDGE},
    "OneVsOneClassifier": {"estimator": LOGISTIC},
    "OneVsRestClassifier": {"estimator": LOGISTIC},
    "OrdinalEncoder": {"unknown_value": -1, "handle_unknown": "use_encoded_value"},
    "OutputCodeClassifier": {"estimator": LOGISTIC},
    "Pipeline": {"steps": [("a", preprocessing.StandardScaler()), ("b", LOGISTIC)]},
    "RandomizedSearchCV": {"estimator": LOGISTIC, "param_distributions": {"C": [1, 2]}, "n_iter": 2},
    "RegressorChain": {"estimator": RIDGE},
    "RFE": {"estimator": LOGISTIC},
    "RFECV": {"estimator": LOGISTIC},
    "RidgeClassifierCV": {"cv": None},
    "RidgeCV": {"cv": None},
    "SelectFromModel": {"estimator": LOGISTIC},
    "SelfTrainingClassifier": {"estimator": LOGISTIC},
    "SequentialFeatureSelector": {"estimator": LOGISTIC},
    "SparseCoder": {"dictionary": np.eye(4)},
    "SparseRandomProjection": {"n_components": 2},
    "StackingClassifier": {"estimators": CLASSIFIERS},
    "StackingRegressor": {"estimators": REGRESSORS},
    "TunedThresholdClassifierCV": {"estimator": LOGISTIC},
    "VotingClassifier": {"estimators": CLASSIFIERS},
    "VotingRegressor": {"estimators": REGRESSORS},
}


def _shown(value: Any) -> str:
    """Write on one line and without addresses, which change from run to run."""
    return re.sub(r" at 0x[0-9A-F]+|\s+(?= )|\n", "", repr(value), flags=re.IGNORECASE)


def _in_scope(name: str, cls: type) -> bool:
    usable = hasattr(cls, "predict") or hasattr(cls, "transform")
    return usable and name not in OUT_OF_SCOPE


def _build(cls: type) -> Any:
    accepted = inspect.signature(cls).parameters
    settings = {k: v for k, v in QUICK.items() if k in accepted}
    return cls(**(settings | NEEDED.get(cls.__name__, {})))


def _options(cls: Any) -> Iterator[tuple[str, Any]]:
    """Give every value of every setting that scikit-learn itself lists as a choice."""
    accepted = inspect.signature(cls).parameters
    for name, constraints in getattr(cls, "_parameter_constraints", {}).items():
        if name in NOT_STORED or name not in accepted or constraints == "no_validation":
            continue
        for constraint in constraints:
            for value in _choices(constraint):
                if accepted[name].default is not value:
                    yield name, value


def _choices(constraint: Any) -> list[Any]:
    if isinstance(constraint, StrOptions | Options):
        return sorted(constraint.options, key=repr)
    if constraint == "boolean":
        return [False, True]
    if constraint == "random_state":
        return [np.random.RandomState(0)]
    return []


def _generated_cases() -> Iterator[Case]:
    for name, cls in all_estimators():
        if not _in_scope(name, cls):
            continue
        estimator = _build(cls)
        base = _base_samples(estimator)
        yield Case(name, estimator, base, must_fit=True)
        for sample in _other_samples(estimator):
            yield Case(f"{name} on {sample}", estimator, (sample,))
        for setting, value in _options(cls):
            variant = clone(estimator).set_params(**{setting: value})
            yield Case(f"{name}({setting}={_shown(value)})", variant, base)


def _metric_cases() -> Iterator[Case]:
    search = partial(model_selection.GridSearchCV, cv=2)
    for name in get_scorer_names():
        module = get_scorer(name)._score_func.__module__  # noqa: SLF001 - no public way
        if module.endswith("_regression"):
            yield Case(name, search(RIDGE, {"alpha": [1]}, scoring=name), ("numbers",))
        elif not module.endswith("cluster._supervised"):
            yield Case(name, search(LOGISTIC, {"C": [1]}, scoring=name), ("binary",))
    mean_f1 = make_scorer(f1, average="macro")
    yield Case("make_scorer", search(LOGISTIC, {"C": [1]}, scoring=mean_f1), ("classes",))
    for splitter in (
        [(np.arange(20), np.arange(20, 40))],
        model_selection.KFold(2, shuffle=True),
        model_selection.LeaveOneOut(),
        model_selection.RepeatedKFold(n_splits=2, n_repeats=1),
        model_selection.RepeatedStratifiedKFold(n_splits=2, n_repeats=1),
        model_selection.ShuffleSplit(2),
        model_selection.StratifiedShuffleSplit(2),
        model_selection.TimeSeriesSplit(2),
    ):
        estimator = search(RIDGE, {"alpha": [1]}, cv=splitter)
        yield Case(f"GridSearchCV(cv={type(splitter).__name__})", estimator, ("binary",))
    # Distance classes that the generated cases miss: they need arguments.
    for metric, given in (
        ("minkowski", {"p": 3}),
        ("minkowski", {"p": 3, "metric_params": {"w": np.ones(4)}}),
        ("seuclidean", {"metric_params": {"V": np.ones(4)}}),
        ("mahalanobis", {"metric_params": {"VI": np.eye(4)}}),
    ):
        for algorithm in ("auto", "ball_tree", "brute"):
            near = neighbors.KNeighborsClassifier(metric=metric, algorithm=algorithm, **given)
            yield Case(f"KNeighborsClassifier({metric}, {algorithm})", near, ("classes",))


def _kernel_cases() -> Iterator[Case]:
    rbf = kernels.RBF()
    for kernel in (
        kernels.ConstantKernel(2.0) * rbf + kernels.WhiteKernel(),
        kernels.DotProduct() + kernels.WhiteKernel(),
        kernels.ExpSineSquared() * rbf + kernels.WhiteKernel(),
        kernels.Matern(nu=2.5),
        kernels.PairwiseKernel(metric="rbf"),
        kernels.RationalQuadratic(),
        rbf**2,
    ):
        name = type(kernel).__name__
        regressor = gp.GaussianProcessRegressor(kernel, alpha=0.1, random_state=0)
        yield Case(f"GaussianProcessRegressor({name})", regressor, ("numbers",))
        classifier = gp.GaussianProcessClassifier(kernel, random_state=0)
        yield Case(f"GaussianProcessClassifier({name})", classifier, ("binary",))


def _column_cases() -> Iterator[Case]:
    scale = preprocessing.StandardScaler()
    encode = preprocessing.OneHotEncoder(handle_unknown="ignore", sparse_output=False)
    fill = make_pipeline(impute.SimpleImputer(strategy="most_frequent"), encode)
    numbers = compose.make_column_selector(dtype_include=np.number)
    strings = compose.make_column_selector(dtype_include=[object, "category", "str"])
    for label, parts, sample in (
        ("by name", [("a", scale, ["n"]), ("b", fill, ["city", "kind"])], "holes"),
        ("text column", [("a", extraction.text.TfidfVectorizer(), "city")], "table"),
        ("by slice", [("a", scale, slice(0, 2)), ("b", "drop", [3])], "classes"),
        ("by mask", [("a", scale, np.array([True, False, True, False]))], "classes"),
        ("by selector", [("a", scale, numbers), ("b", encode, strings)], "table"),
        ("by pandas Index", [("a", scale, pd.Index(["n"]))], "table"),
    ):
        columns = compose.ColumnTransformer(parts, remainder="drop")
        yield Case(f"ColumnTransformer {label}", columns, (sample,))
        model = make_pipeline(clone(columns), LOGISTIC)
        yield Case(f"Pipeline of ColumnTransformer {label}", model, (sample,))
    keep = compose.ColumnTransformer([("a", scale, ["a"])], remainder="passthrough")
    yield Case("ColumnTransformer to pandas", keep.set_output(transform="pandas"), ("frame",))
    known = [np.array(["Bern", "Bonn", "Oslo", "Rom"], dtype=object), ["x", "y"]]
    for name in ("OneHotEncoder", "OrdinalEncoder"):
        encoder = getattr(preprocessing, name)(categories=known)
        yield Case(f"{name}(categories=...)", encoder, ("words",))
    for dtype in (bool, int, float, np.int32, np.int64, np.uint8, np.float32):
        encoder = preprocessing.OneHotEncoder(dtype=dtype)
        yield Case(f"OneHotEncoder(dtype={dtype.__name__})", encoder, ("words",))
    yield Case(
        "text pipeline", make_pipeline(extraction.text.TfidfVectorizer(), TruncatedSVD(2), svm.LinearSVC()), ("text",)
    )
    union = FeatureUnion([("a", PCA(2)), ("b", selection.SelectKBest(k=1))])
    yield Case("FeatureUnion pipeline", Pipeline([("a", union), ("b", svm.SVC())]), ("labels",))


def _function_cases() -> Iterator[Case]:
    for there, back in ((np.log1p, np.expm1), (np.log, np.exp), (np.sqrt, np.square)):
        target = compose.TransformedTargetRegressor(RIDGE, func=there, inverse_func=back)
        yield Case(f"TransformedTargetRegressor({there.__name__})", target, ("numbers",))
    for func in (np.log1p, np.expm1, np.sqrt):
        function = preprocessing.FunctionTransformer(func, feature_names_out="one-to-one")
        yield Case(f"FunctionTransformer({func.__name__})", function, ("labels",))
    for score in (
        selection.chi2,
        selection.f_classif,
        selection.f_regression,
        selection.mutual_info_classif,
        selection.mutual_info_regression,
        selection.r_regression,
    ):
        best = selection.SelectKBest(score, k=2)
        yield Case(f"SelectKBest({score.__name__})", best, ("classes",))
    bound = partial(selection.mutual_info_classif, random_state=0)
    yield Case("SelectKBest(partial)", selection.SelectKBest(bound, k=2), ("classes",))


def _composed_cases() -> Iterator[Case]:
    boost = partial(ensemble.HistGradientBoostingClassifier, max_iter=2, min_samples_leaf=2)
    randomized = partial(model_selection.RandomizedSearchCV, LOGISTIC, n_iter=2, cv=2)
    grid = {"C": np.logspace(0, 1, 2), "max_iter": range(50, 52)}
    fitted = FrozenEstimator(clone(LOGISTIC).fit(*_samples()["classes"]))
    forest = ensemble.RandomForestClassifier(n_estimators=3, random_state=0)
    for estimator, sample in (
        (boost(categorical_features=[0]), "codes"),
        (boost(categorical_features="from_dtype"), "kinds"),
        (boost(monotonic_cst={"a": 1}, interaction_cst=[{0, 1}, {2}]), "frame binary"),
        (boost(early_stopping=True, scoring="accuracy"), "classes"),
        (boost(early_stopping=True, scoring=None), "classes"),
        (randomized({"C": scipy.stats.loguniform(0.1, 1)}), "classes"),
        (randomized({"max_iter": scipy.stats.randint(50, 99)}), "classes"),
        (model_selection.GridSearchCV(LOGISTIC, grid, cv=2), "classes"),
        (
            model_selection.GridSearchCV(
                make_pipeline(preprocessing.StandardScaler(), svm.SVC()),
                {"svc__C": [1, 2]},
                scoring=["accuracy", "f1_macro"],
                refit="accuracy",
                cv=2,
            ),
            "labels",
        ),
        (fitted, "classes"),
        (calibration.CalibratedClassifierCV(fitted), "classes"),
        (calibration.CalibratedClassifierCV(forest, cv=2), "labels"),
        (selection.SelectFromModel(forest), "labels"),
        (selection.RFE(forest, n_features_to_select=2), "labels"),
        (ensemble.AdaBoostClassifier(LOGISTIC, n_estimators=2), "labels"),
        (ensemble.BaggingClassifier(svm.SVC(), n_estimators=2), "labels"),
        (ensemble.BaggingRegressor(neighbors.KNeighborsRegressor(), 2), "frame"),
        (ensemble.GradientBoostingClassifier(n_estimators=2, init=TREE), "classes"),
        (ensemble.GradientBoostingRegressor(n_estimators=2, init="zero"), "numbers"),
        (ensemble.StackingClassifier([("a", forest), ("b", svm.SVC())], cv=2), "labels"),
        (ensemble.VotingClassifier([("a", forest), ("b", LOGISTIC)], voting="soft"), "labels"),
        (multioutput.MultiOutputClassifier(forest), "multiclass"),
        (multioutput.MultiOutputRegressor(ensemble.GradientBoostingRegressor()), "targets"),
        (multiclass.OneVsRestClassifier(svm.LinearSVC()), "labels"),
        (LinearDiscriminantAnalysis("lsqr", covariance_estimator=covariance.OAS()), "classes"),
        (LinearDiscriminantAnalysis("eigen", covariance_estimator=covariance.LedoitWolf()), "classes"),
        (dummy.DummyClassifier(strategy="constant", constant="yes"), "labels"),
        (linear_model.LogisticRegression(l1_ratio=0.5, solver="saga"), "classes"),
        (linear_model.LogisticRegression(class_weight={"no": 2.0}), "labels"),
        (impute.SimpleImputer(strategy="constant", fill_value="?"), "words with holes"),
    ):
        yield Case(f"{_shown(estimator)} on {sample}", estimator, (sample,))
    with sklearn.config_context(enable_metadata_routing=True):
        routed = linear_model.LogisticRegression().set_fit_request(sample_weight=True)
        yield Case("LogisticRegression().set_fit_request()", routed, ("classes",))


@cache
def _cases() -> list[Case]:
    explicit = [*_metric_cases(), *_kernel_cases(), *_column_cases(), *_function_cases(), *_composed_cases()]
    return [*_generated_cases(), *(replace(case, must_fit=True) for case in explicit)]


# --- The experiment -------------------------------------------------------------------


class Recorder(NumpyUnpickler):  # type: ignore[misc]
    """joblib's own unpickler, listing what it asks for, object arrays included."""

    def __init__(self, file: io.BytesIO) -> None:
        """Read from `file`, which holds what joblib wrote."""
        super().__init__("", file, ensure_native_byte_order=True)
        self.names: set[str] = set()

    def find_class(self, module: str, name: str) -> Any:
        """Note the name and look it up."""
        self.names.add(f"{module}.{name}")
        return super().find_class(module, name)


def _globals_in(data: bytes) -> set[str]:
    """List the names in a pickle as `find_class` will receive them; nothing is loaded."""
    names: set[str] = set()
    strings: list[str] = []
    memo: list[str] = []
    for opcode, argument, _ in pickletools.genops(data):
        if opcode.name == "GLOBAL":
            names.add(str(argument).replace(" ", ".", 1))
        elif opcode.name == "STACK_GLOBAL":
            names.add(".".join(strings[-2:]))
        elif "UNICODE" in opcode.name:
            strings.append(str(argument))
        elif opcode.name == "MEMOIZE":
            memo.append(strings[-1] if strings else "")
        elif opcode.name in ("BINGET", "LONG_BINGET") and isinstance(argument, int):
            strings.extend(memo[argument : argument + 1])
    return names


def _globals_in_joblib(estimator: Any, protocol: int) -> set[str]:
    file = io.BytesIO()
    joblib.dump(estimator, file, protocol=protocol)
    file.seek(0)
    recorder = Recorder(file)
    recorder.load()
    return recorder.names


def _pickle_names(estimator: Any) -> frozenset[str]:
    names: set[str] = set()
    for protocol in PROTOCOLS:
        names |= _globals_in(pickle.dumps(estimator, protocol))
        names |= _globals_in_joblib(estimator, protocol)
    return frozenset(names)


def _nodes_in(data: bytes) -> frozenset[tuple[str, str]]:
    """List the pairs of loader and name of all nodes in a .skops file."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        waiting = [json.loads(file.read("schema.json"))]
    found = set()
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        if isinstance(part, dict) and "__loader__" in part:
            found.add((part["__loader__"], f"{part['__module__']}.{part['__class__']}"))
    return frozenset(found)


def _outputs(estimator: Any, x: Any) -> dict[str, Any]:
    """Give what a caller could see, as values that compare bit by bit."""
    np.random.seed(0)  # noqa: NPY002 - what estimators without a random_state draw from
    found = {}
    for name in ("predict", "predict_proba", "decision_function", "transform"):
        method = getattr(estimator, name, None)
        try:
            found[name] = _bits(method(x)) if method else None
        except Exception as error:  # noqa: BLE001 - the copy has to fail in the same way
            found[name] = f"raises {error!r}"
    return {name: value for name, value in found.items() if value is not None}


def _bits(value: Any) -> Any:
    if scipy.sparse.issparse(value):
        rows = value.tocsr()
        return [_bits(rows.data), _bits(rows.indices), _bits(rows.indptr), rows.shape]
    if isinstance(value, list | tuple):
        return [_bits(item) for item in value]
    if isinstance(value, pd.DataFrame):
        return [list(value.columns), _bits(value.to_numpy())]
    array = np.asarray(value)
    held = repr(array.tolist()) if array.dtype.hasobject else array.tobytes()
    return [str(array.dtype), array.shape, held]


def _fitted(case: Case) -> tuple[Any, Any] | None:
    """Give an estimator that works and its data; None if the setting suits none of the samples."""
    errors = []
    for sample in case.samples:
        x, y = _samples()[sample]
        try:
            estimator = clone(case.estimator).fit(x, y)
        except Exception as error:  # noqa: BLE001 - whatever it is, this setting does not fit this data
            errors.append(f"{sample}: {error!r}")
            continue
        outputs = _outputs(estimator, x)
        if any(isinstance(output, list) for output in outputs.values()):
            return estimator, x
        errors.append(f"{sample}: {outputs}")
    if case.must_fit:
        raise RuntimeError(f"{case.label} does not work: {'; '.join(errors)}")
    return None


def _examine(index: int) -> Result | None:
    warnings.simplefilter("ignore")
    case = _cases()[index]
    found = _fitted(case)
    if found is None:
        return None
    estimator, x = found
    names = _pickle_names(estimator)
    refusal = _refused_name(names)
    try:
        data = skops.io.dumps(estimator)
        types = skops.io.get_untrusted_types(data=data)
        copy = skops.io.loads(data, trusted=types)
    except (TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"skops cannot store it: {str(error).splitlines()[0]}"
        return Result(case.kind, case.label, names, frozenset(), frozenset(), refusal or reason)
    # Against the pickle's copy and not the original: neither format keeps strides, and
    # another memory layout can change the last bit of a sum.
    want = _outputs(pickle.loads(pickle.dumps(estimator)), x)  # noqa: S301 - our own
    if refusal is None and _outputs(copy, x) != want:
        refusal = "the copy by skops does not give the same bits"
    refusal = refusal or _refused_name(types)
    return Result(case.kind, case.label, names, frozenset(types), _nodes_in(data), refusal)


def _refused_name(names: frozenset[str] | list[str]) -> str | None:
    reasons = {name: EXCLUDED.get(name) or _unread(name) for name in sorted(names)}
    wrong = [f"{name} {reason}" for name, reason in reasons.items() if reason]
    # EXCLUDED says more than "not read".
    return min(wrong, key=lambda text: text.endswith(UNREAD), default=None)


def _unread(name: str) -> str | None:
    if name in REVIEWED:
        return None
    module, _, attribute = name.rpartition(".")
    if module.startswith("sklearn."):
        found = getattr(import_module(module), attribute, None)
        if isinstance(found, type):
            return None
    return UNREAD


# --- The table ------------------------------------------------------------------------


def _names_to_freeze(results: list[Result]) -> dict[str, Any]:
    accepted = [result for result in results if result.refusal is None]
    names = frozenset[str]().union(*(result.pickle for result in accepted))
    types = frozenset[str]().union(*(result.skops for result in accepted))
    nodes = SCALAR_NODES.union(*(result.nodes for result in accepted))
    return {
        "scikit-learn": ".".join(sklearn.__version__.split(".")[:2]),
        "pickle": sorted(names | {_numpy_1_name(name) for name in names}),
        "skops": sorted(types),
        "skops_nodes": [list(pair) for pair in sorted(nodes)],
    }


def _text(table: dict[str, Any]) -> str:
    """Write the table with each entry on a line of its own."""
    pair = re.compile(r'\[\s+("[^"]+"),\s+("[^"]+")\s+\]')
    return pair.sub(r"[\1, \2]", json.dumps(table, indent=2)) + "\n"


def _numpy_1_name(name: str) -> str:
    """Give the name of the same thing in NumPy 1, whose files are as good."""
    return name.replace("numpy._core.", "numpy.core.", 1)


def _summary(results: list[Result], skipped: int, table: dict[str, Any]) -> str:
    total = Counter(result.kind for result in results)
    good = Counter(result.kind for result in results if result.refusal is None)
    whole = sorted(kind for kind in total if good[kind] == total[kind])
    partly = sorted(f"{kind} ({good[kind]} of {total[kind]})" for kind in total if 0 < good[kind] < total[kind])
    return "\n".join(
        [
            ", ".join(f"{used.__name__} {used.__version__}" for used in (sklearn, np, scipy, joblib, skops)),
            f"{len(results)} configurations of {len(total)} estimators, {good.total()} accepted",
            f"{skipped} more settings suit none of the samples",
            f"{len(table['pickle'])} names for pickle, {len(table['skops'])} for skops",
            f"{len(table['skops_nodes'])} pairs of loader and name for skops",
            f"accepted in all configurations ({len(whole)}): {', '.join(whole)}",
            f"accepted in some ({len(partly)}): {', '.join(partly)}",
            *_refused_lines(results),
        ]
    )


def _refused_lines(results: list[Result]) -> list[str]:
    labels: dict[str, list[str]] = {}
    for result in results:
        if result.refusal:
            labels.setdefault(f"refused: {result.kind}: {result.refusal}", []).append(result.label)
    return [f"{reason} [{', '.join(which)}]" for reason, which in sorted(labels.items())]


def _run(every: int) -> tuple[list[Result], int]:
    cases = range(0, len(_cases()), every)
    with multiprocessing.get_context("fork").Pool() as pool:
        found = pool.map(_examine, cases, chunksize=8)
    results = [result for result in found if result is not None]
    return results, len(cases) - len(results)


def _lacking(stored: dict[str, Any], table: dict[str, Any]) -> list[str]:
    """List what a part of the configurations needs and the stored table does not have."""
    parts = ("pickle", "skops", "skops_nodes")
    return [f"{part} lacks {entry}" for part in parts for entry in table[part] if entry not in stored[part]]


def main() -> int:
    """Write the table or, with --check, compare it with the stored one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--every", type=int, default=1, help="examine one configuration of so many")
    options = parser.parse_args()
    if options.every != 1 and not options.check:
        parser.error("a table is made from all configurations: --every goes with --check")
    warnings.simplefilter("ignore")
    results, skipped = _run(options.every)
    table = _names_to_freeze(results)
    print(_summary(results, skipped, table))
    if not options.check:
        TABLE.write_text(_text(table), encoding="utf-8")
        return 0
    stored = TABLE.read_text(encoding="utf-8")
    if options.every != 1:
        lacking = _lacking(json.loads(stored), table)
        print(*lacking, sep="\n")
        return int(bool(lacking))
    diff = difflib.unified_diff(stored.splitlines(), _text(table).splitlines(), str(TABLE), "found now", lineterm="")
    sys.stdout.writelines(f"{line}\n" for line in diff)
    return int(stored != _text(table))


if __name__ == "__main__":
    sys.exit(main())
