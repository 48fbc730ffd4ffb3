"""Tests of request bodies: read the fast way, JSON is what it is when it is read strictly."""

from __future__ import annotations

import io
import json
import math
import random
from typing import Any

import flask
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from webapp import body
from webapp.errors import Malformed, TooLarge

MOST_BYTES = 1024 * 1024


def app() -> flask.Flask:
    made = flask.Flask(__name__)
    made.request_class = body.Request
    made.config["MAX_CONTENT_LENGTH"] = MOST_BYTES
    return made


APP = app()


def told(document: object) -> str:
    """Write a document so that types and bits can be seen: 1, 1.0, true, -0.0 and 0.0 all differ."""
    return repr(document)


def strictly(content: bytes) -> tuple[str, str]:
    try:
        return "", told(body._read_strictly(content))
    except Malformed as refusal:
        return refusal.code, refusal.detail


def read(content: bytes) -> tuple[str, str]:
    try:
        return "", told(body._document(content))
    except Malformed as refusal:
        return refusal.code, refusal.detail


# --- Two readers agree ------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "instances", "ids", "ü", "a:b", ":", "", '"', "\\", "{", "[["]) | st.text(max_size=3)
NUMBERS = st.one_of(
    st.integers(),
    st.integers(2**63 - 2, 2**64 + 2),
    st.integers(-(2**63) - 2, -(2**63) + 2),
    st.integers(10**17, 10**21),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([-0.0, 0.0, 5e-324, 1.7976931348623157e308, 2**53 + 1, 10**308, 10**309, -(10**400), 1e-7]),
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=6) | NAMES
VALUES = st.recursive(
    SCALARS,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(NAMES, children, max_size=4),
    max_leaves=12,
)
INSTANCES = st.lists(st.dictionaries(NAMES, SCALARS, max_size=4), max_size=4)
DOCUMENTS = st.dictionaries(NAMES, VALUES, max_size=4) | st.builds(lambda rows: {"instances": rows}, INSTANCES) | VALUES


@settings(max_examples=400, deadline=None)
@given(
    document=DOCUMENTS,
    ascii_only=st.booleans(),
    separators=st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r")]),
)
def test_every_document_is_read_as_the_strict_reader_reads_it(
    *, document: object, ascii_only: bool, separators: tuple[str, str]
) -> None:
    text = json.dumps(document, ensure_ascii=ascii_only, separators=separators)
    content = text.encode(errors="surrogatepass")
    assert read(content) == strictly(content)


# Pieces of JSON and of what is nearly JSON, put together blindly.
PIECES = st.sampled_from(
    [
        *'{}[]:,"',
        *("{", "}", '"a":', '"a":1', '"b":', '"instances":[', ":", '"x:y"', '"\\u003a"', '"\\u003A":', '"\\u0061":'),
        *("1", "-", "-0", "0", "-0.0", "01", "1.", ".5", "1e5", "1E+5", "1e400", "1e-400", "9" * 18, "9" * 19),
        *("9" * 20, "9223372036854775808", "-9223372036854775809", "18446744073709551616", "9" * 400, "0." + "0" * 25),
        *("true", "false", "null", "NaN", "Infinity", "-Infinity", "True", '"', '"é"', '"🙂"', '"\x7f"', '"\\n"'),
        *(
            '"\\u0000"',
            '"\\\\u0000"',
            '"\\ud83d"',
            '"\\ude00"',
            '"\\ud83d\\ude00"',
            '"\\/"',
            '"\\x"',
            '"a\tb"',
            " ",
            "\n",
        ),
        *("\ufeff", "\0", "\x0c", "\xa0", "//", "1_0", "\uff11", "[" * 60, "]" * 60, '{"a":' * 55, "}" * 55),
    ]
)


@settings(max_examples=500, deadline=None)
@given(pieces=st.lists(PIECES, max_size=8), within=st.booleans())
def test_what_is_nearly_json_is_refused_in_the_same_words(*, pieces: list[str], within: bool) -> None:
    text = "".join(pieces)
    content = (f'{{"a":[{text}],"b":{{{text}}}}}' if within else text).encode()
    assert read(content) == strictly(content)


@settings(max_examples=300, deadline=None)
@given(DOCUMENTS, st.data())
def test_one_wrong_byte_makes_no_difference_between_the_readers(document: object, data: st.DataObject) -> None:
    content = bytearray(json.dumps(document, ensure_ascii=False).encode(errors="surrogatepass"))
    at = data.draw(st.integers(0, len(content) - 1))
    content[at] = data.draw(st.integers(0, 255) | st.sampled_from(b'{}[]:,"\\0'))
    assert read(bytes(content)) == strictly(bytes(content))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.sampled_from([b"", b"\xef\xbb\xbf", b"\xff\xfe", b'{"a":']))
def test_any_bytes_are_read_or_refused_as_the_strict_reader_does(content: bytes, before: bytes) -> None:
    assert read(before + content) == strictly(before + content)


DIGITS = st.text(st.sampled_from("0123456789"), min_size=1, max_size=40)
LITERALS = st.builds(
    lambda sign, whole, rest, exponent: sign + whole + rest + exponent,
    st.sampled_from(["", "-"]),
    DIGITS.map(lambda digits: digits.lstrip("0") or "0"),
    st.just("") | DIGITS.map(lambda digits: f".{digits}"),
    st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E", "e+", "e-"]), st.integers(0, 330)),
)


@settings(max_examples=500, deadline=None)
@given(st.lists(LITERALS, min_size=1, max_size=4))
@example(["-0", "-0.0", "0e0", "-0e-5"])
@example(["2.2250738585072011e-308", "2.4703282292062328e-324", "1.7976931348623158e308", "9007199254740993.0"])
def test_every_number_is_the_same_to_its_last_bit(literals: list[str]) -> None:
    content = f'{{"a":[{",".join(literals)}],"b":{literals[0]}}}'.encode()
    assert read(content) == strictly(content)


@settings(max_examples=100, deadline=None)
@given(
    names=st.lists(st.sampled_from(["a", "b", "c:d"]), min_size=1, max_size=4),
    inside=st.booleans(),
    value=st.text(max_size=3),
)
def test_a_name_that_stands_twice_is_found_wherever_it_stands(*, names: list[str], inside: bool, value: str) -> None:
    pairs = ",".join(f"{json.dumps(name)}:{json.dumps(value, ensure_ascii=False)}" for name in names)
    content = (f'{{"instances":[{{"a":1}},{{{pairs}}}]}}' if inside else f"{{{pairs}}}").encode(errors="surrogatepass")
    assert read(content) == strictly(content)
    if "\\" not in pairs and len(set(names)) < len(names) and value.isprintable():
        assert read(content)[0] == "json_duplicate_name"


@pytest.mark.parametrize(
    "content",
    [
        # As many colons as names and characters have, with one name too many.
        rb'{"a":1,"a":2,"b":"\u003a"}',
        rb'{"a":1,"a":2,"\u003a":3}',
        b'{"instances":[[1]],"a":1,"a":2}',
        b'{"instances":["x"],"a":1,"a":2}',
        b'{"instances":[{"a":1},[1]],"a":1,"a":2}',
        b'{"instances":[{"a":1,"a":2},{}]}',
    ],
)
def test_a_name_that_stands_twice_is_not_outweighed_by_something_else(content: bytes) -> None:
    assert read(content)[0] == "json_duplicate_name"


@pytest.mark.parametrize("levels", [99, 100, 101, 102, 900, 2000])
def test_a_body_may_have_so_many_levels_and_no_more(levels: int) -> None:
    for content in (
        b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}",
        b'{"a":' * levels + b"1" + b"}" * levels,
        b'{"instances":[{"a":1},' + b'{"a":1},' * 200 + b'{"a":' + b"[" * (levels - 3) + b"]" * (levels - 3) + b"}]}",
        b'{"a":":' + b'","b":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}",
    ):
        assert read(content) == strictly(content)
        assert (read(content)[0] == "json_too_deep") == (levels > 100)


# --- Large bodies -----------------------------------------------------------------------------------------


def large(extra: str = "0.5") -> bytes:
    """A body that is looked at as a whole, with something in its middle."""
    rows = ['{"a":0.00012345678901234567,"b":-1.2345678901234567e-05,"id":"12345678901234567890123"}'] * 400
    rows[200] = f'{{"a":{extra},"b":1,"id":""}}'
    return f'{{"instances":[{",".join(rows)}]}}'.encode()


def test_a_large_body_is_read_the_fast_way() -> None:
    assert len(large()) > body._LARGE_BYTES
    assert told(body._read_quickly(large())) == strictly(large())[1]
    # A small one looks for the same.
    assert body._read_quickly(b'{"a":0.00012345678901234567,"id":"12345678901234567890123"}') is not None


@pytest.mark.parametrize(
    "extra",
    [
        "18446744073709551616", "-9223372036854775809", "1234567890123456789", " 12345678901234567890123",
        "[12345678901234567890123,1]", "1,\n\t-12345678901234567890123:1", "12345678901234567890123e5",
        '1,"a":2', '{"a":1,"a":2}', '":::"', '{"x":":"}', '"\\u003a"', '1,"\\u0061":2', '"\\u0000"', '"\\ud83d"',
        "[" * 97 + "]" * 97,
        "[" * 98 + "]" * 98, "1e400", "NaN", "'", "9" * 400, "0.12345678901234567890123", '"\\n:"',
    ],
)  # fmt: skip
def test_what_is_unusual_in_a_large_body_is_noticed(extra: str) -> None:
    assert read(large(extra)) == strictly(large(extra))


def test_integers_of_every_length_and_place_stay_what_they_are_in_a_large_body() -> None:
    source = random.Random(7)
    for _ in range(200):
        digits = source.randint(15, 24)
        literal = source.choice(["", "-", "0.", "-0.000"]) + "".join(source.choices("123456789", k=digits))
        content = large(source.choice(["{}", " {} ", "[{}]", "[1,{}]", '{{"x":{}}}', '"{}"', '"a {}"']).format(literal))
        assert read(content) == strictly(content)


# --- Bodies -----------------------------------------------------------------------------------------------


def test_a_body_is_read_once_and_can_be_asked_for_again() -> None:
    with APP.test_request_context("/", method="POST", data=b'{"a": 1}'):
        assert body.present()
        assert body.read_json() == body.read_json() == {"a": 1}


def test_no_body_is_nothing() -> None:
    with APP.test_request_context("/", method="POST"):
        assert not body.present()


@pytest.mark.parametrize("stated", [True, False])
def test_a_body_has_its_limit_whether_it_states_its_length_or_not(*, stated: bool) -> None:
    def asked(content: bytes) -> Any:
        about: dict[str, Any] = {"wsgi.input": io.BytesIO(content), "wsgi.input_terminated": True}
        about |= {"CONTENT_LENGTH": str(len(content))} if stated else {"HTTP_TRANSFER_ENCODING": "chunked"}
        with APP.test_request_context("/", method="POST", environ_overrides=about):
            return body.read_json()

    most = b'"' + b"x" * (MOST_BYTES - 2) + b'"'
    assert len(asked(most)) == MOST_BYTES - 2
    with pytest.raises(TooLarge):
        asked(b" " + most)


@pytest.mark.parametrize("length", ["", "x", "-1", "+5", "1_0", "٣"])
def test_a_length_that_is_none_is_left_to_the_library(length: str) -> None:
    about = {"wsgi.input": io.BytesIO(b"[1]"), "wsgi.input_terminated": True, "CONTENT_LENGTH": length}
    with APP.test_request_context("/", method="POST", environ_overrides=about):
        expected = flask.request.get_data()
    about["wsgi.input"] = io.BytesIO(b"[1]")
    with APP.test_request_context("/", method="POST", environ_overrides=about):
        assert body._body() == expected


class Broken:
    """A connection that the other side has reset."""

    def read(self, _size: int = -1) -> bytes:
        raise ConnectionResetError


@pytest.mark.parametrize(
    "about",
    [
        {"wsgi.input": io.BytesIO(b"a,b\n1,2\n3,4"), "CONTENT_LENGTH": "40"},
        {"wsgi.input": Broken(), "CONTENT_LENGTH": "40"},
        {"wsgi.input": Broken(), "HTTP_TRANSFER_ENCODING": "chunked"},
    ],
)
def test_what_came_before_the_connection_ended_is_no_body(about: dict[str, Any]) -> None:
    overrides = {**about, "wsgi.input_terminated": True}
    with APP.test_request_context("/", method="POST", environ_overrides=overrides):
        for _ in range(2):
            with pytest.raises(Malformed) as refusal:
                body.read_csv(10)
            assert refusal.value.code == "body_incomplete"


@pytest.mark.parametrize("content", ["a\n1\n", "a\r\n1", 'a\n"1"\n\n\r\n', "a\r1\r\r"])
def test_empty_lines_at_the_end_of_a_table_are_no_rows(content: str) -> None:
    with APP.test_request_context("/", method="POST", data=content.encode()):
        assert body.read_csv(1) == {"a": ("1",)}


def test_of_a_table_with_too_many_rows_one_more_is_read_and_no_others() -> None:
    with APP.test_request_context("/", method="POST", data=b"a\n" + b"1\n" * 1000):
        assert body.read_csv(10) == {"a": ("1",) * 11}


def test_a_document_shows_its_bits() -> None:
    assert len({told(each) for each in (0, 0.0, -0.0, False, None, "0", math.inf)}) == 7
