"""Bodies that are no JSON, or none that a model takes: each is refused with a code and a place, never with a 500."""

from __future__ import annotations

import gzip
import http.client
import json
import math
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
import requests

from tests.conftest import eventually
from tests.functional.server import Server
from webapp.keys import SCOPES

PREDICT = "/models/credit-risk/predict"
BATCH = "/models/credit-risk/predict/batch"
ACTIVATE = "/models/credit-risk/activate"
ROLLBACK = "/models/credit-risk/rollback"
VALID = b'{"age": 35, "income": 52000, "credit_score": 690}'
MOST_BYTES = 10 * 1024 * 1024
MOST_INSTANCES = 10_000
MEMBERS = {"type", "title", "status", "detail", "code", "request_id"}
# What only somebody who wrote or runs the server should see.
INSIDE = ("Traceback", 'File "', "sqlalchemy", "webapp", "marshmallow", ".py")


@pytest.fixture(scope="module")
def key(server: Server) -> str:
    """A key for everything with the demo model."""
    return server.key("--model", "credit-risk", *(option for scope in SCOPES for option in ("--scope", scope)))


@pytest.fixture(scope="module")
def send(server: Server, key: str) -> Callable[..., requests.Response]:
    """Send bytes, or chunks of bytes, as they are."""

    def post(body: bytes | Iterator[bytes], path: str = PREDICT, **headers: str) -> requests.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return requests.post(server.url + path, data=body, headers={"X-API-Key": key, **named}, timeout=60)

    return post


def problem(response: requests.Response, status: int, code: str) -> dict[str, Any]:
    """Give the problem that the answer is, of the expected kind and without anything of the inside."""
    assert response.status_code == status, response.text[:500]
    assert response.headers["Content-Type"] == "application/problem+json"
    document: dict[str, Any] = response.json()
    assert set(document) >= MEMBERS
    assert (document["status"], document["code"]) == (status, code), document
    assert document["type"] == f"urn:modelport:problem:{code}"
    assert document["request_id"] == response.headers["X-Request-ID"]
    assert not [word for word in INSIDE if word in response.text]
    return document


def places(document: dict[str, Any]) -> list[tuple[str, str]]:
    """Give what stands in `errors`: where, and which rule."""
    assert all(each["message"] for each in document["errors"])
    return [(each["pointer"], each["code"]) for each in document["errors"]]


def instance(age: bytes) -> bytes:
    """Write an instance whose age is given as it stands in the body."""
    return b'{"age": ' + age + b', "income": 52000, "credit_score": 690}'


def encoded(encoding: str) -> bytes:
    """Write the valid instance in another encoding."""
    return VALID.decode().encode(encoding)


UNREADABLE = {
    # Numbers that are none, or none that a machine can hold.
    "nan": (instance(b"NaN"), "json_malformed", "NaN"),
    "infinity": (instance(b"Infinity"), "json_malformed", "Infinity"),
    "minus_infinity": (instance(b"-Infinity"), "json_malformed", "-Infinity"),
    "too_large_a_number": (instance(b"1e400"), "json_number_out_of_range", "1e400"),
    "too_small_a_number": (instance(b"-1e400"), "json_number_out_of_range", "-1e400"),
    "400_digits": (instance(b"12345" * 80), "json_number_out_of_range", "12345" * 8),
    "5000_digits": (instance(b"12345" * 1000), "json_number_out_of_range", "12345" * 8),
    "400_digits_before_a_point": (instance(b"9" * 400 + b".5"), "json_number_out_of_range", "9999"),
    "hexadecimal": (instance(b"0x23"), "json_malformed", "column 10"),
    "leading_zero": (instance(b"035"), "json_malformed", "column 10"),
    "leading_plus": (instance(b"+35"), "json_malformed", "column 9"),
    "leading_point": (instance(b".5"), "json_malformed", "column 9"),
    "trailing_point": (instance(b"35."), "json_malformed", "column 11"),
    "underscore": (instance(b"1_000"), "json_malformed", "column 10"),
    "full_width_digits": (instance("\uff13\uff15".encode()), "json_malformed", "column 9"),
    # Depth.
    "100000_arrays": (b"[" * 100_000 + b"]" * 100_000, "json_too_deep", "100 levels"),
    "100000_objects": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "json_too_deep", "100 levels"),
    "100000_open_arrays": (b"[" * 100_000, "json_too_deep", "100 levels"),
    "101_arrays": (b"[" * 101 + b"]" * 101, "json_too_deep", "100 levels"),
    "101_levels_in_an_instance": (instance(b"[" * 100 + b"]" * 100), "json_too_deep", "100 levels"),
    # Names.
    "name_twice": (b'{"age": 35, "income": 1, "age": 36}', "json_duplicate_name", "“age”"),
    "name_twice_with_one_value": (b'{"age": 35, "age": 35}', "json_duplicate_name", "“age”"),
    "name_twice_once_escaped": (rb'{"age": 35, "\u0061ge": 36}', "json_duplicate_name", "“age”"),
    "name_twice_in_an_instance": (b'{"instances": [{"age": 1, "age": 2}]}', "json_duplicate_name", "“age”"),
    "name_twice_in_a_value": (b'{"age": {"x": [{"y": 1, "y": 2}]}}', "json_duplicate_name", "“y”"),
    "name_twice_of_half_a_pair": (rb'{"\ud83d": 1, "\ud83d": 2}', "json_duplicate_name", r"“\ud83d”"),
    "name_twice_among_many": (
        b"{" + b"".join(b'"f%d": 0, ' % number for number in range(30_000)) + b'"f29999": 1}',
        "json_duplicate_name",
        "“f29999”",
    ),
    # Characters.
    "high_surrogate": (instance(rb'"\ud83d"'), "json_lone_surrogate", r"\ud83d"),
    "low_surrogate": (instance(rb'"\uDE00 and more"'), "json_lone_surrogate", r"\ude00"),
    "surrogates_the_wrong_way_round": (instance(rb'"\ude00\ud83d"'), "json_lone_surrogate", r"\ude00"),
    "surrogate_in_a_name": (rb'{"\ud83d": 1}', "json_lone_surrogate", r"\ud83d"),
    "nul": (instance(rb'"a\u0000b"'), "json_nul", "line 1, column 11"),
    "nul_in_a_name": (rb'{"a\u0000ge": 35}', "json_nul", "line 1, column 4"),
    "nul_after_a_backslash": (instance(rb'"\\\u0000"'), "json_nul", "line 1, column 12"),
    "raw_nul": (instance(b'"a\0b"'), "json_malformed", "line 1, column 11"),
    "raw_newline": (b'{\n "age": "a\nb"}', "json_malformed", "line 2, column 11"),
    "raw_escape": (instance(b'"\x1b[31m"'), "json_malformed", "line 1, column 10"),
    "unknown_escape": (instance(rb'"\x41"'), "json_malformed", "line 1, column 10"),
    # Encodings.
    "utf_16_le": (encoded("utf-16-le"), "json_not_utf8", "byte 1"),
    "utf_16_be": (encoded("utf-16-be"), "json_not_utf8", "byte 0"),
    "utf_16_le_with_mark": (b"\xff\xfe" + encoded("utf-16-le"), "json_not_utf8", "byte 0"),
    "utf_16_be_with_mark": (b"\xfe\xff" + encoded("utf-16-be"), "json_not_utf8", "byte 0"),
    "utf_32_le": (encoded("utf-32-le"), "json_not_utf8", "byte 1"),
    "utf_32_be_with_mark": (b"\0\0\xfe\xff" + encoded("utf-32-be"), "json_not_utf8", "byte 2"),
    "latin_1": (instance('"né"'.encode("latin-1")), "json_not_utf8", "byte 10"),
    "overlong_nul": (instance(b'"\xc0\x80"'), "json_not_utf8", "byte 9"),
    "raw_surrogate": (instance(b'"\xed\xa0\xbd"'), "json_not_utf8", "byte 9"),
    "cut_character": (VALID + b"\xe2\x82", "json_not_utf8", "byte 49"),
    # Not JSON.
    "empty": (b"", "json_malformed", "line 1, column 1"),
    "blank": (b" \n ", "json_malformed", "line 2, column 2"),
    "mark_only": (b"\xef\xbb\xbf", "json_malformed", "line 1, column 1"),
    "cut_in_an_object": (VALID[:-1], "json_malformed", "line 1, column 49"),
    "cut_in_a_string": (b'{"age', "json_malformed", "line 1, column 2"),
    "garbage_behind": (VALID + b" x", "json_malformed", "line 1, column 51"),
    "two_documents": (VALID + b"\n" + VALID, "json_malformed", "line 2, column 1"),
    "single_quotes": (b"{'age': 35}", "json_malformed", "line 1, column 2"),
    "comment": (b'{"age": 35 /* years */}', "json_malformed", "line 1, column 12"),
    "trailing_comma": (b'{"age": 35,}', "json_malformed", "line 1, column 12"),
    "name_without_quotes": (b"{age: 35}", "json_malformed", "line 1, column 2"),
    "python": (instance(b"None"), "json_malformed", "line 1, column 9"),
    "form": (b"age=35&income=52000", "json_malformed", "line 1, column 1"),
    "csv": (b"age,income\n35,52000\n", "json_malformed", "line 1, column 1"),
}


@pytest.mark.parametrize(("body", "code", "place"), UNREADABLE.values(), ids=UNREADABLE)
def test_a_body_that_is_no_json_is_refused_with_its_place(
    send: Callable[..., requests.Response], body: bytes, code: str, place: str
) -> None:
    document = problem(send(body), 400, code)
    assert place in document["detail"]
    assert "errors" not in document


MISSING = [("/age", "required"), ("/income", "required"), ("/credit_score", "required")]
UNACCEPTABLE = {
    # Not an instance at all.
    "number": (b"35", "not_an_object", [("", "not_an_object")]),
    "string": (b'"age"', "not_an_object", [("", "not_an_object")]),
    "true": (b"true", "not_an_object", [("", "not_an_object")]),
    "null": (b"null", "not_an_object", [("", "not_an_object")]),
    "array": (b"[" + VALID + b"]", "not_an_object", [("", "not_an_object")]),
    "empty_array": (b"[]", "not_an_object", [("", "not_an_object")]),
    "empty_object": (b"{}", "invalid_instances", MISSING),
    # Only JSON numbers are numbers.
    "boolean": (instance(b"true"), "invalid_instances", [("/age", "not_a_number")]),
    "numeric_string": (instance(b'"35"'), "invalid_instances", [("/age", "not_a_number")]),
    "numeric_string_with_underscore": (instance(b'"1_000"'), "invalid_instances", [("/age", "not_a_number")]),
    "full_width_string": (instance('"\uff13\uff15"'.encode()), "invalid_instances", [("/age", "not_a_number")]),
    "nan_string": (instance(b'"NaN"'), "invalid_instances", [("/age", "not_a_number")]),
    "array_for_a_number": (instance(b"[35]"), "invalid_instances", [("/age", "not_a_number")]),
    "object_for_a_number": (instance(b'{"value": 35}'), "invalid_instances", [("/age", "not_a_number")]),
    "309_digits": (instance(b"9" * 309), "invalid_instances", [("/age", "number_out_of_range")]),
    "broken_integer": (instance(b"35.5"), "invalid_instances", [("/age", "not_an_integer")]),
    "almost_an_integer": (instance(b"35.0000000000001"), "invalid_instances", [("/age", "not_an_integer")]),
    "below_the_bounds": (instance(b"17"), "invalid_instances", [("/age", "out_of_bounds")]),
    "above_the_bounds": (instance(b"1e300"), "invalid_instances", [("/age", "out_of_bounds")]),
    # Names.
    "unknown_name": (VALID[:-1] + ', "âge": 1}'.encode(), "invalid_instances", [("/âge", "unknown_field")]),
    "name_with_slash_and_tilde": (VALID[:-1] + b', "a/b~c": 1}', "invalid_instances", [("/a~1b~0c", "unknown_field")]),
    "empty_name": (VALID[:-1] + b', "": 1}', "invalid_instances", [("/", "unknown_field")]),
    # Many instances.
    "instances_null": (b'{"instances": null}', "invalid_instances", [*MISSING, ("/instances", "unknown_field")]),
    "instances_string": (b'{"instances": "x"}', "invalid_instances", [*MISSING, ("/instances", "unknown_field")]),
    "instances_object": (
        b'{"instances": ' + VALID + b"}",
        "invalid_instances",
        [*MISSING, ("/instances", "unknown_field")],
    ),
    "no_instances": (b'{"instances": []}', "no_instances", [("/instances", "empty")]),
    "instances_of_no_objects": (
        b'{"instances": [' + VALID + b', 35, null, "x", [1]]}',
        "invalid_instances",
        [(f"/instances/{position}", "not_an_object") for position in (1, 2, 3, 4)],
    ),
    "field_beside_the_instances": (
        b'{"instances": [' + VALID + b'], "parameters": {}, "a/b~c": 1}',
        "unknown_field",
        [("/a~1b~0c", "unknown_field"), ("/parameters", "unknown_field")],
    ),
    # The caller's own ids.
    "ids_string": (b'{"instances": [' + VALID + b'], "ids": "a"}', "ids_unusable", [("/ids", "ids_unusable")]),
    "ids_object": (b'{"instances": [' + VALID + b'], "ids": {"0": "a"}}', "ids_unusable", [("/ids", "ids_unusable")]),
    "too_few_ids": (b'{"instances": [' + VALID + b'], "ids": []}', "ids_unusable", [("/ids", "ids_unusable")]),
    "too_many_ids": (b'{"instances": [' + VALID + b'], "ids": ["a", "b"]}', "ids_unusable", [("/ids", "ids_unusable")]),
    "ids_of_numbers": (b'{"instances": [' + VALID + b'], "ids": [1]}', "ids_unusable", [("/ids", "ids_unusable")]),
    "an_id_that_is_too_long": (
        b'{"instances": [' + VALID + b'], "ids": ["' + b"a" * 201 + b'"]}',
        "ids_unusable",
        [("/ids", "ids_unusable")],
    ),
}


@pytest.mark.parametrize(("body", "code", "expected"), UNACCEPTABLE.values(), ids=UNACCEPTABLE)
def test_a_body_that_the_model_cannot_take_is_refused_with_a_pointer(
    send: Callable[..., requests.Response], body: bytes, code: str, expected: list[tuple[str, str]]
) -> None:
    assert sorted(places(problem(send(body), 422, code))) == sorted(expected)


ACCEPTED = {
    "whole_number_as_float": instance(b"35.0"),
    "whole_number_with_exponent": instance(b"3.5e1"),
    "byte_order_mark": b"\xef\xbb\xbf" + VALID,
    "spaces_around": b"\r\n\t " + VALID + b"\n",
    "escaped_names": rb'{"\u0061ge": 35, "income": 52000, "credit_score": 690}',
    "names_in_another_order": b'{"credit_score": 690, "age": 35, "income": 52000}',
    "a_number_of_5000_digits_behind_its_point": instance(b"35." + b"0" * 5000),
}


@pytest.mark.parametrize("body", ACCEPTED.values(), ids=ACCEPTED)
def test_unusual_json_is_json(send: Callable[..., requests.Response], body: bytes) -> None:
    response = send(body)
    assert response.status_code == 200, response.text
    assert response.json()["prediction"] == send(VALID).json()["prediction"]


def test_what_looks_like_an_escape_is_text(send: Callable[..., requests.Response]) -> None:
    pairs = rb'{"instances": [%s, %s], "ids": ["\ud83d\ude00", "\\u0000 \\ud83d"]}' % (VALID, VALID)
    predictions = send(pairs).json()["predictions"]
    assert [each["id"] for each in predictions] == ["😀", r"\u0000 \ud83d"]


@pytest.mark.parametrize("path", ["/predict", PREDICT, "/predict/batch", BATCH, ACTIVATE, ROLLBACK])
@pytest.mark.parametrize(
    ("name", "code"),
    [("nan", "json_malformed"), ("too_large_a_number", "json_number_out_of_range"), ("nul", "json_nul")],
)
def test_every_route_reads_json_with_the_same_care(
    send: Callable[..., requests.Response], path: str, name: str, code: str
) -> None:
    problem(send(UNREADABLE[name][0], path), 400, code)


@pytest.mark.parametrize("path", [PREDICT, BATCH])
def test_what_is_100_levels_deep_is_read_and_stored_without_a_fault(
    send: Callable[..., requests.Response], path: str
) -> None:
    # The body, the instances and the instance are three levels.
    response = send(b'{"instances": [' + instance(b"[" * 97 + b"]" * 97) + b"]}", path)
    if path == PREDICT:
        assert places(problem(response, 422, "invalid_instances")) == [("/instances/0/age", "not_a_number")]
        return
    assert response.status_code == 202, response.text
    done = eventually(lambda: finished(response))
    (result,) = done["results"]
    assert [each["pointer"] for each in result["error"]["errors"]] == ["/instances/0/age"]


def finished(accepted: requests.Response) -> dict[str, Any]:
    """Give what a job became, once it is completed; before that nothing."""
    url = urljoin(accepted.url, accepted.json()["status_url"])
    job: dict[str, Any] = requests.get(url, headers=accepted.request.headers, timeout=60).json()
    return job if job["status"] == "completed" else {}


@pytest.mark.parametrize("path", [ACTIVATE, ROLLBACK])
@pytest.mark.parametrize("body", [b"[]", b"1", b"null"])
def test_what_is_no_object_changes_no_version(send: Callable[..., requests.Response], path: str, body: bytes) -> None:
    assert places(problem(send(body, path), 422, "not_an_object")) == [("", "not_an_object")]


@pytest.mark.parametrize("body", [b"{}", b'{"version": "1"}', b'{"version": 1.0}', b'{"version": true}'])
def test_only_a_whole_number_names_a_version(send: Callable[..., requests.Response], body: bytes) -> None:
    assert places(problem(send(body, ACTIVATE), 422, "version_missing")) == [("/version", "not_an_integer")]


@pytest.mark.parametrize("number", [0, -1, 2**31, 2**63, 10**300], ids=["0", "-1", "2^31", "2^63", "10^300"])
def test_a_version_that_cannot_be_is_unknown(
    server: Server, send: Callable[..., requests.Response], key: str, number: int
) -> None:
    assert str(number) in problem(send(b'{"version": %d}' % number, ACTIVATE), 404, "unknown_version")["detail"]
    if number >= 0:
        path = f"/models/credit-risk/versions/{number}"
        problem(server.get(path, key), 404, "unknown_version")
        problem(send(VALID, f"{path}/predict"), 404, "unknown_version")


# --- All problems at once -----------------------------------------------------------------------------------


def test_all_problems_of_all_instances_are_told_at_once(send: Callable[..., requests.Response]) -> None:
    instances: list[object] = [
        {"age": "35", "income": True, "credit_score": 690},
        {"age": 35, "income": 52000, "credit_score": 690},
        {"age": 101, "a/b~c": 1, "income": -1},
        "x",
    ]
    document = problem(send(json.dumps({"instances": instances}).encode()), 422, "invalid_instances")
    assert sorted(places(document)) == [
        ("/instances/0/age", "not_a_number"),
        ("/instances/0/income", "not_a_number"),
        ("/instances/2/age", "out_of_bounds"),
        ("/instances/2/a~1b~0c", "unknown_field"),
        ("/instances/2/credit_score", "required"),
        ("/instances/2/income", "out_of_bounds"),
        ("/instances/3", "not_an_object"),
    ]
    assert "more" not in document
    assert "7" in document["detail"]


@pytest.mark.parametrize(("count", "more"), [(20, None), (21, 1), (1000, 980)])
def test_twenty_problems_are_told_and_the_rest_is_counted(
    send: Callable[..., requests.Response], count: int, more: int | None
) -> None:
    instances = [{"age": 35.5, "income": 52000, "credit_score": 690}] * count
    document = problem(send(json.dumps({"instances": instances}).encode()), 422, "invalid_instances")
    assert places(document) == [(f"/instances/{row}/age", "not_an_integer") for row in range(20)]
    assert document.get("more") == more


# --- Too much -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [PREDICT, BATCH])
def test_more_instances_than_allowed_are_refused_before_they_are_looked_at(
    send: Callable[..., requests.Response], path: str
) -> None:
    body = b'{"instances": [' + b",".join([b"0"] * (MOST_INSTANCES + 1)) + b"]}"
    detail = problem(send(body, path), 413, "too_many_instances")["detail"]
    assert "10001" in detail
    assert "10000" in detail


def test_a_body_of_the_most_bytes_is_read(send: Callable[..., requests.Response]) -> None:
    assert send(VALID.ljust(MOST_BYTES)).status_code == 200
    assert send(iter([VALID, b" " * (MOST_BYTES - len(VALID))])).status_code == 200


def test_a_body_of_more_bytes_is_refused_unread(server: Server, key: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", PREDICT)
    connection.putheader("X-API-Key", key)
    connection.putheader("Content-Length", str(MOST_BYTES * 1000))
    connection.endheaders()
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert (answer.status, document["status"], document["code"]) == (413, 413, "body_too_large")
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert str(MOST_BYTES) in document["detail"]


def test_a_body_in_chunks_is_not_cut_but_refused(send: Callable[..., requests.Response]) -> None:
    # The first ten mebibytes are a valid body.
    problem(send(iter([VALID, b" " * (MOST_BYTES - len(VALID)), b" "])), 413, "body_too_large")


# --- How a body travels -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "image/png", "nonsense", ""],
)
def test_json_is_read_whatever_its_content_type_says(send: Callable[..., requests.Response], content_type: str) -> None:
    assert send(VALID, Content_Type=content_type).status_code == 200


def test_json_is_read_without_a_content_type(send: Callable[..., requests.Response]) -> None:
    response = send(VALID)
    assert "Content-Type" not in response.request.headers
    assert response.status_code == 200


def test_a_body_in_chunks_is_read(send: Callable[..., requests.Response]) -> None:
    response = send(iter([VALID[:7], VALID[7:8], VALID[8:]]))
    assert response.request.headers["Transfer-Encoding"] == "chunked"
    assert response.status_code == 200


@pytest.mark.parametrize(
    ("coding", "body"),
    [("gzip", gzip.compress(VALID)), ("deflate", zlib.compress(VALID)), ("br", VALID), ("identity, gzip", VALID)],
    ids=["gzip", "deflate", "br", "identity_and_gzip"],
)
def test_a_compressed_body_is_refused_as_such(send: Callable[..., requests.Response], coding: str, body: bytes) -> None:
    document = problem(send(body, Content_Encoding=coding), 415, "unsupported_media_type")
    assert "Content-Encoding" in document["detail"]
    assert send(VALID, Content_Encoding="identity").status_code == 200


@pytest.mark.parametrize(
    "chunks",
    [b"zz\r\n{}\r\n0\r\n\r\n", b"2\r\n{}}}\r\n0\r\n\r\n", b"-1\r\n{}\r\n0\r\n\r\n"],
    ids=["no_number", "longer_than_said", "negative"],
)
def test_broken_chunks_are_the_callers_fault(server: Server, key: str, chunks: bytes) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", PREDICT)
    connection.putheader("X-API-Key", key)
    connection.putheader("Transfer-Encoding", "chunked")
    connection.endheaders()
    connection.send(chunks)
    answer = connection.getresponse()
    document = json.loads(answer.read())
    connection.close()
    assert (answer.status, document["status"], document["code"]) == (400, 400, "body_malformed")


# --- The log ------------------------------------------------------------------------------------------------


def test_the_log_holds_neither_what_was_sent_nor_the_key(
    server: Server, send: Callable[..., requests.Response], key: str, tmp_path: Path
) -> None:
    value = math.pi * 1e4  # 31415.926535897932, in every way to write it
    sent = [
        instance(b"%r" % value),
        instance(b'"%r"' % value),
        instance(b"%r000x" % value),
        instance(rb'"%r \ud83d"' % value),
        b'{"31415.926": 1}',
        b'{"instances": [%s], "ids": ["31415.926"]}' % VALID,
        VALID.replace(b"52000", b"31415.926535"),
    ]
    answers = [send(body, path) for body in sent for path in (PREDICT, BATCH)]
    assert {answer.status_code for answer in answers} == {200, 202, 400, 422}
    ids = [answer.headers["X-Request-ID"] for answer in answers]

    log = eventually(lambda: whole(server, ids))

    assert "31415.926" not in log
    assert key not in log
    assert key[-20:] not in log


def whole(server: Server, request_ids: list[str]) -> str:
    """Give the server's log once it tells of all these requests; before that nothing."""
    log = server.log.read_text()
    return log if all(request_id in log for request_id in request_ids) else ""
