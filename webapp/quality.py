"""Quality: predictions scored against what turned out to be true, how sure the scores are, and what they come to.

Intervals are of 95 %: Wilson's for accuracy and the bins of calibration, else the normal approximation by the influence
that each row has on a score (for AUC that is DeLong's). Nothing is drawn at random, so the same rows give the same
interval. A score or interval that rows say nothing of is None. The scores are those of `sklearn.metrics`, which tests
compare; they are computed here because each row's influence is needed, and a page has hundreds of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy.optimize import isotonic_regression  # type: ignore[import-untyped] # scipy ships no types
from scipy.stats import rankdata  # type: ignore[import-untyped]

Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
State = Literal["none", "collecting", "unjudged", "fine", "worse"]

# With fewer rows the normal approximation claims too much.
LEAST_FOR_INTERVAL = 30
# With fewer nothing is said of whether a model is still good.
LEAST_JUDGED = 100
# So much worse than the card counts: absolute for what is at most 1, else as a part of what the card says.
TOLERANCE = 0.02
RELATIVE_TOLERANCE = 0.1
# So many rows with truth tell which probabilities can be believed.
LEAST_CALIBRATED = 200
BINS = 10
BEST_WHEN_HIGH = frozenset({"accuracy", "balanced_accuracy", "f1", "auc", "r2"})
# What is compared with the card: the first that both have. F1 is not: cards do not say of which class theirs is.
JUDGED = {
    "classification": ("accuracy", "balanced_accuracy", "auc", "log_loss", "brier"),
    "regression": ("rmse", "mae", "r2"),
}
# What cards call a score, beside our own name for it.
NAMES = {
    "auc": ("roc_auc", "roc_auc_score"),
    "brier": ("brier_score", "brier_score_loss"),
    "f1": ("f1_score",),
    "mae": ("mean_absolute_error",),
    "rmse": ("root_mean_squared_error",),
    "r2": ("r2_score",),
}
# What people call a score.
TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "f1": "F1",
    "auc": "AUC",
    "log_loss": "log-loss",
    "brier": "Brier score",
    "mae": "MAE",
    "rmse": "RMSE",
    "r2": "R²",
    "bias": "bias",
}
# Errors of this size are shown without a fraction.
WHOLE_FROM, WHOLE_UP_TO = 1000, 1e12
_Z = 1.959963984540054
_LEAST_CLASSES = 2


@dataclass(frozen=True, slots=True)
class Row:
    """What one output answered to an instance, and what was true; probabilities by the text of each class."""

    predicted: Any
    truth: Any
    probabilities: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class Score:
    """A score with its interval."""

    name: str
    value: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Bin:
    """Rows of about the same probability: the mean of what was said, and how often it was so."""

    low: float
    high: float
    n: int
    said: float
    true: Score


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of one output over `n` rows."""

    n: int
    task: str
    scores: tuple[Score, ...] = ()
    # Of two classes for the last one, of more for the one that was predicted.
    calibration: tuple[Bin, ...] = ()

    def of(self, name: str) -> Score:
        """Give a score by name; one without a value where there is none."""
        return next((each for each in self.scores if each.name == name), Score(name))


@dataclass(frozen=True, slots=True)
class Estimate:
    """The accuracy that probabilities promise over `n` rows, whose truth need not be known."""

    accuracy: float
    n: int
    # Over how many rows with truth it was learned what a probability is worth; 0: they are taken at their word.
    calibrated_on: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a model is still good, in one word and in one sentence."""

    state: State
    sentence: str
    # The score that it speaks of.
    metric: str = ""


def score(classes: Sequence[Any] | None, rows: Sequence[Row]) -> Scores:
    """Score the rows of one output: of a classifier with these classes, or of numbers."""
    return _numbers(rows) if classes is None else _labels(classes, rows)


# --- Classes ----------------------------------------------------------------------------------------------


def _labels(classes: Sequence[Any], rows: Sequence[Row]) -> Scores:
    codes = {label: code for code, label in enumerate(classes)}
    known = [row for row in rows if row.predicted in codes and row.truth in codes]
    if not known:
        return Scores(0, "classification")
    truth = np.array([codes[row.truth] for row in known])
    predicted = np.array([codes[row.predicted] for row in known])
    table = _table(classes, known)
    found = [_share("accuracy", predicted == truth), _balanced(truth, predicted), _f1(len(classes), truth, predicted)]
    if table is None:
        return Scores(len(known), "classification", tuple(found))
    found += [_auc(truth, table), _log_loss(truth, table)]
    sure, came = table[np.arange(len(truth)), predicted], predicted == truth
    if len(classes) == _LEAST_CLASSES:
        sure, came = table[:, -1], truth == 1
        found.append(_mean("brier", (sure - came) ** 2, 0, 1))
    return Scores(len(known), "classification", tuple(found), tuple(_bins(sure, came)))


def _table(classes: Sequence[Any], rows: Sequence[Row]) -> Numbers | None:
    """Give the probabilities of each row in the order of the classes; None where any is missing."""
    names = [str(label) for label in classes]
    try:
        table = np.array([[row.probabilities[name] for name in names] for row in rows], dtype=np.float64)  # type: ignore[index]
    except (KeyError, TypeError, ValueError):
        return None
    return table if np.isfinite(table).all() else None


def _balanced(truth: Numbers, predicted: Numbers) -> Score:
    """Give the mean of what was found of each class that there was."""
    name, there = "balanced_accuracy", np.unique(truth)
    if len(there) < _LEAST_CLASSES:
        return Score(name)
    recalls = np.array([(predicted[truth == code] == code).mean() for code in there])
    counts = np.array([(truth == code).sum() for code in there])
    variance = float((recalls * (1 - recalls) / counts).sum()) / len(there) ** 2
    return _around(name, float(recalls.mean()), math.sqrt(variance), len(truth))


def _f1(classes: int, truth: Numbers, predicted: Numbers) -> Score:
    """Give F1 of the last of two classes, of more the mean over those that were true or predicted."""
    asked = [1] if classes == _LEAST_CLASSES else np.union1d(truth, predicted)
    values, influences = [], np.zeros(len(truth))
    for code in asked:
        # A row counts twice where it is both.
        named = (truth == code).astype(float) + (predicted == code)
        if not named.any():
            return Score("f1")
        hit = 2.0 * (named == 2)  # noqa: PLR2004 - both
        values.append(hit.sum() / named.sum())
        influences += (hit - values[-1] * named) / named.mean()
    return _influenced("f1", float(np.mean(values)), influences / len(values), 0, 1)


def _auc(truth: Numbers, table: Numbers) -> Score:
    """Give AUC of the last of two classes, of more the mean of each against the others, of those that there were."""
    there = np.unique(truth)
    if len(there) < _LEAST_CLASSES:
        return Score("auc")
    asked = [1] if table.shape[1] == _LEAST_CLASSES else there
    values, influences = [], np.zeros(len(truth))
    for code in asked:
        value, influence = _auc_of(truth == code, table[:, code])
        values.append(value)
        influences += influence
    return _influenced("auc", float(np.mean(values)), influences / len(values), 0, 1)


def _auc_of(positive: Flags, said: Numbers) -> tuple[float, Numbers]:
    """Give AUC, and what each row brings to it: over how many of the other side it lies, halves for ties."""
    ours, theirs = positive.sum(), (~positive).sum()
    ranks = rankdata(said)
    beaten = np.empty(len(said))
    beaten[positive] = (ranks[positive] - rankdata(said[positive])) / theirs
    beaten[~positive] = 1 - (ranks[~positive] - rankdata(said[~positive])) / ours
    value = float(beaten[positive].mean())
    return value, (beaten - value) * np.where(positive, len(said) / ours, len(said) / theirs)


def _log_loss(truth: Numbers, table: Numbers) -> Score:
    least = np.finfo(float).eps
    return _mean("log_loss", -np.log(table[np.arange(len(truth)), truth].clip(least, 1 - least)), 0, math.inf)


def _bins(said: Numbers, came: Flags) -> Iterator[Bin]:
    """Give bins of equal width; those without rows are left out."""
    places = (said * BINS).astype(int).clip(0, BINS - 1)
    for place in np.unique(places):
        here = places == place
        mean = float(said[here].mean())
        yield Bin(place / BINS, (place + 1) / BINS, int(here.sum()), mean, _share("share", came[here]))


# --- Numbers ----------------------------------------------------------------------------------------------


def _numbers(rows: Sequence[Row]) -> Scores:
    known = [row for row in rows if _is_number(row.predicted) and _is_number(row.truth)]
    if not known:
        return Scores(0, "regression")
    truth = np.array([row.truth for row in known], dtype=float)
    # What is beyond the range of numbers ends as None.
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.array([row.predicted for row in known], dtype=float) - truth
        found = (
            _mean("mae", abs(errors), 0, math.inf),
            _root(_mean("rmse", errors**2, 0, math.inf)),
            _r2(truth, errors),
            _mean("bias", errors, -math.inf, math.inf),
        )
    return Scores(len(known), "regression", found)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _root(squared: Score) -> Score:
    value, low, high = (
        None if each is None else math.sqrt(each) for each in (squared.value, squared.low, squared.high)
    )
    return Score(squared.name, value, low, high)


def _r2(truth: Numbers, errors: Numbers) -> Score:
    spread = (truth - truth.mean()) ** 2
    if not spread.any():
        return Score("r2")
    missed = float((errors**2).sum() / spread.sum())
    return _influenced("r2", 1 - missed, (missed * spread - errors**2) / spread.mean(), -math.inf, 1)


# --- How sure ---------------------------------------------------------------------------------------------


def _share(name: str, came: Flags) -> Score:
    """Give how often something came, with Wilson's interval."""
    n, share = len(came), float(came.mean())
    middle = (share + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * math.sqrt(share * (1 - share) / n + (_Z / (2 * n)) ** 2)
    # Of none or of all, one end is the share itself, which rounding may miss.
    return Score(name, share, max(0.0, min(middle - half, share)), min(1.0, max(middle + half, share)))


def _mean(name: str, values: Numbers, least: float, most: float) -> Score:
    mean = float(values.mean())
    return _influenced(name, mean, values - mean, least, most)


def _influenced(name: str, value: float, influences: Numbers, least: float, most: float) -> Score:
    """Give a score whose error is the mean of what each row brings to it."""
    n = len(influences)
    return _around(name, value, math.sqrt(float((influences**2).sum())) / n, n, least, most)


def _around(name: str, value: float, error: float, n: int, least: float = 0, most: float = 1) -> Score:
    if not math.isfinite(value):
        return Score(name)
    # Rows that are all the same say nothing of how different others can be.
    if n < LEAST_FOR_INTERVAL or error == 0 or not math.isfinite(error):
        return Score(name, value)
    return Score(name, value, max(least, value - _Z * error), min(most, value + _Z * error))


# --- Without truth ----------------------------------------------------------------------------------------


def estimate(said: Sequence[float], known: Sequence[tuple[float, bool]]) -> Estimate | None:
    """Estimate accuracy from the probability of each predicted class (CBPE), where no concept drifts.

    `known` has such probabilities with whether the prediction was right: enough of them, and an isotonic regression
    over them says what a probability is worth.
    """
    if not said:
        return None
    worth = np.asarray(said, dtype=float)
    if len(known) < LEAST_CALIBRATED:
        return Estimate(float(worth.mean()), len(said), 0)
    places, where, counts = np.unique([each for each, _ in known], return_inverse=True, return_counts=True)
    right = np.bincount(where, weights=[came for _, came in known]) / counts
    curve = isotonic_regression(right, weights=counts).x
    return Estimate(float(np.interp(worth, places, curve).mean()), len(said), len(known))


# --- What it comes to -------------------------------------------------------------------------------------


def stated(card: Mapping[str, Any]) -> dict[str, float]:
    """Give the scores that a model card states, by our names: at its top, or under “metrics”."""
    metrics = card.get("metrics")
    given = {**(metrics if isinstance(metrics, Mapping) else {}), **card}
    ours = [*BEST_WHEN_HIGH, "log_loss", "brier", "mae", "rmse", "bias"]
    found = {name: next((given[each] for each in (name, *NAMES.get(name, ())) if each in given), None) for name in ours}
    return {name: float(value) for name, value in found.items() if value is not None and _is_number(value)}


def main_metric(scores: Scores, card: Mapping[str, float]) -> str:
    """Name the score that speaks for a model: the first that the card states, too, else the first there is."""
    there = [name for name in JUDGED[scores.task] if scores.of(name).value is not None]
    return next((name for name in there if name in card), there[0] if there else JUDGED[scores.task][0])


def judge(scores: Scores, card: Mapping[str, float], predictions: int) -> Verdict:
    """Say whether a model is still as good as its card says; `card` is what `stated` gives.

    It is worse only where even the better end of the interval is worse than the card by more than the tolerance.
    """
    if scores.n == 0:
        made = f"{predictions:,} predictions" if predictions != 1 else "1 prediction"
        return Verdict("none", f"no ground truth yet for {made}" if predictions else "no predictions")
    if scores.n < LEAST_JUDGED:
        return Verdict("collecting", f"collecting: {scores.n} of the {LEAST_JUDGED} that are needed")
    name = main_metric(scores, card)
    found = scores.of(name)
    said = f"{in_words(found)} over {scores.n:,} of {max(predictions, scores.n):,} predictions"
    if name not in card:
        return Verdict("unjudged", f"{said}; the card states nothing to compare with", name)
    bound = card[name] - TOLERANCE if name in BEST_WHEN_HIGH else card[name] * (1 + RELATIVE_TOLERANCE)
    by = f"{TOLERANCE:g}" if name in BEST_WHEN_HIGH else f"{RELATIVE_TOLERANCE:.0%}".replace("%", " %")
    worse = _better_end(found) < bound if name in BEST_WHEN_HIGH else _better_end(found) > bound
    came = f"worse by more than {by}" if worse else "as expected"
    return Verdict("worse" if worse else "fine", f"{said}; the card says {shown(name, card[name])}: {came}", name)


def _better_end(found: Score) -> float:
    end = found.high if found.name in BEST_WHEN_HIGH else found.low
    assert found.value is not None
    return found.value if end is None else end


def in_words(found: Score) -> str:
    """Give a score with its name and interval."""
    title = TITLES[found.name]
    if found.low is None or found.high is None:
        return f"{title} {shown(found.name, found.value)}"
    return f"{title} {shown(found.name, found.value)} ({shown(found.name, found.low)}–{shown(found.name, found.high)})"  # noqa: RUF001 - a span


def shown(name: str, value: float | None) -> str:
    """Give a score as people read it: errors in the unit of what is predicted have any size."""
    if value is None:
        return "\N{EN DASH}"
    if name not in {"mae", "rmse", "bias"}:
        return f"{value:.3f}"
    return f"{value:,.0f}" if WHOLE_FROM <= abs(value) < WHOLE_UP_TO else f"{value:.4g}"
