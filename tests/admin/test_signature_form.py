"""The form of a signature: what it shows is what is stored, and what is wrong comes back to its field."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.admin.conftest import SIGNATURE, House, Page
from tests.conftest import eventually
from tests.test_rules import features
from webapp import registry
from webapp.admin.signature_form import KINDS, Draft
from webapp.signature import Feature, Output, Signature, from_dict
from webapp.signature.check import FIELDS

# Texts on one line without spaces around them: what a line of a form can hold.
LINES = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp", "Zs"]), min_size=1, max_size=12)
OUTPUTS = (Output("churn", ("no", "yes")),)


def signature(*given: Feature) -> Signature:
    return Signature(given, "frame", "classification", OUTPUTS, "table")


@st.composite
def signatures(draw: st.DrawFn, texts: st.SearchStrategy[str] = LINES) -> Signature:
    names = draw(st.lists(LINES, min_size=1, max_size=3, unique=True))
    return signature(*(draw(features(name, texts)) for name in names))


def sent(draft: Draft) -> dict[str, str]:
    """Give what a browser sends of a form that nobody touched."""
    fields = {}
    for row in draft.rows:
        parts = ("type", "minimum", "maximum", "allowed", "default", "description", "message")
        fields |= {row.id(part): getattr(row, part).replace("\n", "\r\n") for part in parts}
        fields |= {row.id("nullable"): "1"} if row.nullable else {}
    return fields


def read(feature: Feature, **typed: str) -> Draft:
    """Give the form of one feature with something typed into it."""
    form = sent(Draft.of(signature(feature)))
    return Draft.read(signature(feature), {**form, **{f"f0-{part}": text for part, text in typed.items()}})


def errors(feature: Feature, **typed: str) -> dict[str, str]:
    draft = read(feature, **typed)
    assert draft.signature() is None
    return draft.errors


def edited(feature: Feature, **typed: str) -> Feature:
    draft = read(feature, **typed)
    made = draft.signature()
    assert made is not None, draft.errors
    return made.features[0]


# --- There and back -----------------------------------------------------------------------------------------


def test_the_form_offers_every_type() -> None:
    assert set(KINDS) == set(FIELDS)


@given(signatures())
@example(signature(Feature("x", "boolean", default=False, allowed=(False, True))))
@example(signature(Feature("x", minimum=-0.0, maximum=1e300, default=0.1, allowed=(0.1, 5e-324, 1e16, -1e22))))
def test_a_form_that_nobody_touched_is_its_signature(one: Signature) -> None:
    draft = Draft.of(one)
    assert (draft.signature(), draft.errors) == (one, {})


@given(signatures())
def test_a_form_that_is_sent_as_it_stands_is_its_signature(one: Signature) -> None:
    draft = Draft.read(one, sent(Draft.of(one)))
    assert (draft.signature(), draft.errors) == (one, {})
    assert from_dict(one.as_dict()) == one


UNTIDY = {
    "a space before the first value": Feature("income", "string", allowed=(" <=50K", " >50K")),
    "a space behind the last value": Feature("income", "string", allowed=("high", "low ")),
    "an empty value": Feature("income", "string", allowed=("", "high")),
    "a value of two lines": Feature("income", "string", allowed=("high\nhigher", "low")),
    "a default of a space": Feature("income", "string", default=" "),
    "a default that is empty": Feature("income", "string", default=""),
}


@pytest.mark.parametrize("feature", UNTIDY.values(), ids=UNTIDY)
def test_saving_without_a_change_changes_no_text(feature: Feature) -> None:
    draft = Draft.read(signature(feature), sent(Draft.of(signature(feature))))
    made = draft.signature()
    assert draft.errors or made == signature(feature), "it is kept as it is, or the person is told"


# --- What is typed ------------------------------------------------------------------------------------------

AGE = Feature("age", "integer", minimum=18.0, observed_minimum=20.0, observed_maximum=70.0)
PLAN = Feature("plan", "string", allowed=("free", "pro"), observed_values=("free", "pro"))


@pytest.mark.parametrize(
    ("typed", "value"), [("21", 21.0), (" 21 ", 21.0), ("21.0", 21.0), ("1,000", 1000.0), ("-5", -5.0), ("1e3", 1000.0)]
)
def test_numbers_are_read_as_people_write_them(typed: str, value: float) -> None:
    assert edited(AGE, minimum=typed).minimum == value


def test_what_is_emptied_is_no_rule_any_more() -> None:
    assert edited(AGE, minimum="") == Feature("age", "integer", observed_minimum=20.0, observed_maximum=70.0)
    assert edited(PLAN, allowed="").allowed is None


def test_lines_are_values_whatever_ends_them() -> None:
    for lines in ("free\r\npro\r\nteam", "free\npro\n\n\nteam\n", "\n\nfree\npro\nteam\r\n"):
        assert edited(PLAN, allowed=lines).allowed == ("free", "pro", "team")


@pytest.mark.parametrize(("typed", "value"), [("true", True), ("FALSE", False), (" True ", True)])
def test_true_and_false_are_words(typed: str, value: bool) -> None:  # noqa: FBT001 - a value like any other
    assert edited(Feature("member", "boolean"), default=typed).default is value


def test_another_type_forgets_what_was_seen_of_the_first() -> None:
    assert edited(AGE, type="string", minimum="").observed_minimum is None
    assert edited(AGE, type="number").observed_minimum == 20.0


def test_what_was_learned_cannot_be_typed_over() -> None:
    form = {**sent(Draft.of(signature(AGE))), "f0-observed_minimum": "0", "f0-name": "evil", "f0-missing": "none"}
    form |= {"f1-type": "string", "f99-minimum": "1"}
    assert Draft.read(signature(AGE), form).signature() == signature(AGE)


WRONG: dict[str, tuple[Feature, dict[str, str], str, str]] = {
    "a bound in words": (AGE, {"minimum": "eighteen"}, "minimum", "“eighteen” is no number; write it like 18 or 0.5."),
    "a bound with a unit": (AGE, {"maximum": "18 years"}, "maximum", "“18 years” is no number"),
    "a bound in hexadecimal": (AGE, {"maximum": "0x10"}, "maximum", "no number"),
    "a default in words": (AGE, {"default": "none"}, "default", "“none” is not a number."),
    "one wrong line": (AGE, {"allowed": "18\nx\n20"}, "allowed", "“x” is not a number."),
    "a default that is neither": (Feature("m", "boolean"), {"default": "1"}, "default", "“1” is not true or false."),
    "a line that is neither": (Feature("m", "boolean"), {"allowed": "true\nyes"}, "allowed", "“yes” is not true"),
    "bounds that cross": (AGE, {"maximum": "17"}, "type", "the minimum is above the maximum"),
    "a default out of bounds": (AGE, {"default": "17"}, "type", "the default is not acceptable itself"),
    "a default that is not allowed": (PLAN, {"default": "team"}, "type", "the default is not acceptable itself"),
    "half a person": (AGE, {"default": "18.5"}, "type", "default"),
    "a bound of texts": (AGE, {"type": "string"}, "type", "minimum"),
    "an unknown type": (AGE, {"type": "date"}, "type", "number, integer, boolean, string"),
    "a bound without end": (AGE, {"maximum": "inf"}, "type", "maximum"),
    "a bound that is no number": (AGE, {"maximum": "nan"}, "type", "maximum"),
    "a bound beyond floats": (AGE, {"maximum": "1e999"}, "type", "maximum"),
}


@pytest.mark.parametrize(("feature", "typed", "part", "says"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_at_its_field(feature: Feature, typed: dict[str, str], part: str, says: str) -> None:
    found = errors(feature, **typed)
    assert list(found) == [f"f0-{part}"]
    assert says in found[f"f0-{part}"]


def test_what_was_typed_comes_back_with_the_errors() -> None:
    draft = read(AGE, minimum="eighteen", description="in years", nullable="1")
    assert draft.signature() is None
    [row] = draft.rows
    assert (row.minimum, row.description, row.nullable) == ("eighteen", "in years", True)


def test_every_wrong_field_is_named_at_once() -> None:
    one = signature(AGE, PLAN, Feature("m", "boolean"))
    form = sent(Draft.of(one)) | {"f0-minimum": "x", "f0-default": "y", "f1-default": "team", "f2-default": "z"}
    draft = Draft.read(one, form)
    assert draft.signature() is None
    assert set(draft.errors) == {"f0-minimum", "f0-default", "f1-type", "f2-default"}


def test_the_tenth_feature_is_not_taken_for_the_first() -> None:
    one = signature(*(Feature(f"x{number}") for number in range(12)))
    form = sent(Draft.of(one)) | {"f11-minimum": "wrong", "f1-minimum": "3"}
    draft = Draft.read(one, form)
    assert draft.signature() is None
    assert set(draft.errors) == {"f11-minimum"}


def test_what_the_estimator_cannot_keep_stands_at_its_feature() -> None:
    draft = Draft.of(signature(AGE, PLAN))
    draft.note_refused({"plan": "The estimator takes no missing values here."})
    assert draft.errors == {"f1-type": "The estimator takes no missing values here."}


# --- The page -----------------------------------------------------------------------------------------------

RULES = Signature(
    features=(
        Feature("age", "integer", minimum=18.0, description="<b>in years</b>", message="\nTwo\nlines", default=40.0),
        Feature("income", allowed=(0.5, 1000.0), nullable=False, observed_minimum=0.0, observed_maximum=9.0),
    ),
    container="frame",
    task="classification",
    outputs=SIGNATURE.outputs,
    probabilities="table",
)


def test_the_page_holds_what_the_form_holds(house: House) -> None:
    path = f"/admin/models/rules/versions/{house.version('rules', RULES)}/signature"
    fields = house.operator.page(path).fields(path)
    assert Draft.read(RULES, fields).signature() is not None
    fields.pop("csrf_token")
    assert fields == {name: text.replace("\r\n", "\n") for name, text in sent(Draft.of(RULES)).items()}


def test_a_refused_form_comes_back_as_it_was_typed(museum: House) -> None:
    path = "/admin/models/churn/versions/1/signature"
    answer = museum.admin.send(path, path, **{"f0-minimum": "<eighteen>", "f1-maximum": "2"})
    assert answer.status_code == 422
    page = Page(answer.text)
    assert page.fields(path)["f0-minimum"] == "<eighteen>"
    assert "“<eighteen>” is no number" in page.text
    invalid = [attributes["id"] for _, attributes in page.elements if attributes.get("aria-invalid") == "true"]
    assert invalid == ["f0-minimum"]


def test_rules_that_are_saved_are_stored_and_enforced(lived_in: House) -> None:
    number = lived_in.version()
    path = f"/admin/models/churn/versions/{number}/signature"
    answer = lived_in.admin.send(path, path, **{"f0-minimum": "21", "f0-description": "in years"})
    assert (answer.status_code, answer.location) == (303, f"/admin/models/churn/versions/{number}")
    row = lived_in.look(lambda session: registry.get_version(session, registry.get_model(session, "churn"), number))
    stored = from_dict(row.signature)
    assert (stored.features[0].minimum, stored.features[0].description) == (21.0, "in years")
    assert stored.features[1] == SIGNATURE.features[1]
    eventually(lambda: lived_in.parts.follower.served("churn", number).signature == stored)
