"""Tests of the proof of plans: what answers otherwise than scikit-learn is found, and never answers."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from webapp import artifacts
from webapp.artifacts import ArtifactStore
from webapp.catalog import Catalog, ServedModel, ServedVersion
from webapp.serving import plans, proof
from webapp.serving.loaded import LoadedVersion
from webapp.serving.plans import Plan, Unplanned, compiled
from webapp.serving.predictor import Predictor, assemble
from webapp.serving.proof import Proof, planned, prove
from webapp.serving.runtime import Runtime
from webapp.signature import Row
from webapp.signature.learn import Learned, learn

# As in a web worker: what numpy warns of while it predicts is for those who train.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

SECRET = b"the secret that seals versions"
RANDOM = np.random.default_rng(5)
FRAME = pd.DataFrame(RANDOM.normal(size=(300, 3)) * [1, 10, 1000], columns=["a", "b", "c"])
TARGET = FRAME["a"] + FRAME["b"] / 10 + RANDOM.normal(size=300)
LABELS = np.where(TARGET > 0, "yes", "no")

Ask = Callable[[Sequence[Row]], tuple[Any, Any]]


@pytest.fixture(scope="module")
def forest() -> Any:
    return make_pipeline(StandardScaler(), RandomForestClassifier(20, random_state=0)).fit(FRAME, LABELS)


@pytest.fixture(scope="module")
def learned(forest: Any) -> Learned:
    return learn(forest, assemble, reference=FRAME, declared=())


def plan_of(estimator: Any, learned: Learned) -> Plan:
    plan = compiled(estimator, learned.signature)
    assert plan is not None
    return plan


def test_the_plan_of_a_forest_holds(forest: Any, learned: Learned) -> None:
    found = prove(forest, plan_of(forest, learned), learned.signature, learned.rows)
    print(f"\n{found}")
    assert found.holds
    assert found.rows > 1000
    assert (found.label_differences, found.largest_difference) == (0, 0.0)
    # What does not fit single precision is refused by both.
    assert 0 < found.left < 20
    assert found.plan_microseconds < found.estimator_microseconds


def test_without_known_rows_it_is_proven_on_probes_alone(forest: Any, learned: Learned) -> None:
    found = prove(forest, plan_of(forest, learned), learned.signature, [])
    assert found.holds
    assert found.rows > 400


# --- Wrong plans --------------------------------------------------------------------------------------------


def without_last_tree(forest: Any, learned: Learned) -> Ask:
    shorter = copy.deepcopy(forest)
    shorter[-1].estimators_.pop()
    return plan_of(shorter, learned).ask


def wrong_at_one_threshold(forest: Any, learned: Learned) -> Ask:
    """Move the first threshold of one tree below the next smaller number of single precision."""
    moved = copy.deepcopy(forest)
    tree = moved[-1].estimators_[7].tree_
    state = tree.__getstate__()
    lower = np.nextafter(np.float32(state["nodes"]["threshold"][0]), np.float32(-np.inf))
    state["nodes"]["threshold"][0] = np.nextafter(np.float64(lower), -np.inf)
    tree.__setstate__(state)
    return plan_of(moved, learned).ask


def a_little_more(forest: Any, learned: Learned) -> Ask:
    right = plan_of(forest, learned).ask

    def ask(rows: Sequence[Row]) -> tuple[Any, Any]:
        predicted, table = right(rows)
        return predicted, table + 1e-9

    return ask


def one_row_wrong(forest: Any, learned: Learned) -> Ask:
    right, wrong = plan_of(forest, learned).ask, learned.rows[123]

    def ask(rows: Sequence[Row]) -> tuple[Any, Any]:
        predicted, table = right(rows)
        for at, row in enumerate(rows):
            if row == wrong:
                predicted[at] = "no" if predicted[at] == "yes" else "yes"
        return predicted, table

    return ask


def wrong_alone(forest: Any, learned: Learned) -> Ask:
    """Answer many rows rightly, and a single one with the classes' shares exchanged."""
    right = plan_of(forest, learned).ask

    def ask(rows: Sequence[Row]) -> tuple[Any, Any]:
        predicted, table = right(rows)
        return predicted, table[:, ::-1] if len(rows) == 1 else table

    return ask


def in_single_precision(forest: Any, learned: Learned) -> Ask:
    right = plan_of(forest, learned).ask

    def ask(rows: Sequence[Row]) -> tuple[Any, Any]:
        predicted, table = right(rows)
        return predicted, table.astype(np.float32)

    return ask


def never_refusing(forest: Any, learned: Learned) -> Ask:
    right = plan_of(forest, learned).ask

    def ask(rows: Sequence[Row]) -> tuple[Any, Any]:
        return right([tuple(value and min(max(float(value), -1e30), 1e30) for value in row) for row in rows])

    return ask


def never_planned(_forest: Any, _learned: Learned) -> Ask:
    def ask(_rows: Sequence[Row]) -> tuple[Any, Any]:
        raise Unplanned

    return ask


def not_a_number(forest: Any, learned: Learned) -> Ask:
    right = plan_of(forest, learned).ask

    def ask(rows: Sequence[Row]) -> tuple[Any, Any]:
        predicted, table = right(rows)
        return predicted, np.full_like(table, math.nan)

    return ask


WRONG: dict[Callable[[Any, Learned], Ask], str] = {
    without_last_tree: "",
    wrong_at_one_threshold: "",
    a_little_more: "Its numbers differ from scikit-learn's by up to ",
    one_row_wrong: "It gives another label than scikit-learn for",
    wrong_alone: "Its numbers differ from scikit-learn's by up to ",
    in_single_precision: "It answers in another form than scikit-learn.",
    never_refusing: "It answers what scikit-learn refuses.",
    never_planned: "It leaves most rows to scikit-learn.",
    not_a_number: "Its numbers differ from scikit-learn's by up to inf.",
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_plan_is_found(forest: Any, learned: Learned, wrong: Callable[[Any, Learned], Ask]) -> None:
    plan = plan_of(forest, learned)
    found = prove(forest, replace(plan, ask=wrong(forest, learned)), learned.signature, learned.rows)
    print(f"\n{wrong.__name__}: {found.reason}")
    assert not found.holds
    assert found.reason.startswith(WRONG[wrong])


def test_a_slow_plan_is_not_used(learned: Learned) -> None:
    ridge = Ridge().fit(FRAME, TARGET)
    known = learn(ridge, assemble, reference=FRAME, declared=())
    right = plan_of(ridge, known)

    def ask(rows: Sequence[Row]) -> tuple[Any, Any]:
        until = time.perf_counter() + 0.02
        while time.perf_counter() < until:
            pass
        return right.ask(rows)

    assert prove(ridge, right, known.signature, known.rows).holds
    found = prove(ridge, replace(right, ask=ask), known.signature, known.rows)
    assert found.reason == "It is not faster than scikit-learn."


def test_an_estimator_that_its_plan_asks_is_compared_on_few_rows_where_it_is_slow(
    forest: Any, learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "TOGETHER_SECONDS", 0.0)
    neighbors = KNeighborsClassifier().fit(FRAME, LABELS)
    found = prove(neighbors, plan_of(neighbors, learned), learned.signature, learned.rows)
    assert found.holds
    assert 2 * proof.FIRST_TOGETHER <= found.rows < 4 * proof.FIRST_TOGETHER
    # Other arithmetic is compared on all of them, however long it takes.
    assert prove(forest, plan_of(forest, learned), learned.signature, learned.rows).rows > 1000


def test_a_number_next_to_zero_is_measured_by_the_usual_ones() -> None:
    # Rounding is all that is left of a sum of large terms; a real difference is no smaller for that.
    usual, next_to_zero = np.array([1000.0, 1e-13]), np.array([1000.0, 2e-13])
    assert proof._difference(next_to_zero, usual, 1000.0) <= 1e-15
    assert proof._difference(next_to_zero, usual, 0.0) == 0.5


# --- What scikit-learn refuses, and what is left to it ---------------------------------------------------------


def test_what_scikit_learn_refuses_hides_no_wrong_plan(forest: Any) -> None:
    # So large a number does not fit single precision: among the probes are some that trees refuse.
    known = learn(forest, assemble, reference=FRAME, declared=[{"name": "b", "maximum": 1e300}])
    right = plan_of(forest, known)
    found = prove(forest, right, known.signature, [])
    assert found.holds
    assert found.rows > 1000
    wrong = replace(right, ask=wrong_at_one_threshold(forest, known))
    assert not prove(forest, wrong, known.signature, []).holds
    unrefusing = replace(right, ask=never_refusing(forest, known))
    assert prove(forest, unrefusing, known.signature, []).reason == "It answers what scikit-learn refuses."


def test_a_plan_that_could_not_be_compared_is_not_used(forest: Any, learned: Learned) -> None:
    class Refusing:
        def predict(self, _rows: object) -> None:
            raise ValueError

    plan = replace(plan_of(forest, learned), ask=never_planned(forest, learned))
    found = prove(Refusing(), plan, learned.signature, learned.rows)
    assert found.reason == "Scikit-learn answers too few of the rows that it was to be compared on."


def test_a_few_rows_that_are_left_to_scikit_learn_are_no_reason_against_a_plan() -> None:
    frame = FRAME.assign(flag=True)
    encoder = make_column_transformer((OneHotEncoder(handle_unknown="ignore"), ["flag"]), remainder="passthrough")
    model = make_pipeline(encoder, StandardScaler(with_mean=False), LogisticRegression()).fit(frame, LABELS)
    known = learn(model, assemble, reference=frame, declared=())
    plan = plan_of(model, known)
    with pytest.raises(Unplanned):
        plan.ask([(*known.rows[0][:3], False)])
    found = prove(model, plan, known.signature, [])
    assert found.holds
    assert 0 < found.left < found.rows / 5


def test_neither_are_numbers_that_are_none() -> None:
    model = make_pipeline(StandardScaler(), Ridge()).fit(FRAME, TARGET)
    model[-1].coef_ = np.array([1000.0, -1000.0, 1 / 3])
    # At the upper ends of both, scikit-learn subtracts the infinite from the infinite; with the instructions of some
    # machines (FMA) it subtracts what is not rounded from it.
    ends = [{"name": name, "maximum": 1e308} for name in "ab"]
    known = learn(model, assemble, reference=FRAME, declared=ends)
    assert not np.isfinite(model.predict(pd.DataFrame([(1e308, 1e308, 0.0)], columns=["a", "b", "c"]))).any()
    found = prove(model, plan_of(model, known), known.signature, [*known.rows, (1e308, 1e308, 0.0)])
    assert found.holds
    assert found.left > 1


# --- Around it ----------------------------------------------------------------------------------------------


def test_a_plan_that_holds_answers(forest: Any, learned: Learned) -> None:
    predictor, found = planned(Predictor(forest, learned.signature), forest, learned.signature, lambda: learned.rows)
    assert found is not None
    assert found.holds
    assert predictor.plan is not None
    assert predictor.predict(learned.rows[:9], [""] * 9) == predictor.by(None).predict(learned.rows[:9], [""] * 9)


@pytest.mark.parametrize("given", [FRAME, FRAME.to_numpy()], ids=["frame", "array"])
def test_a_step_that_writes_over_its_input_changes_no_probability(given: Any) -> None:
    model = make_pipeline(StandardScaler(copy=False), LogisticRegression()).fit(given.copy(), LABELS)
    known = learn(model, assemble, reference=FRAME, declared=())
    itself = Predictor(model, known.signature)
    expected = model.predict_proba(assemble(known.signature, known.rows))[:, 1].tolist()
    assert [each.probabilities["yes"] for each in itself.predict(known.rows, [""] * 300)] == expected
    _, found = planned(itself, model, known.signature, lambda: known.rows)
    assert found is not None
    assert found.holds


def test_no_rows_have_no_answers(forest: Any, learned: Learned) -> None:
    itself = Predictor(forest, learned.signature)
    assert itself.predict([], []) == []
    assert itself.by(plan_of(forest, learned)).predict([], []) == []


def test_a_kind_without_a_plan_has_no_proof(learned: Learned) -> None:
    other = make_pipeline(FunctionTransformer(np.abs), KNeighborsClassifier()).fit(FRAME, LABELS)
    predictor, found = planned(Predictor(other, learned.signature), other, learned.signature, list)
    assert found is None
    assert predictor.plan is None


def test_whatever_goes_wrong_the_estimator_answers(
    forest: Any, learned: Learned, monkeypatch: pytest.MonkeyPatch
) -> None:
    itself = Predictor(forest, learned.signature)

    def failing(*_: object) -> list[Row]:
        raise RuntimeError

    predictor, found = planned(itself, forest, learned.signature, failing)
    assert predictor is itself
    assert found is not None
    assert found.reason == "It could not be proven: RuntimeError."
    monkeypatch.setattr(proof, "compiled", failing)
    predictor, found = planned(itself, forest, learned.signature, list)
    assert predictor is itself
    assert found == Proof("", reason="No plan could be made: RuntimeError.")


def test_damaged_trees_have_no_plan(forest: Any, learned: Learned) -> None:
    damaged = copy.deepcopy(forest)
    damaged[-1].estimators_[0].tree_ = None
    _, found = planned(Predictor(damaged, learned.signature), damaged, learned.signature, list)
    assert found is not None
    assert found.reason == "No plan could be made: AttributeError."


# --- In a process that serves -------------------------------------------------------------------------------


def served(
    folder: Path, estimator: Any, reference: bytes | str | None = None, *, may_plan: bool = True
) -> LoadedVersion:
    """Load one version as a web worker does."""
    store = ArtifactStore(folder)
    signature = learn(estimator, assemble, reference=FRAME, declared=()).signature.as_dict()
    digest = store.put(skops.io.dumps(estimator))
    seal = artifacts.seal(SECRET, "m", 1, digest, signature)
    kept = store.put(reference) if isinstance(reference, bytes) else reference
    version = ServedVersion("m", 1, "v1", digest, seal, signature, reference=kept, may_plan=may_plan)
    runtime = Runtime(store, SECRET)
    assert runtime.switch(Catalog(1, {"m": ServedModel("m", 1, {1: version})})) == []
    return runtime.served("m")


def answers(loaded: LoadedVersion) -> list[dict[str, Any]]:
    instances = json.loads(FRAME.head(20).to_json(orient="records"))
    return [each.document for each in loaded.predict(instances, [""] * 20, [f"id-{at}" for at in range(20)])]


def test_a_loaded_version_answers_by_its_plan_as_without_it(forest: Any, tmp_path: Path) -> None:
    with_plan = served(tmp_path, forest, FRAME.to_csv(index=False).encode())
    without = served(tmp_path, forest, may_plan=False)
    assert with_plan.proof is not None
    assert with_plan.proof.holds
    assert with_plan.proof.rows > 1000
    assert with_plan.predictor.plan is not None
    assert with_plan.predictor.plan.name == "20 trees behind 1 step"
    assert (without.proof, without.predictor.plan) == (None, None)
    assert answers(with_plan) == answers(without)


@pytest.mark.parametrize("reference", [b"\xff\x00not,a,table", b"other,columns\n1,2\n", b"a,b,c\nx,y,z\n1,2,3\n"])
def test_a_reference_that_cannot_be_used_is_no_reason_against_a_plan(tmp_path: Path, reference: bytes) -> None:
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(FRAME, LABELS)
    loaded = served(tmp_path, model, reference)
    assert loaded.proof is not None
    assert loaded.proof.holds


def test_neither_is_one_that_is_missing(tmp_path: Path) -> None:
    loaded = served(tmp_path, Ridge().fit(FRAME, TARGET), reference="0" * 64)
    assert loaded.proof is not None
    assert loaded.proof.holds


def test_a_version_whose_plan_fails_its_proof_is_served_by_scikit_learn(
    forest: Any, learned: Learned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = replace(plan_of(forest, learned), ask=a_little_more(forest, learned))
    monkeypatch.setattr(proof, "compiled", lambda *_: wrong)
    loaded = served(tmp_path, forest)
    assert loaded.proof is not None
    assert not loaded.proof.holds
    assert loaded.predictor.plan is None
    monkeypatch.setattr(proof, "compiled", plans.compiled)
    assert answers(loaded) == answers(served(tmp_path, forest))
