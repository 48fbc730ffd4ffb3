"""Writes docs/estimators.md: which estimators are accepted, whether their answers are exact, and why others are not.

Every estimator of scikit-learn that predicts is fitted in its plain configuration and in some others, and so is every
transformer with a classifier behind it. The file goes through what the locked child does with an upload, here without
the lock, and what comes out is asked the same rows as the estimator in the file: all at once, and some alone.

    python scripts/estimator_table.py           write the page
    python scripts/estimator_table.py --check   compare with the stored page, exit 1 if it differs
    python scripts/estimator_table.py --all     try every configuration, exit 1 if the page would explain one badly
"""

# ruff: noqa: ANN401 - estimators and their data can be anything
from __future__ import annotations

import argparse
import difflib
import io
import json
import multiprocessing
import sys
import textwrap
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

# First of what brings NumPy: it sets the number of native threads before.
from estimator_names import LOGISTIC, OUT_OF_SCOPE, Case, _cases, _fitted  # type: ignore[import-not-found] # isort: skip

import joblib
import numpy as np
import pandas as pd
import scipy.sparse  # type: ignore[import-untyped]
import sklearn
from sklearn.base import ClassifierMixin, ClusterMixin, OutlierMixin, RegressorMixin, clone, is_classifier
from sklearn.pipeline import Pipeline
from sklearn.utils import all_estimators

from webapp import artifacts, names, signature
from webapp.errors import Invalid
from webapp.intake import child, formats, reading, skops_reading, trial
from webapp.serving.predictor import Outcome, Predictor
from webapp.signature import Signature
from webapp.signature.check import Checker

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "estimators.md"
# Beside the plain configuration, so many that are expected to be accepted; data with names of columns comes first.
MOST_OTHERS = 1
OTHER_DATA = ("frame", "labels", "targets", "multilabel", "holes", "gaps", "gaps numbers", "sparse", "sparse numbers")
# All rows are asked at once, and one of so many alone.
ALONE_EVERY = 15
PAGE_CHARACTERS = 120
# In front of a classifier: one would give it a million columns, the other none where no value is missing.
IN_FRONT: dict[str, dict[str, Any]] = {
    "HashingVectorizer": {"n_features": 1024},
    "MissingIndicator": {"features": "all"},
}

# Why an estimator is refused in every configuration, and the way out.
REASONS = {
    **dict.fromkeys(
        ("DictVectorizer", "FeatureHasher"),
        "It takes dicts of any form; a request has the same features in every row. Use `OneHotEncoder`.",
    ),
    **dict.fromkeys(
        ("MiniBatchSparsePCA", "SparsePCA"),
        "In this version of scikit-learn it cannot transform one row alone. Use `PCA` or `TruncatedSVD`.",
    ),
    "Birch": "skops cannot store it: its parts refer to one another in a circle. Use `KMeans`, or fit a"
    " `NearestCentroid` on its `labels_`.",
    "BisectingKMeans": "It keeps a compiled function of its training that trusts whatever sizes it is given. Use"
    " `KMeans`, or fit a `NearestCentroid` on its `labels_`.",
}
# Options that are refused: the estimator and part of the configuration's label, what the page calls it, and why.
BOUND = "The file binds a function to arguments of its own, which could be any. Encode before it, in a `Pipeline`."
INDEX = "The file holds data of pandas. Name them by a list: `list(frame.columns)`."
CIRCLE = "The estimator holds itself, which skops cannot store."
UNASKED = "Without `VI` it can be asked for its training rows only. Give `metric_params={'VI': ...}`."
SINGLE = "scikit-learn itself then takes no float64, which the numbers of a request are. Train it with float64."
OPTIONS = [
    (
        "GaussianProcessClassifier",
        "(Sum)",
        "a kernel that overfits",
        "It gives probabilities that are no numbers, and JSON has none such. Choose another kernel.",
    ),
    (
        "GaussianProcessClassifier",
        "one_vs_one",
        "`multi_class='one_vs_one'`",
        "Its `predict_proba` always fails. Use `'one_vs_rest'`.",
    ),
    ("HistGradientBoostingClassifier", "on codes", "`categorical_features=[…]`", BOUND),
    ("HistGradientBoostingClassifier", "on kinds", "columns of pandas' type `category`", BOUND),
    (
        "HistGradientBoostingClassifier",
        "scoring='accuracy'",
        "early stopping by a named `scoring`",
        "The file has a method looked up by name, which could be any. Use `scoring='loss'`.",
    ),
    (
        "HistGradientBoostingClassifier",
        "scoring=None",
        "early stopping with `scoring=None`",
        f"{CIRCLE} Use `scoring='loss'`.",
    ),
    ("KMeans", "on single", "float32 data", SINGLE),
    ("MiniBatchKMeans", "on single", "float32 data", SINGLE),
    ("NMF", "on single", "float32 data", SINGLE),
    (
        "OneHotEncoder",
        "on single",
        "numbers as categories, trained with float32",
        "The same number of a request has other digits then. Train it with float64.",
    ),
    *(
        (kind, "metric='mahalanobis'", "`metric='mahalanobis'` alone", UNASKED)
        for kind in (
            "KNeighborsClassifier",
            "KNeighborsRegressor",
            "LocalOutlierFactor",
            "RadiusNeighborsClassifier",
            "RadiusNeighborsRegressor",
            "Isomap",
            "KNeighborsTransformer",
            "RadiusNeighborsTransformer",
        )
    ),
    ("LogisticRegression", "set_fit_request", "`set_fit_request(…)`", f"{CIRCLE} Train it without metadata routing."),
    ("ColumnTransformer", "pandas Index", "columns named by a pandas Index", INDEX),
    ("Pipeline", "pandas Index", "columns named by a pandas Index", INDEX),
    (
        "SelectKBest",
        "partial",
        "a `score_func` made by `functools.partial`",
        "The file binds a function to arguments of its own, which could be any. Give the function alone.",
    ),
    (
        "RadiusNeighborsRegressor",
        "precomputed",
        "a radius that holds no neighbour",
        "Its answer is no number, and JSON has none such. Choose a larger radius.",
    ),
    (
        "RandomizedSearchCV",
        "rv_",
        "distributions of `scipy.stats`",
        "They run text of the file when they are opened. Save `best_estimator_` instead.",
    ),
]
KINDS = {
    ClassifierMixin: "classifier",
    RegressorMixin: "regressor",
    OutlierMixin: "outlier detector",
    ClusterMixin: "clusterer",
}

HEAD = """# Estimators

Which estimators of scikit-learn {version} are accepted, and whether the answers are exact. This page is made by
trying (`python scripts/estimator_table.py`): every estimator is fitted on small data in its plain configuration and in
some others, saved by joblib, and sent through what an upload goes through.

- Of {total} estimators that predict, {accepted} are accepted and {refused} refused.
- {partly} of those accepted are refused with some of their options.
- Of {transformers} transformers, {passed} are accepted in front of a model.
- Of {configurations} configurations that are accepted, {exact} give exact answers.

**Accepted** says how many of the configurations that were tried came through. **Exact** is as in
[signatures](signatures.md): labels are identical and numbers bit-identical to those of the estimator that joblib loads
from the same file, for all rows at once and for one alone, `predict` and (of classifiers) `predict_proba`. A Pipeline,
a search or a voting is accepted when all its parts are.

| Estimator | Kind | Accepted | Exact | Refused, and the way out |
|---|---|---|---|---|
"""
TRANSFORMERS = """
## Transformers

In a `Pipeline` before a model are accepted, with exact answers:
{accepted}

| Refused | Why, and the way out |
|---|---|
"""
TAIL = """
## Without predict

A clustering without `predict` can be served by a `NearestCentroid` or `KNeighborsClassifier` fitted on its `labels_`.
These are no models by themselves (`model_no_predict`):
{unable}
"""


@dataclass(frozen=True)
class Result:
    """What became of one configuration."""

    kind: str
    label: str
    predicts: bool
    # In words, where it is refused.
    refusal: str | None = None
    # Where its answers are not those of the estimator in the file.
    difference: str | None = None


# --- The configurations -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """A configuration of an estimator, which stands before a classifier if it does not predict itself."""

    kind: str
    predicts: bool
    case: Case


def _predicts(case: Case) -> bool:
    # A FrozenEstimator does what it holds does.
    return hasattr(type(case.estimator), "predict") or case.kind == "FrozenEstimator"


def _option(kind: str, label: str) -> tuple[str, str] | None:
    """Give what the page says of a configuration that is known to be refused."""
    known = ((option, why) for one, part, option, why in OPTIONS if kind == one and part in label)
    return next(known, None)


@cache
def _trials(*, every: bool) -> list[Trial]:
    by_kind: dict[str, list[Case]] = {}
    for case in _cases():
        by_kind.setdefault(case.kind, []).append(case)
    chosen = by_kind.values() if every else map(_some, by_kind.values())
    return [
        Trial(case.kind, _predicts(case), case if _predicts(case) else _before_a_model(case))
        for case in chain.from_iterable(chosen)
    ]


def _some(cases: list[Case]) -> Iterator[Case]:
    """Choose the plain configuration, those known to be refused, and a few on other data or with other options."""
    plain, *others = cases
    yield plain
    yield from (case for case in others if _option(case.kind, case.label))
    if _predicts(plain):
        rest = [case for case in others if not _option(case.kind, case.label)]
        yield from islice(sorted(rest, key=_rank), MOST_OTHERS)


def _rank(case: Case) -> int:
    data = case.label.removeprefix(f"{case.kind} on ")
    return OTHER_DATA.index(data) if data in OTHER_DATA else len(OTHER_DATA)


def _before_a_model(case: Case) -> Case:
    transformer = clone(case.estimator).set_params(**IN_FRONT.get(case.label, {}))
    # What selects columns finds one that says something among the codes at the latest.
    return Case(case.label, Pipeline([("transformer", transformer), ("model", LOGISTIC)]), (*case.samples, "codes"))


# --- What an upload goes through --------------------------------------------------------------------------


def _examine(tried: Trial) -> Result | None:
    """Try one configuration; give None if it suits none of the data."""
    found = _fitted(tried.case)
    if found is None:
        return None
    fitted, inputs = found
    result = Result(tried.kind, tried.case.label, tried.predicts)
    frame = _as_frame(inputs)
    file = io.BytesIO()
    joblib.dump(fitted, file)
    try:
        predictor, learned = _served(file.getvalue(), frame)
    except Invalid as invalid:
        return replace(result, refusal=invalid.detail)
    # Not the fitted one: files do not keep every layout of arrays in memory, and sums over another round differently.
    estimator = joblib.load(io.BytesIO(file.getvalue()))
    trial.normalise(estimator)
    try:
        return replace(result, difference=_difference(estimator, inputs, frame, predictor, learned))
    except Invalid as invalid:
        return replace(result, difference=f"rows that it was fitted on are refused: {invalid.detail}")


def _served(content: bytes, frame: pd.DataFrame) -> tuple[Predictor, Signature]:
    """Do with a file what an upload goes through; raise `Invalid` where it is refused."""
    parcel = formats.unpack(content)
    reading.read(parcel.content, names.PICKLE)
    converted = child._dumped(child.unpickle(parcel.content))  # noqa: SLF001 - what `convert` does, without its pipes
    skops_reading.read(converted, names.SKOPS_NODES)
    loaded = trial.load(converted, child.load_skops)
    reference = frame.to_csv(index=False).encode()
    material = trial.material(reference, None, {"target": None, "example": False, "declared": []})
    proof = json.loads(json.dumps(trial.run(loaded.estimator, material).proof))
    learned = signature.from_dict(proof["signature"])
    canonical = child._dumped(loaded.estimator)  # noqa: SLF001 - as above
    return Predictor(artifacts.load(canonical), learned), learned


# --- The answers ------------------------------------------------------------------------------------------


def _as_frame(inputs: Any) -> pd.DataFrame:
    """Give what an estimator was fitted on as the table that a reference is."""
    if isinstance(inputs, pd.DataFrame):
        return inputs
    if isinstance(inputs, list):
        return pd.DataFrame(inputs) if isinstance(inputs[0], dict) else pd.DataFrame({"text": inputs})
    array = inputs.toarray() if scipy.sparse.issparse(inputs) else np.asarray(inputs)
    return pd.DataFrame(array.reshape(len(array), -1)).add_prefix("x")


def _instances(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Give rows as a request has them."""
    records = frame.astype(object).where(frame.notna(), None).to_dict("records")
    instances: list[dict[str, Any]] = json.loads(json.dumps(records))
    return instances


def _asked(inputs: Any, frame: pd.DataFrame, chosen: list[int]) -> Any:
    """Give rows in the container that the estimator was fitted with, made anew as from a request."""
    if isinstance(inputs, list):
        return [inputs[each] for each in chosen]
    if not isinstance(inputs, pd.DataFrame):
        array = frame.to_numpy()[chosen]
        return array.astype(float) if array.dtype.kind == "f" else array
    rows = frame.iloc[chosen].astype(object)
    made = pd.DataFrame(rows.where(rows.notna(), np.nan).to_dict("records"))
    # Of one row with a missing word pandas would make a column of numbers.
    words = [name for name in frame.columns if not pd.api.types.is_numeric_dtype(frame[name])]
    return made.astype(dict.fromkeys(words, "str"))


def _difference(
    estimator: Any, inputs: Any, frame: pd.DataFrame, predictor: Predictor, learned: Signature
) -> str | None:
    """Say what the served estimator answers otherwise than the one in the file; None if nothing."""
    count = len(frame)
    rows = Checker(learned).rows(_instances(frame), [""] * count)
    for chosen in (list(range(count)), *([each] for each in range(0, count, ALONE_EVERY))):
        np.random.seed(0)  # noqa: NPY002 - what estimators without a random_state draw from
        outcomes = predictor.predict([rows[each] for each in chosen], [""] * len(chosen))
        given = [_flat(learned, outcome) for outcome in outcomes]
        np.random.seed(0)  # noqa: NPY002 - as above
        expected = _expected(estimator, _asked(inputs, frame, chosen), len(chosen))
        for row, one, other in zip(chosen, given, expected, strict=True):
            # As text, which tells 0.0 from -0.0 and 1 from 1.0 and True.
            if repr(one) != repr(other):
                return f"row {row}, {len(chosen)} asked at once: {one} instead of {other}"
    return None


def _flat(learned: Signature, outcome: Outcome) -> list[Any]:
    """Give the labels or numbers of all outputs, then the probabilities, as one list."""
    labels = list(outcome.prediction.values()) if learned.multi_output else [outcome.prediction]
    if outcome.probabilities is None:
        return labels
    tables = list(outcome.probabilities.values()) if learned.multi_output else [outcome.probabilities]
    shares = [list(table.values()) for table in tables]
    # Of labels that stand side by side, scikit-learn gives one share each: that the label is there.
    return labels + (
        [share for _, share in shares] if learned.probabilities == "columns" else list(chain.from_iterable(shares))
    )


def _expected(estimator: Any, rows: Any, count: int) -> list[list[Any]]:
    """Ask the estimator itself, and give its answers in the same form."""
    answers: list[list[Any]] = np.asarray(estimator.predict(rows)).reshape(count, -1).tolist()
    if not is_classifier(estimator) or not hasattr(estimator, "predict_proba"):
        return answers
    try:
        tables = estimator.predict_proba(rows)
    except ValueError:
        # With some options it has none, and says so only when asked.
        return answers
    side_by_side = np.hstack(tables) if isinstance(tables, list) else np.asarray(tables)
    return [answer + shares for answer, shares in zip(answers, side_by_side.tolist(), strict=True)]


# --- The page ---------------------------------------------------------------------------------------------


def _examined(number: int, *, every: bool) -> Result | None:
    warnings.simplefilter("ignore")
    return _examine(_trials(every=every)[number])


def run(*, every: bool = False) -> list[Result]:
    """Try the configurations in processes of their own."""
    numbers = range(len(_trials(every=every)))
    with multiprocessing.get_context("fork").Pool() as pool:
        found = pool.map(partial(_examined, every=every), numbers, chunksize=4)
    return [result for result in found if result]


def document(results: Sequence[Result]) -> str:
    """Give the whole page."""
    models, transformers = _by_kind(results, predicts=True), _by_kind(results, predicts=False)
    refused = [kind for kind, tried in models.items() if all(each.refusal for each in tried)]
    passed = [kind for kind, tried in transformers.items() if not tried[0].refusal]
    accepted = [result for result in results if not result.refusal]
    head = HEAD.format(
        version=sklearn.__version__,
        total=len(models),
        accepted=len(models) - len(refused),
        refused=len(refused),
        partly=sum(any(each.refusal for each in tried) for tried in models.values()) - len(refused),
        transformers=len(transformers),
        passed=len(passed),
        configurations=len(accepted),
        exact=sum(result.difference is None for result in accepted),
    )
    lines = [_line(kind, tried) for kind, tried in models.items()]
    not_passed = [
        f"| {kind}{_with(each)} | {_why(each)} |"
        for kind, tried in transformers.items()
        for each in tried
        if each.refusal
    ]
    return "".join(
        [
            head,
            *(f"{line}\n" for line in lines),
            TRANSFORMERS.format(accepted=_wrapped(passed)),
            *(f"{line}\n" for line in not_passed),
            TAIL.format(unable=_wrapped(_unable(results))),
        ]
    )


def _by_kind(results: Sequence[Result], *, predicts: bool) -> dict[str, list[Result]]:
    kinds: dict[str, list[Result]] = {}
    for result in results:
        if result.predicts == predicts:
            kinds.setdefault(result.kind, []).append(result)
    return dict(sorted(kinds.items()))


def _line(kind: str, tried: list[Result]) -> str:
    accepted = [each for each in tried if not each.refusal]
    counted = f"{len(accepted)} of {len(tried)}" if accepted else "no"
    differing = [each.label for each in accepted if each.difference]
    exact = f"no: {', '.join(differing)}" if differing else "yes"
    refused = [each for each in tried if each.refusal]
    said = dict.fromkeys(f"With {_name(each)}: {_why(each)}" if accepted else _why(each) for each in refused)
    return f"| {kind} | {_kind(kind)} | {counted} | {exact if accepted else '-'} | {' '.join(said)} |"


def _kind(kind: str) -> str:
    cls = dict(all_estimators()).get(kind, object)
    return next((word for mixin, word in KINDS.items() if issubclass(cls, mixin)), "as what it holds")


def _name(result: Result) -> str:
    known = _option(result.kind, result.label)
    return known[0] if known else result.label.replace("|", "\\|")


def _with(result: Result) -> str:
    """Say with what a transformer is refused; nothing where it always is."""
    return f" with {_name(result)}" if _option(result.kind, result.label) else ""


def _why(result: Result) -> str:
    known = _option(result.kind, result.label)
    return REASONS.get(result.kind) or (known[1] if known else str(result.refusal).replace("|", "\\|"))


def _unable(results: Sequence[Result]) -> list[str]:
    tried = {result.kind for result in results} | OUT_OF_SCOPE
    return [kind for kind, _ in all_estimators() if kind not in tried]


def _wrapped(kinds: Iterable[str]) -> str:
    """List kinds on lines of their own, as wide as the page."""
    return "\n" + textwrap.fill(", ".join(f"`{kind}`" for kind in kinds), PAGE_CHARACTERS)


def _unexplained(results: Sequence[Result]) -> list[str]:
    """Name what would need a word on the page, and what is not as it should be."""
    return [
        f"{each.label}: {each.refusal or each.difference}"
        for each in results
        if each.difference or (each.refusal and _why(each) == each.refusal)
    ]


def main() -> int:
    """Write the page or, with --check, compare it with the stored one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--all", action="store_true", help="try every configuration, write nothing")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    started = time.perf_counter()
    results = run(every=options.all)
    print(f"{len(results)} configurations in {time.perf_counter() - started:.0f} s")
    unexplained = _unexplained(results)
    print(*unexplained, sep="\n", end="\n" if unexplained else "")
    if options.all or unexplained:
        return int(bool(unexplained))
    page = document(results)
    if not options.check:
        DOCUMENT.write_text(page, encoding="utf-8")
        return 0
    stored = DOCUMENT.read_text(encoding="utf-8")
    diff = difflib.unified_diff(stored.splitlines(), page.splitlines(), str(DOCUMENT), "found now", lineterm="")
    sys.stdout.writelines(f"{line}\n" for line in diff)
    return int(stored != page)


if __name__ == "__main__":
    sys.exit(main())
