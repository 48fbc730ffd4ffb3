"""Tests of comparing two versions, and of asking which one was active at a moment: the parts behind the doors."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import KMeans
from sklearn.compose import make_column_transformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tests.admin.conftest import REPORT
from tests.test_registry import BOB, activate, rollback, upload
from webapp import registry
from webapp.catalog import ServedVersion
from webapp.db import Database
from webapp.errors import Conflict, Invalid, NotFound
from webapp.serving import compare as comparing
from webapp.serving.compare import Side, compare
from webapp.serving.loaded import LoadedVersion
from webapp.serving.predictor import Predictor, assemble
from webapp.signature import Feature, Signature
from webapp.signature.check import Checker
from webapp.signature.learn import learn

EARLY = datetime(2026, 3, 1, 12, tzinfo=UTC)


class Clock:
    """Minutes that pass when the test says so."""

    def __init__(self) -> None:
        self.time = EARLY

    def __call__(self) -> datetime:
        return self.time

    def wait(self, minutes: int) -> None:
        self.time += timedelta(minutes=minutes)


@pytest.fixture(autouse=True)
def time_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the machine is."""
    monkeypatch.setattr(comparing, "MOST_SECONDS", 600.0)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the registry."""
    made = Clock()
    monkeypatch.setattr(registry, "now", made)
    return made


# --- What was active as of a moment -------------------------------------------------------------------------


def active_at(database: Database, moment: datetime) -> int | None:
    """Give the number of the version that was active."""
    with database.reading() as session:
        found = registry.active_at(session, registry.get_model(session, "churn"), moment)
        return found.to_number if found else None


def test_the_version_that_was_active_is_the_one_that_was_switched_to_last(database: Database, clock: Clock) -> None:
    upload(database, 3)
    activate(database, 1)
    clock.wait(10)
    activate(database, 3)
    for minutes, number in ((-1, None), (0, 1), (9, 1), (10, 3), (1000, 3)):
        assert active_at(database, EARLY + timedelta(minutes=minutes)) == number


def test_a_moment_before_the_first_switch_had_no_active_version(database: Database, clock: Clock) -> None:
    upload(database)
    assert active_at(database, EARLY) is None
    activate(database, 1)
    assert active_at(database, EARLY - timedelta(microseconds=1)) is None
    with database.reading() as session:
        model = registry.get_model(session, "churn")
        assert registry.describe_as_of(session, model, EARLY - timedelta(days=1)) is None


def test_after_a_roll_back_the_version_before_was_active(database: Database, clock: Clock) -> None:
    upload(database, 2)
    activate(database, 1)
    clock.wait(10)
    activate(database, 2)
    clock.wait(10)
    rollback(database)
    assert [active_at(database, EARLY + timedelta(minutes=each)) for each in (0, 10, 19, 20, 99)] == [1, 2, 2, 1, 1]


def test_another_model_says_nothing_of_this_one(database: Database, clock: Clock) -> None:
    upload(database)
    upload(database, 2, "fraud")
    activate(database, 2, "fraud")
    assert active_at(database, EARLY) is None


def test_what_was_active_is_told_with_who_and_why(database: Database, clock: Clock) -> None:
    upload(database, 1)
    with database.transaction() as session:
        registry.activate(session, BOB, "churn", 1, "the first one")
    with database.reading() as session:
        found = registry.describe_as_of(session, registry.get_model(session, "churn"), EARLY + timedelta(days=2))
    assert found == {
        "at": "2026-03-03T12:00:00+00:00",
        "active_version": 1,
        "label": None,
        "since": "2026-03-01T12:00:00+00:00",
        "actor": "key:bob",
        "reason": "the first one",
    }


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-03-03", datetime(2026, 3, 3, 23, 59, 59, 999999, tzinfo=UTC)),
        ("2026-03-03T12:00", datetime(2026, 3, 3, 12, tzinfo=UTC)),
        ("2026-03-03T12:00:00Z", datetime(2026, 3, 3, 12, tzinfo=UTC)),
        ("2026-03-03T12:00:00+02:00", datetime(2026, 3, 3, 10, tzinfo=UTC)),
    ],
)
def test_a_moment_is_a_date_or_a_date_and_a_time(text: str, moment: datetime) -> None:
    assert registry.read_moment(text) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "2026-02-30", "2026-03-03T25:00", "0001-01-01T00:00:00+14:00", "٣"])
def test_what_is_no_moment_is_refused_by_the_name_of_its_parameter(text: str) -> None:
    with pytest.raises(Invalid, match="as_of") as caught:
        registry.read_moment(text)
    assert caught.value.more == {"parameter": "as_of"}


# --- Which two ----------------------------------------------------------------------------------------------


def chosen(database: Database, first: str | None = None, second: str | None = None) -> tuple[int, int]:
    """Give the numbers of the two that are compared."""
    with database.reading() as session:
        pair = registry.to_compare(session, "churn", first, second)
        return pair.old.number, pair.new.number


def test_without_names_the_active_version_is_compared_with_the_newest_other(database: Database) -> None:
    upload(database, 3)
    assert chosen(database) == (2, 3)
    activate(database, 1)
    assert chosen(database) == (1, 3)
    assert chosen(database, second="2") == (1, 2)
    assert chosen(database, second="1") == (3, 1)
    activate(database, 3)
    assert chosen(database) == (3, 2)
    assert chosen(database, first="1") == (1, 3)


def test_a_version_that_is_not_there_or_the_same_twice_is_not_compared(database: Database) -> None:
    upload(database)
    with pytest.raises(Conflict, match="no two versions"):
        chosen(database)
    upload(database)
    for first, second, kind in (("0", "2", NotFound), ("1", "7", NotFound), ("x", "1", NotFound), ("2", "2", Invalid)):
        with pytest.raises(kind):
            chosen(database, first, second)


# --- Comparing ----------------------------------------------------------------------------------------------

RANDOM = np.random.default_rng(3)
TABLE = pd.DataFrame({"age": RANDOM.integers(18, 80, 300), "income": RANDOM.uniform(1e3, 9e4, 300).round()})
OLDER = (TABLE.age > 50).astype(int)


def side(number: int, estimator: Any, table: pd.DataFrame | None = None, **more: Any) -> Side:
    """Give a loaded version of an estimator, with what its table says of it, or with a signature."""
    signature: Signature | None = more.get("signature")
    if signature is None:
        signature = learn(estimator, assemble, reference=table, declared=more.get("declared", [])).signature
    served = ServedVersion("churn", number, str(number), "ab", "cd", signature.as_dict())
    predictor = Predictor(estimator, signature)
    loaded = LoadedVersion(
        version=served, signature=signature, checker=Checker(signature), predictor=predictor, load_seconds=0.25
    )
    return Side(loaded, more.get("card", {}), REPORT, EARLY, "user:ann")


def csv(table: pd.DataFrame) -> bytes:
    return table.to_csv(index=False).encode()


def test_labels_that_flip_are_counted_and_shown_with_their_inputs() -> None:
    old = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    new = DecisionTreeClassifier(random_state=0).fit(TABLE, (TABLE.age > 60).astype(int))
    found = compare(side(1, old, TABLE), side(2, new, TABLE), {2: csv(TABLE)})
    between = TABLE[(TABLE.age > 50) & (TABLE.age <= 60)]
    assert found.rows.flipped == len(between) > 20
    assert [output.same for output in found.rows.outputs] == [300 - len(between)]
    assert found.rows.outputs[0].largest_change == 1.0
    assert found.rows.outputs[0].mean_change == pytest.approx(len(between) / 300)
    assert [each.row for each in found.rows.changed] == [at + 1 for at in between.index[:20]]
    first = found.rows.changed[0]
    assert first.instance == {"age": between.iloc[0].age, "income": between.iloc[0].income}
    assert (first.old.prediction, first.new.prediction, first.change) == (1, 0, 1.0)
    assert isinstance(first.instance["age"], int)


def test_two_that_are_the_same_differ_in_nothing() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    found = compare(side(1, tree, TABLE), side(2, tree, TABLE), {1: csv(TABLE)})
    assert (found.rows.flipped, found.rows.changed, found.rows.refused, found.signature) == (0, (), (), ())
    assert found.parameters == ()
    assert found.same_parameters > 5
    assert (found.rows.asked, found.rows.reference_of) == (300, 1)


def test_where_no_label_flips_the_rows_whose_probability_moves_most_are_shown() -> None:
    old, new = (make_pipeline(StandardScaler(), LogisticRegression(C=c)).fit(TABLE, OLDER) for c in (1.0, 1.01))
    found = compare(side(1, old, TABLE), side(2, new, TABLE), {2: csv(TABLE)})
    assert found.rows.flipped == 0
    changes = [each.change or 0 for each in found.rows.changed]
    assert changes == sorted(changes, reverse=True)
    assert changes[0] == found.rows.outputs[0].largest_change
    [changed] = found.parameters
    assert (changed.path, changed.old, changed.new) == ("logisticregression.C", "1.0", "1.01")


def test_numbers_are_compared_by_how_far_they_are_apart() -> None:
    old = LinearRegression().fit(TABLE, TABLE.age * 2.0)
    new = LinearRegression().fit(TABLE, TABLE.age * 3.0)
    found = compare(side(1, old, TABLE), side(2, new, TABLE), {2: csv(TABLE)})
    [output] = found.rows.outputs
    assert (output.kind, found.rows.flipped) == ("number", 0)
    assert output.largest_change == pytest.approx(TABLE.age.max())
    assert output.mean_change == pytest.approx(TABLE.age.mean())
    assert [each.instance["age"] for each in found.rows.changed] == sorted(TABLE.age, reverse=True)[:20]
    back = compare(side(2, new, TABLE), side(1, old, TABLE), {2: csv(TABLE)})
    assert back.rows.outputs == found.rows.outputs, "less is as far as more"


def test_each_output_of_several_is_compared_by_its_name() -> None:
    both = np.column_stack((OLDER, TABLE.income > 40_000)).astype(int)
    other = np.column_stack((OLDER, TABLE.income > 50_000)).astype(int)
    old, new = (
        MultiOutputClassifier(DecisionTreeClassifier(random_state=0)).fit(TABLE, wanted) for wanted in (both, other)
    )
    found = compare(side(1, old, TABLE), side(2, new, TABLE), {2: csv(TABLE)})
    between = int(((TABLE.income > 40_000) & (TABLE.income <= 50_000)).sum())
    assert [(output.name, output.same) for output in found.rows.outputs] == [("y0", 300), ("y1", 300 - between)]
    assert found.rows.flipped == between
    assert found.rows.changed[0].old.prediction != found.rows.changed[0].new.prediction
    numbers = DecisionTreeRegressor().fit(TABLE, both.astype(float))
    found = compare(side(1, numbers, TABLE), side(2, numbers, TABLE), {2: csv(TABLE)})
    assert [output.kind for output in found.rows.outputs] == ["number", "number"]


def test_versions_whose_answers_have_another_form_have_no_output_in_common() -> None:
    one = DecisionTreeClassifier().fit(TABLE, OLDER)
    two = DecisionTreeClassifier().fit(TABLE, np.column_stack((OLDER, OLDER)))
    found = compare(side(1, one, TABLE), side(2, two, TABLE), {2: csv(TABLE)})
    assert (found.rows.answered, found.rows.outputs, found.rows.changed) == (300, (), ())


def test_clusters_are_labels() -> None:
    clusters = KMeans(2, random_state=0, n_init=1).fit(TABLE)
    found = compare(side(1, clusters, TABLE), side(2, clusters, TABLE), {2: csv(TABLE)})
    assert [output.kind for output in found.rows.outputs] == ["label"]


def test_rows_that_one_version_refuses_are_told_with_the_reason() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    adults = [{"name": "age", "minimum": 30}, {"name": "income"}]
    found = compare(side(1, tree, TABLE), side(2, tree, TABLE, declared=adults), {2: csv(TABLE)})
    young = int((TABLE.age < 30).sum())
    assert (found.rows.refused_by_old, found.rows.refused_by_new, found.rows.answered) == (0, young, 300 - young)
    assert (found.rows.refused[0].old, found.rows.refused[0].new) == (None, "age: Must be at least 30.")
    assert [each.breaking for each in found.signature] == [True]


def test_what_the_estimator_itself_refuses_does_not_stop_the_other_rows() -> None:
    """The signature says that any plan will do; the encoder knows two."""
    table = TABLE.assign(plan=["basic", "plus"] * 150)
    words = make_column_transformer((OneHotEncoder(), ["plan"]), remainder="passthrough")
    pipeline = make_pipeline(words, DecisionTreeClassifier(random_state=0)).fit(table, OLDER)
    strict = side(1, pipeline, table)
    features = tuple(Feature(each.name, each.kind) for each in strict.loaded.signature.features)
    loose = Signature(
        features, "frame", "classification", strict.loaded.signature.outputs, strict.loaded.signature.probabilities
    )
    table.loc[:129, "plan"] = "gold"
    found = compare(strict, side(2, pipeline, signature=loose), {2: csv(table)})
    assert (found.rows.refused_by_old, found.rows.refused_by_new, found.rows.answered) == (130, 130, 170)
    assert found.rows.refused == (), "rows that both refuse tell nothing of their difference"


def test_looking_for_refused_rows_ends_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "MOST_SECONDS", -1.0)
    one = LogisticRegression().fit(TABLE, OLDER)
    features = tuple(Feature(name, nullable=True) for name in TABLE)
    loaded = side(1, one, TABLE).loaded.signature
    loose = Signature(features, "frame", loaded.task, loaded.outputs, loaded.probabilities)
    holes = TABLE.astype(float)
    holes.loc[::2, "age"] = None
    found = compare(side(1, one, signature=loose), side(2, one, signature=loose), {2: csv(holes)})
    assert (found.rows.asked, found.rows.answered, found.rows.refused_by_old) == (250, 0, 250)


def test_without_any_reference_rows_are_made_up_over_what_is_known() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    found = compare(side(1, tree, TABLE), side(2, tree, TABLE), {})
    assert (found.rows.reference_of, found.rows.asked, found.rows.answered) == (None, 200, 200)
    again = compare(side(1, tree, TABLE), side(2, tree, TABLE), {})
    assert found.rows == again.rows, "the same rows at each look"
    unknown = side(3, DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER))
    assert compare(unknown, unknown, {}).rows.answered == 200


def test_made_up_rows_keep_to_the_rules_of_each_kind_of_input() -> None:
    features = (
        Feature("plan", "string", allowed=("basic", "plus")),
        Feature("member", "boolean"),
        Feature("age", "integer", minimum=18.0, maximum=30.0),
        Feature("note", "string"),
        Feature("score", minimum=0.5),
    )
    signature = Signature(features, "frame", "regression", (), "none")
    rows = comparing.sample({}, (signature, signature)).instances
    assert {row["plan"] for row in rows} == {"basic", "plus"}
    assert {row["member"] for row in rows} == {True, False}
    assert {row["age"] for row in rows} == set(range(18, 31))
    assert {(row["note"], row["score"]) for row in rows} == {("a", 0.5)}
    assert len(Checker(signature).rows(rows, [""] * len(rows))) == 200


def test_the_reference_that_has_all_columns_is_taken() -> None:
    wider = TABLE.assign(years=range(300))
    old = DecisionTreeClassifier(random_state=0).fit(wider, OLDER)
    new = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    sides = side(1, old, wider), side(2, new, TABLE)
    assert compare(*sides, {2: csv(TABLE), 1: csv(wider)}).rows.reference_of == 1
    lacking = compare(*sides, {2: csv(TABLE)}).rows
    assert (lacking.lacking, lacking.refused_by_old, lacking.outputs) == (("years",), 300, ())


def test_a_reference_is_read_as_json_would_have_it() -> None:
    table = pd.DataFrame({"age": [35, None, 40], "note": ["x", None, "7"], "member": [True, False, True], "more": 1})
    features = (Feature("age", "integer", nullable=True), Feature("note", "string"), Feature("member", "boolean"))
    signature = Signature(features, "frame", "regression", (), "none")
    found = comparing.sample({2: csv(table)}, (signature, signature))
    assert found.instances == [
        {"age": 35, "note": "x", "member": True},
        {"age": None, "note": None, "member": False},
        {"age": 40, "note": "7", "member": True},
    ]
    assert found.lacking == ()


def test_a_text_among_numbers_is_refused_by_the_signature() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    table = TABLE.astype(object)
    table.loc[0, "age"] = "old"
    found = compare(side(1, tree, TABLE), side(2, tree, TABLE), {2: csv(table)})
    assert (found.rows.refused_by_old, found.rows.answered) == (1, 299)


def test_texts_are_compared_whatever_their_column_is_called() -> None:
    words = make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(["good", "bad"] * 9, [1, 0] * 9)
    table = pd.DataFrame({"review": ["good", "bad", "neither"]})
    found = compare(side(1, words), side(2, words, table), {2: csv(table)})
    assert found.rows.answered in {0, 3}
    found = compare(side(1, words), side(2, words), {2: csv(table)})
    assert (found.rows.answered, found.rows.lacking) == (3, ())


def test_no_more_than_the_first_thousand_rows_are_asked() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    found = compare(side(1, tree, TABLE), side(2, tree, TABLE), {2: csv(pd.concat([TABLE] * 5))})
    assert (found.rows.given, found.rows.asked) == (1000, 1000)


def test_when_the_time_is_over_the_rows_so_far_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparing, "MOST_SECONDS", -1.0)
    tree = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    found = compare(side(1, tree, TABLE), side(2, tree, TABLE), {2: csv(TABLE)})
    assert (found.rows.given, found.rows.asked, found.rows.answered) == (300, 250, 250)
    assert found.new.single_seconds is not None


def test_numbers_of_the_model_cards_stand_side_by_side() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    old = side(1, tree, TABLE, card={"accuracy": 0.75, "rows": 10, "public": True, "features": [{"minimum": 1}]})
    new = side(2, tree, TABLE, card={"accuracy": 0.875, "metrics": {"auc": 0.5}, "note": "x", "loss": float("nan")})
    found = compare(old, new, {2: csv(TABLE)})
    assert [(each.name, each.old, each.new, each.change) for each in found.metrics] == [
        ("accuracy", 0.75, 0.875, 0.125),
        ("metrics.auc", None, 0.5, None),
        ("rows", 10, None, None),
    ]


def test_a_step_of_another_kind_is_a_parameter_that_differs() -> None:
    old = make_pipeline(StandardScaler(), DecisionTreeClassifier()).fit(TABLE, OLDER)
    new = make_pipeline(StandardScaler(with_mean=False), LogisticRegression(max_iter=5000)).fit(TABLE, OLDER)
    changed = {each.path: (each.old, each.new) for each in compare(side(1, old), side(2, new), {}).parameters}
    assert changed["standardscaler.with_mean"] == ("True", "False")
    assert changed["decisiontreeclassifier"] == ("DecisionTreeClassifier", None)
    assert changed["logisticregression.max_iter"] == (None, "5000")
    assert "steps" not in changed
    other = compare(side(1, old), side(2, DecisionTreeClassifier().fit(TABLE, OLDER)), {}).parameters
    assert [(each.old, each.new) for each in other if each.path == comparing.ITSELF] == [
        ("Pipeline", "DecisionTreeClassifier")
    ]


def test_speed_and_size_are_told_of_both() -> None:
    tree = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    found = compare(side(1, tree, TABLE), side(2, tree, TABLE), {2: csv(TABLE)})
    assert found.bulk_rows == 100
    for facts in (found.old, found.new):
        assert 0 < (facts.single_seconds or 0) < 10
        assert 0 < (facts.bulk_seconds or 0) < 10
        assert (facts.load_seconds, facts.artifact_bytes, facts.file) == (0.25, 1024, "model.joblib")
    young = [{"name": "age", "minimum": 300}, {"name": "income"}]
    nobody = compare(side(1, tree, TABLE), side(2, tree, TABLE, declared=young), {2: csv(TABLE)})
    assert (nobody.bulk_rows, nobody.old.single_seconds) == (0, None)


def test_the_public_form_is_json_and_calls_the_two_from_and_to() -> None:
    old = DecisionTreeClassifier(random_state=0).fit(TABLE, OLDER)
    new = DecisionTreeClassifier(random_state=0).fit(TABLE, (TABLE.age > 60).astype(int))
    found = json.loads(json.dumps(compare(side(1, old, TABLE), side(2, new, TABLE), {2: csv(TABLE)}).as_dict()))
    assert (found["from"]["version"], found["to"]["version"]) == (1, 2)
    assert found["from"]["created_at"] == "2026-03-01T12:00:00+00:00"
    assert found["rows"]["changed"][0]["from"]["prediction"] == 1
    assert {"refused_by_from", "refused_by_to"} < found["rows"].keys()
    assert '"old' not in json.dumps(found)
