"""Tests of reading `.skops` files without running them: honest ones of many kinds, and files made to attack."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import struct
import sys
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import scipy.sparse  # type: ignore[import-untyped]
import skops.io
from hypothesis import HealthCheck, given
from hypothesis import settings as rules
from hypothesis import strategies as st
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.tree import DecisionTreeClassifier
from skops.io._audit import NODE_TYPE_MAPPING

from webapp import names
from webapp.errors import Invalid
from webapp.intake import skops_reading
from webapp.intake.skops_reading import SkopsReading, archive
from webapp.intake.skops_reading.tree import _FORMS

KIB, MIB, GIB = 1024, 1024**2, 1024**3
X = np.random.default_rng(7).uniform(0.1, 3, (40, 3))
Y = np.tile([0, 1], 20)
LOGISTIC = LogisticRegression().fit(X, Y)

Schema = dict[str, Any]
Members = dict[str, bytes]


def read(content: bytes) -> SkopsReading:
    return skops_reading.read(content, names.SKOPS_NODES)


def refused(content: bytes) -> Invalid:
    with pytest.raises(Invalid) as caught:
        read(content)
    assert caught.value.more["findings"]
    return caught.value


def findings(refusal: Invalid) -> list[dict[str, str]]:
    found = refusal.more["findings"]
    assert isinstance(found, list)
    return found


def opened(content: bytes) -> tuple[Schema, Members]:
    """Give the schema of a file and its other members."""
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        members = {name: file.read(name) for name in file.namelist()}
    return json.loads(members.pop("schema.json")), members


def closed(schema: Any, members: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Make a file the way skops does; `schema` may be the text of one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        for name, content in members.items():
            file.writestr(name, content)
        file.writestr("schema.json", schema if isinstance(schema, str | bytes) else json.dumps(schema, indent=2))
    return buffer.getvalue()


_numbers = itertools.count(1)


def node(loader: str, name: str, **fields: Any) -> Schema:
    """Make a node with an id of its own."""
    module, _, cls = name.rpartition(".")
    return {"__class__": cls, "__module__": module, "__loader__": loader, **fields, "__id__": next(_numbers)}


def scalar(value: Any) -> Schema:
    return node("JsonNode", "builtins.str", content=json.dumps(value), is_json=True)


def listing(*items: Schema, loader: str = "ListNode") -> Schema:
    return node(loader, f"builtins.{loader.removesuffix('Node').lower()}", content=list(items))


def mapping(content: Mapping[str, Schema], key_type: str = "builtins.str") -> Schema:
    types = listing(*(node("TypeNode", key_type) for _ in content))
    return node("DictNode", "builtins.dict", content=dict(content), key_types=types)


def file_of(schema: Schema, members: Mapping[str, bytes] | None = None) -> bytes:
    """Make a file of a node and the members it uses."""
    return closed({**schema, "protocol": 2, "_skops_version": "0.16.0"}, members or {})


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def header_only(text: str, version: tuple[int, int] = (1, 0)) -> bytes:
    """Make an array's header of any text, without elements."""
    line = text.encode() + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(line)) + line


def array_file(member: bytes, name: str = "numpy.ndarray") -> bytes:
    return file_of(node("NdArrayNode", name, type="numpy", file="1.npy"), {"1.npy": member})


def within(schema: Schema, wanted: Callable[[Schema], bool]) -> Schema:
    """Give the first node in a schema that is wanted."""
    waiting: list[Any] = [schema]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, dict):
            if "__loader__" in part and wanted(part):
                return part
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
    raise AssertionError


def of(loader: str, cls: str | None = None) -> Callable[[Schema], bool]:
    return lambda one: one["__loader__"] == loader and cls in (None, one["__class__"])


# --- Honest files -----------------------------------------------------------------------------------------


@cache
def script() -> ModuleType:
    """Give the script that fits every estimator to find out which names its file needs."""
    path = Path(__file__).parent.parent / "scripts" / "estimator_names.py"
    spec = importlib.util.spec_from_file_location("estimator_names", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["estimator_names"] = module
    spec.loader.exec_module(module)
    return module


# All loaders between them, and whatever has a form of its own.
HONEST = {
    "ColumnTransformer by selector",
    "ColumnTransformer on labels",
    "FunctionTransformer(log1p)",
    "GaussianProcessRegressor(Sum)",
    "GradientBoostingClassifier",
    "GradientBoostingRegressor(loss='huber')",
    "GridSearchCV",
    "HistGradientBoostingClassifier",
    "IterativeImputer",
    "KBinsDiscretizer",
    "KNeighborsClassifier on sparse",
    "KNeighborsClassifier on sparse array",
    "KNeighborsClassifier(mahalanobis, ball_tree)",
    "KNeighborsClassifier(seuclidean, kd_tree)",
    "LogisticRegressionCV",
    "MLPClassifier(random_state=RandomState(MT19937))",
    "OneHotEncoder(dtype=int32)",
    "Pipeline of ColumnTransformer by name",
    "RandomForestClassifier on multilabel",
    "SGDClassifier",
    "SVC on sparse",
    "SplineTransformer",
    "StackingClassifier",
    "TfidfVectorizer",
    "TransformedTargetRegressor(log1p)",
    "TweedieRegressor",
}


@cache
def honest() -> dict[str, bytes]:
    """Give files of estimators with settings and data of all sorts."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in script()._cases():
            if case.label in HONEST or "range(" in case.label:
                found[case.label] = skops.io.dumps(script()._fitted(case)[0])
    return found


def test_honest_files_pass_and_tell_who_wrote_them() -> None:
    loaders = set()
    seconds = 0.0
    for label, content in honest().items():
        before = time.perf_counter()
        reading = read(content)
        seconds += time.perf_counter() - before
        schema, members = opened(content)
        loaders |= {pair[0] for pair in script()._nodes_in(content)}
        assert reading.library == script().sklearn.__version__, label
        assert reading.claimed_bytes >= len(json.dumps(schema)) + sum(map(len, members.values())), label
        assert {f"{schema['__module__']}.{schema['__class__']}"} < reading.names, label
    print(f"{len(honest())} files of {sum(map(len, honest().values())) // KIB} KiB read in {seconds:.2f} s")
    assert loaders >= {loader for loader, _ in names.SKOPS_NODES} - {"SetNode"}


def test_each_loader_of_the_table_has_a_form() -> None:
    assert _FORMS.keys() == {loader for loader, _ in names.SKOPS_NODES}


def test_a_compressed_file_passes() -> None:
    content = skops.io.dumps(RandomForestClassifier(5).fit(X, Y), compression=zipfile.ZIP_DEFLATED)
    assert read(content).claimed_bytes > len(content)


def test_objects_that_are_shared_pass() -> None:
    scaler = StandardScaler().fit(X)
    model = ColumnTransformer([("a", scaler, [0]), ("b", scaler, [1])]).fit(X)
    seed = np.random.RandomState(3)
    assert read(skops.io.dumps([model, scaler, scaler, seed, seed, X, X])).library


def test_the_oldest_of_several_versions_is_told() -> None:
    schema, members = opened(skops.io.dumps(make_pipeline(StandardScaler(), LogisticRegression()).fit(X, Y)))
    version = within(schema, lambda one: "1.9" in str(one.get("content")) and one["__loader__"] == "JsonNode")
    own = json.loads(version["content"])
    # The version of the whole pipeline; those of its steps have the same id.
    version |= {"content": '"1.10.2"', "__id__": 1}
    assert read(closed(schema, members)).library == own
    version |= {"content": '"1.4.0rc1"', "__id__": 1}
    assert read(closed(schema, members)).library == "1.4.0rc1"


def test_files_of_other_protocols_of_skops_pass_or_are_refused() -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    assert read(closed({**schema, "protocol": 1}, members)).library
    for protocol in (3, -1, True, 2.0, "2", None, [2], {}):
        assert refused(closed({**schema, "protocol": protocol}, members)).code == "model_structure_invalid"


# --- Names ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", sorted({loader for loader, _ in NODE_TYPE_MAPPING} | {"CachedNode", "NewNode"}))
def test_a_name_outside_of_the_table_is_refused_under_each_loader(loader: str) -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    schema["content"]["content"]["C"] = node(loader, "posix.system")
    refusal = refused(closed(schema, members))
    assert refusal.code == "model_unknown_names"
    assert "posix.system" in refusal.detail
    assert findings(refusal)[0] == {
        "name": "posix.system",
        "meaning": findings(refusal)[0]["meaning"],
        "place": "/content/content/C",
    }


def test_names_within_calls_are_all_reported() -> None:
    system = node("FunctionNode", "posix.system")
    command = listing(scalar("touch /tmp/marker"), loader="TupleNode")
    bound = node(
        "PartialNode",
        "functools.partial",
        content={"func": system, "args": command, "kwds": mapping({}), "namespace": scalar(None)},
    )
    method = node("MethodNode", "shutil.rmtree", content={"func": "run", "obj": node("ObjectNode", "pty.spawn")})
    caller = node("OperatorFuncNode", "operator.methodcaller", attrs=command)
    called = node("ConstructorFromReduceNode", "subprocess.Popen", content=command)
    refusal = refused(file_of(listing(bound, method, caller, called)))
    assert {finding["name"] for finding in findings(refusal)} >= {
        "functools.partial",
        "posix.system",
        "shutil.rmtree",
        "pty.spawn",
        "operator.methodcaller",
        "subprocess.Popen",
    }
    assert refusal.detail.endswith("Nothing in the file was run.")


def test_code_of_ones_own_has_a_code_of_its_own() -> None:
    assert refused(file_of(node("FunctionNode", "__main__.clean"))).code == "model_custom_code"
    mixed = listing(node("FunctionNode", "__main__.clean"), node("FunctionNode", "posix.system"))
    assert refused(file_of(mixed)).code == "model_unknown_names"


# What skops would do with names that it trusts elsewhere, and the check of names alone lets through.
ARGUMENTS = listing(scalar(1), loader="TupleNode")
MISUSED = {
    "calls a class": node("ConstructorFromReduceNode", "sklearn.tree._tree.Tree", content=ARGUMENTS),
    "calls a dtype with text": node("ConstructorFromReduceNode", "numpy.dtype", content=ARGUMENTS),
    "calls a function": node("ConstructorFromReduceNode", "sklearn.metrics._ranking.roc_auc_score", content=ARGUMENTS),
    "calls a function with a list": node("ListNode", "numpy.mean", content=[scalar(1)]),
    "calls a class with a list": node("SetNode", "builtins.range", content=[scalar(1)]),
    "fills a class like a dict": node("DictNode", "builtins.range", content={}, key_types=listing()),
    "makes a matrix of an array": node("NdArrayNode", "scipy.sparse._csr.csr_array", type="numpy", file="1.npy"),
    "calls a class as a loss": node(
        "LossNode", "builtins.range", content=mapping({}), __reduce__={"args": listing(loader="TupleNode")}
    ),
    "makes a tree without arguments": node("ObjectNode", "sklearn.tree._tree.Tree", content=scalar(None)),
    "makes an object of a function": node("ObjectNode", "numpy.mean", content=scalar(None)),
    "mentions a class as a function": node("FunctionNode", "scipy.interpolate._bsplines.BSpline"),
    "mentions a function as a class": node("TypeNode", "sklearn.metrics._ranking.roc_auc_score"),
    "seeds a class": node("RandomStateNode", "builtins.range", content=mapping({})),
}


@pytest.mark.parametrize("schema", MISUSED.values(), ids=MISUSED)
def test_an_allowed_name_in_another_role_is_refused(schema: Schema) -> None:
    content = file_of(schema, {"1.npy": npy(X)})
    refusal = refused(content)
    assert refusal.code == "model_unknown_names"
    assert "not in this role" in findings(refusal)[0]["meaning"]
    # Names alone do not tell.
    assert set(skops.io.get_untrusted_types(data=content)) <= names.SKOPS


def test_text_of_a_file_reaches_people_without_control_characters() -> None:
    refusal = refused(file_of(node("FunctionNode", "evil.\x1b[2J\u202e<img>\ud800" + "x" * 4000)))
    shown = findings(refusal)[0]["name"]
    assert "\x1b" not in refusal.detail + shown
    assert "\u202e" not in refusal.detail + shown
    assert len(shown) < 300
    assert json.dumps(shown).encode("ascii")


# --- The zip ----------------------------------------------------------------------------------------------


def replaced(content: bytes, *changes: tuple[bytes, bytes]) -> bytes:
    for old, new in changes:
        assert old in content
        content = content.replace(old, new)
    return content


def directory(content: bytes) -> int:
    """Give where the directory of a zip begins."""
    return int(struct.unpack("<L", content[-6:-2])[0])


def with_field(content: bytes, name: bytes, offset: int, form: str, value: int) -> bytes:
    """Change a field of a member in the zip's directory."""
    at = content.index(name, directory(content)) - 46 + offset
    return content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


def test_a_file_cut_anywhere_is_refused() -> None:
    content = skops.io.dumps(RandomForestClassifier(3, random_state=0).fit(X, Y))
    codes = {refused(content[:length]).code for length in (*range(30, len(content), KIB), len(content) - 1)}
    assert codes == {"model_truncated"}
    assert {refused(content[:length]).code for length in range(30)} == {"model_truncated", "model_damaged"}


@pytest.mark.parametrize(
    "changed",
    [
        lambda content: content + b"x",
        lambda content: content + bytes(100_000),
        lambda content: b"x" + content,
        lambda content: b"PK\x03\x04" + bytes(60) + content,
        lambda content: content[: directory(content)] + b"x" + content[directory(content) :],
    ],
    ids=["behind", "far behind", "in front", "in front, alike", "in between"],
)
def test_bytes_around_the_zip_are_refused(changed: Callable[[bytes], bytes]) -> None:
    assert refused(changed(skops.io.dumps(LOGISTIC))).code == "model_damaged"


def test_bytes_between_members_are_refused_also_where_the_directory_knows() -> None:
    content = skops.io.dumps(LOGISTIC)
    begin = directory(content)
    moved = content[:begin] + b"x" + content[begin:-6] + struct.pack("<L", begin + 1) + content[-2:]
    zipfile.ZipFile(io.BytesIO(moved)).testzip()
    assert refused(moved).code == "model_damaged"


def test_bytes_between_members_are_refused_also_where_all_offsets_know() -> None:
    content = skops.io.dumps(LOGISTIC)
    schema = content.index(b"schema.json") - 30
    begin = directory(content) + 1
    moved = content[:schema] + b"x" + content[schema:-6] + struct.pack("<L", begin) + content[-2:]
    moved = with_field(moved, b"schema.json", 42, "<L", schema + 1)
    zipfile.ZipFile(io.BytesIO(moved)).testzip()
    assert refused(moved).code == "model_damaged"


def test_members_of_the_same_name_are_refused() -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    first = next(iter(members))
    copy = "0" * (len(first) - 4) + ".npy"
    content = closed(schema, {copy: npy(X), **members})
    refusal = refused(replaced(content, (copy.encode(), first.encode())))
    assert refusal.code == "model_damaged"
    assert "twice" in refusal.detail


@pytest.mark.parametrize(
    "name", ["../1.npy", "a/1.npy", "1.npy\0", "/1.npy", "C:1.npy", "model.pkl", "ä.npy", "SCHEMA.JSON"]
)
def test_members_that_skops_does_not_write_are_refused(name: str) -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    content = closed(schema, {**members, name.replace("\0", "?"): b""}).replace(b"npy?", b"npy\0")
    assert refused(content).code == "model_damaged"


def test_a_zip_of_10000_members_is_refused() -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    content = closed(schema, {**members, **{f"{number}.npy": b"" for number in range(10_000)}})
    refusal = refused(content)
    assert refusal.code == "model_structure_invalid"
    assert findings(refusal)[0]["meaning"] == "No part of the model uses it."


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (8, "<H", 1),  # encrypted
        (8, "<H", 8),  # sizes behind the data
        (10, "<H", 12),  # bzip2
        (10, "<H", 14),  # LZMA
        (10, "<H", 8),  # deflated, which it is not
        (16, "<L", 1),  # another checksum
        (20, "<L", 100),  # fewer bytes packed
        (24, "<L", 100),  # fewer bytes
        (24, "<L", 2**31),  # more bytes than there are
        (30, "<H", 4),  # an extra field
        (32, "<H", 4),  # a comment
        (34, "<H", 1),  # on another disk
        (42, "<L", 100),  # somewhere else
        (42, "<L", 0),  # where another one is
    ],
)
def test_a_directory_that_lies_is_refused(offset: int, form: str, value: int) -> None:
    content = skops.io.dumps(LOGISTIC)
    assert refused(with_field(content, b"schema.json", offset, form, value)).code == "model_damaged"


@pytest.mark.parametrize("size", [100, 10**6])
def test_a_member_that_lies_about_its_size_twice_is_refused(size: int) -> None:
    content = skops.io.dumps(LOGISTIC, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        true = file.getinfo("schema.json").file_size
    lying = replaced(content, (struct.pack("<L", true), struct.pack("<L", size)))
    assert refused(lying).code == "model_damaged"


def zeros(size: int, claimed: int) -> bytes:
    """Make a zip with a member of zeros that claims another size; its blocks are alike, so that it is quick."""
    packer = zlib.compressobj(9, wbits=-zlib.MAX_WBITS)
    block = packer.compress(bytes(16 * MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = block * (size // (16 * MIB)) + packer.flush()
    fields = struct.pack("<4H3L", 0, 8, 0, 33, 0, len(packed), claimed)
    local = b"PK\x03\x04\x14\x00" + fields + struct.pack("<2H", 5, 0) + b"1.npy" + packed
    central = b"PK\x01\x02\x14\x03\x14\x00" + fields + struct.pack("<5H2L", 5, 0, 0, 0, 0, 0, 0) + b"1.npy"
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(central), len(local), 0)
    return local + central + end


def test_a_bomb_of_2_gib_is_refused_before_it_is_unpacked() -> None:
    content = zeros(2 * GIB, 2 * GIB)
    assert len(content) < 2 * MIB
    before = time.process_time()
    assert refused(content).code == "model_unpacks_too_large"
    print(f"{len(content)} bytes refused in {time.process_time() - before:.4f} s")


def test_a_bomb_that_claims_little_is_given_up_at_what_it_claims() -> None:
    bomb = zeros(2 * GIB, 1000)
    (member,) = archive.members(bomb, archive.MEMBER).values()
    tracemalloc.start()
    with pytest.raises(Invalid, match="more bytes than the zip's directory says"):
        archive.unpacked(bomb, member)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * MIB


def test_many_members_that_are_large_together_are_refused() -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    content = closed(schema, members)
    for name in members:
        content = with_field(content, name.encode(), 24, "<L", 2**31 - 1)
        content = with_field(content, name.encode(), 20, "<L", 2**31 - 1)
    assert refused(content).code == "model_unpacks_too_large"


def test_a_second_directory_that_only_zip64_readers_see_is_refused() -> None:
    content = skops.io.dumps(LOGISTIC)
    at = len(content) - 42
    assert refused(content[:at] + b"PK\x06\x07" + content[at + 4 :]).code == "model_damaged"


# --- The schema -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[",
        "[]",
        "null",
        "{}",
        '{"protocol": 2}',
        '{"protocol": 2, "protocol": 2}',
        '{"protocol": NaN}',
        '{"protocol": 1e999}',
        "\ufeff{}",
        '{"a": "ä"}',
        '{"protocol": ' + "1" * 5000 + "}",
        "[" * 200_000 + "]" * 200_000,
        '{"a":' * 100_000,
        "[" * 5_000_000,
        "{},[" * 1_100_000,
        "," * 21_000_000,
    ],
    ids=lambda text: text[:20],
)
def test_a_schema_that_is_no_honest_json_is_refused(text: str) -> None:
    assert refused(closed(text, {})).code in {
        "model_damaged",
        "model_structure_invalid",
        "model_unpacks_too_large",
    }


def test_a_schema_in_another_encoding_is_refused() -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    assert refused(closed(json.dumps(schema).encode("utf-16"), members)).code == "model_damaged"


def test_a_key_that_stands_twice_is_refused() -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    text = json.dumps(schema).replace(
        '"__loader__": "ObjectNode"', '"__loader__": "JsonNode", "__loader__": "ObjectNode"'
    )
    assert refused(closed(text, members)).code == "model_damaged"


def test_objects_within_objects_without_end_are_refused() -> None:
    inner = listing()
    for _ in range(150):
        inner = listing(inner)
    assert "nested too deeply" in refused(file_of(inner)).detail


# --- Arrays -----------------------------------------------------------------------------------------------


def pickled_array() -> bytes:
    """An array of objects as NumPy writes them: a pickle, here one that calls a function."""

    class Call:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("ran",)

    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.array([Call()], dtype=object), allow_pickle=True)
    assert b"cbuiltins\nprint" in buffer.getvalue() or b"print" in buffer.getvalue()
    return buffer.getvalue()


def descr(kind: str, shape: str) -> str:
    return f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}"


HEADERS = {
    "1e11 doubles": header_only(descr("'<f8'", "(100000000000,)")),
    "lengths whose product wraps around": header_only(descr("'<f8'", f"({2**32}, {2**32})")),
    "elements of no size": header_only(descr("'|S0'", f"({2**60},)")),
    "objects": pickled_array(),
    "objects by another word": header_only(descr("'O'", "(0,)")),
    "a record of any form": header_only(descr("[('a', '<i8')]", "(0,)")),
    "a record of objects": header_only(descr("[('a', '|O')]", "(0,)")),
    "the other byte order": npy(X.astype(">f8")),
    "a second version": header_only(descr("'<f8'", "(0,)"), (2, 0)),
    "a code": header_only("{'descr': '<f8', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }"),
    "parentheses": header_only("(" * 1500),
    "a bomb of a header": header_only(descr("'<f8'", "(" + "1," * 30_000 + ")")),
    "signs": header_only("-" * 9000 + "1"),
    "a negative length": header_only(descr("'<f8'", "(-1,)")),
    "no lengths": header_only(descr("'<f8'", "(,)")),
    "nothing": b"",
    "no end": b"\x93NUMPY\x01\x00\xff\xff",
    "a missing byte": npy(X)[:-1],
    "a byte more": npy(X) + b"x",
}


@pytest.mark.parametrize("member", HEADERS.values(), ids=HEADERS)
def test_an_array_that_is_not_what_it_claims_is_refused(member: bytes) -> None:
    refusal = refused(array_file(member))
    assert refusal.code == "model_structure_invalid"
    assert findings(refusal)[0]["name"] == "numpy.ndarray"


@pytest.mark.parametrize(
    "array",
    [
        X,
        X.T,
        X.astype("f4"),
        Y.astype("u1"),
        Y.astype(bool),
        np.array(["a", "ß"]),
        np.array([b"a"]),
        np.array(1j),
        np.empty((0, 3)),
        np.ones((1, 1, 1, 1, 1)),
        np.arange(3, dtype=np.longdouble),
    ],
)
def test_arrays_of_all_numbers_and_texts_pass(array: Any) -> None:
    assert read(array_file(npy(array))).objects == 1


def test_a_single_number_is_not_made_of_an_array() -> None:
    assert read(array_file(npy(np.float64(3)), "numpy.float64")).objects == 1
    assert refused(array_file(npy(X), "numpy.float64")).code == "model_structure_invalid"


def test_an_array_of_objects_must_have_its_shape() -> None:
    words = np.array([["a", None], ["b", 2]], dtype=object)
    schema, members = opened(skops.io.dumps([words]))
    assert read(closed(schema, members)).objects
    schema["content"][0]["content"].pop()
    assert "shape" in findings(refused(closed(schema, members)))[0]["meaning"]


def test_a_member_that_a_node_names_must_be_there_and_each_member_be_named() -> None:
    schema, members = opened(skops.io.dumps(LOGISTIC))
    name = next(iter(members))
    assert "missing" in findings(refused(closed(schema, {n: c for n, c in members.items() if n != name})))[0]["meaning"]
    stowaway = findings(refused(closed(schema, {**members, "77.npy": npy(X)})))[0]
    assert (stowaway["name"], stowaway["meaning"]) == ("77.npy", "No part of the model uses it.")


def test_a_member_belongs_to_one_object() -> None:
    # skops would hold it in memory as often as it is named.
    many = [node("NdArrayNode", "numpy.ndarray", type="numpy", file="1.npy") for _ in range(1000)]
    assert structure_is_refused(file_of(listing(*many), {"1.npy": npy(X)})) == "/content/1"


# --- Sparse matrices --------------------------------------------------------------------------------------


def sparse_file(kind: str = "csr_matrix", **changed: Any) -> bytes:
    """Make a file of a sparse matrix some of whose arrays are changed."""
    made = getattr(scipy.sparse, kind)(np.eye(4)[:3])
    buffer = io.BytesIO()
    scipy.sparse.save_npz(buffer, made)
    buffer.seek(0)
    with np.load(buffer) as loaded:
        arrays = {**loaded, **changed}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: array for name, array in arrays.items() if array is not None})
    module = f"scipy.sparse._{kind[:3]}.{kind}"
    return file_of(node("SparseMatrixNode", module, type="scipy", file="1.npz"), {"1.npz": buffer.getvalue()})


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array", "csc_array"])
def test_sparse_matrices_pass(kind: str) -> None:
    assert read(sparse_file(kind)).claimed_bytes > 1000
    empty = {"data": np.empty(0), "indices": np.empty(0, "i4")}
    lines = 3 if kind.startswith("csr") else 4
    assert read(sparse_file(kind, **empty, indptr=np.zeros(lines + 1, "i4"))).objects == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"indices": np.array([0, 1, 4], "i4")},
        {"indices": np.array([0, 1, -1], "i4")},
        {"indices": np.array([0.0, 1, 2])},
        {"indices": np.array([0, 1], "i4")},
        {"indptr": np.array([0, 1, 2, 4], "i4")},
        {"indptr": np.array([0, 2, 1, 3], "i4")},
        {"indptr": np.array([0, 3], "i4")},
        {"shape": np.array([3, -4])},
        {"shape": np.array([3, 4, 5])},
        {"shape": np.array([-1, 4]), "indptr": np.empty(0, "i4")},
        {"format": np.array(b"csc")},
        {"format": np.array(b"random")},
        {"format": None},
        {"_is_array": np.array(True)},  # noqa: FBT003 - as SciPy writes it
        {"more": np.array(1)},
        {"data": np.array([object()] * 3)},
    ],
)
def test_a_sparse_matrix_whose_parts_do_not_fit_is_refused(changed: dict[str, Any]) -> None:
    assert refused(sparse_file(**changed)).code in {"model_structure_invalid", "model_damaged"}


def test_starts_whose_differences_wrap_around_are_refused() -> None:
    starts = np.array([0, 2**63 - 1, -(2**63), -1, 3])
    assert (np.diff(starts) >= 0).all()
    assert refused(sparse_file("csc_array", indptr=starts)).code == "model_structure_invalid"


def test_a_sparse_matrix_of_another_class_is_refused() -> None:
    schema, members = opened(sparse_file("csr_matrix"))
    schema |= {"__class__": "csc_array", "__module__": "scipy.sparse._csc"}
    assert refused(closed(schema, members)).code == "model_structure_invalid"


# --- Nodes ------------------------------------------------------------------------------------------------


def altered(model: Any, alter: Callable[[Schema], object]) -> bytes:
    """Make a file of a model whose schema is altered."""
    schema, members = opened(skops.io.dumps(model))
    alter(schema)
    return closed(schema, members)


def structure_is_refused(content: bytes) -> str:
    refusal = refused(content)
    assert refusal.code == "model_structure_invalid", refusal
    return findings(refusal)[0]["place"]


def test_an_id_that_stands_for_two_things_is_refused() -> None:
    # skops takes the first for both: a list of keys' types would become whatever stood before.
    one, two = scalar("a"), scalar("b")
    assert structure_is_refused(file_of(listing(one, {**two, "__id__": one["__id__"]}))) == "/content/1"
    assert read(file_of(listing(one, dict(one)))).objects == 3


def test_an_object_that_holds_itself_is_refused() -> None:
    outer = listing(listing())
    outer["content"][0]["__id__"] = outer["__id__"]
    assert structure_is_refused(file_of(outer)) == ""


@pytest.mark.parametrize("key_type", ["builtins.object", "numpy.number", "numpy.uint8"])
def test_a_key_is_not_made_by_calling_any_class(key_type: str) -> None:
    assert ("TypeNode", key_type) in names.SKOPS_NODES
    assert structure_is_refused(file_of(mapping({"a": scalar(1)}, key_type))) == ""


def test_keys_without_a_type_are_refused() -> None:
    schema = mapping({"a": scalar(1), "b": scalar(2)})
    schema["key_types"]["content"].pop()
    assert structure_is_refused(file_of(schema)) == ""


@pytest.mark.parametrize("name", ["__class__", "__dict__", "__init__", "a b", "", "ä", "a.b"])
def test_an_attribute_that_no_estimator_has_is_refused(name: str) -> None:
    def alter(schema: Schema) -> None:
        attributes = schema["content"]
        attributes["content"][name] = scalar(1)
        attributes["key_types"]["content"].append(node("TypeNode", "builtins.str"))

    assert structure_is_refused(altered(LOGISTIC, alter)) == ""


@pytest.mark.parametrize("content", ["", "nul", "[1]", "{}", " [1]", "\n[]", "1 2", "1" * 5000, "[" * 100_000])
def test_a_value_is_a_single_one(content: str) -> None:
    assert structure_is_refused(file_of({**scalar(1), "content": content})) == ""


TREE = DecisionTreeClassifier(max_depth=2, random_state=0).fit(X, Y)


def tree_part(schema: Schema, name: str) -> Schema:
    part: Schema = within(schema, of("TreeNode"))["content"]["content"][name]
    return part


@pytest.mark.parametrize(
    "alter",
    [
        lambda schema: tree_part(schema, "node_count").update(content="99"),
        lambda schema: tree_part(schema, "node_count").update(content="-1"),
        lambda schema: tree_part(schema, "node_count").update(content='"7"'),
        lambda schema: tree_part(schema, "nodes").update(tree_part(schema, "values")),
        lambda schema: tree_part(schema, "values").update(tree_part(schema, "nodes")),
        lambda schema: within(schema, of("TreeNode"))["__reduce__"]["args"]["content"][2].update(
            content="1000000000000", __id__=1
        ),
        lambda schema: within(schema, of("TreeNode"))["__reduce__"]["args"]["content"][1].update(
            tree_part(schema, "values")
        ),
        lambda schema: within(schema, of("TreeNode"))["__reduce__"]["args"]["content"].pop(),
        lambda schema: within(schema, of("TreeNode"))["__reduce__"].update(constructor="posix.system"),
    ],
)
def test_a_tree_whose_parts_do_not_fit_is_refused(alter: Callable[[Schema], object]) -> None:
    assert structure_is_refused(altered(TREE, alter)).endswith("/tree_")


def test_random_numbers_do_not_begin_outside_of_their_words() -> None:
    def begin_at(position: int) -> bytes:
        return altered([np.random.RandomState(1)], lambda schema: words(schema)["pos"].update(content=str(position)))

    def words(schema: Schema) -> Schema:
        found: Schema = schema["content"][0]["content"]["content"]["state"]["content"]
        return found

    assert read(begin_at(624)).objects
    for position in (625, 2**31, -1):
        assert structure_is_refused(begin_at(position)) == "/content/0"


def test_the_class_of_a_generator_is_not_the_files_choice() -> None:
    model = HistGradientBoostingClassifier(max_iter=1).fit(X, Y)
    for key, part, text in (
        ("bit_generator", "bit_generator", '"seed"'),
        ("bit_generator", "bit_generator", '"MT19937"'),
        ("seed_seq", "pool_size", "99999999999"),
    ):

        def alter(schema: Schema, key: str = key, part: str = part, text: str = text) -> None:
            generator = within(schema, of("RandomGeneratorNode"))["content"][key]["content"]
            generator[part] = {**generator[part], "content": text, "__id__": 1}

        assert structure_is_refused(altered(model, alter)).endswith("_rng")


def test_native_objects_are_handed_all_of_their_state() -> None:
    model = KNeighborsClassifier(algorithm="kd_tree").fit(X, Y)
    for cls in ("KDTree", "EuclideanDistance64"):

        def alter(schema: Schema, cls: str = cls) -> None:
            within(schema, of("ObjectNode", cls))["content"] = scalar(None)

        schema, members = opened(altered(model, alter))
        used = json.dumps(schema)
        content = closed(schema, {name: content for name, content in members.items() if name in used})
        assert structure_is_refused(content)


@pytest.mark.parametrize(
    "schema",
    [
        node("ConstructorFromReduceNode", "builtins.range", content=listing(scalar(1), loader="TupleNode")),
        node(
            "ConstructorFromReduceNode", "builtins.range", content=listing(*map(scalar, (1, 2, 0)), loader="TupleNode")
        ),
        node("ConstructorFromReduceNode", "builtins.range", content=listing(*map(scalar, "123"), loader="TupleNode")),
        node("SliceNode", "builtins.slice", content={"start": 0, "stop": "9", "step": None}),
        node("SliceNode", "builtins.slice", content={"start": 0, "stop": 1.5, "step": None}),
        node("SliceNode", "builtins.slice", content={"start": 0}),
        node("DTypeNode", "numpy.dtype", content=scalar("f8")),
        node("MaskedArrayNode", "numpy.ma.MaskedArray", content={"data": scalar(1), "mask": scalar(1)}),
        node("FunctionNode", "numpy.exp", content={"module_path": "posix", "function": "system"}),
        node("TypeNode", "numpy.float64", more=1),
        node("ListNode", "builtins.list", content={"a": 1}),
        node("ListNode", "builtins.list"),
        {**listing(), "__id__": True},
        {**listing(), "__id__": [1]},
        {**listing(), "__loader__": None},
        listing("text"),  # type: ignore[arg-type] # what skops never writes
        node("NdArrayNode", "numpy.ndarray", type="pickle", file="1.npy"),
        node("NdArrayNode", "numpy.ndarray", type="numpy", file=["1.npy"]),
    ],
    ids=lambda schema: f"{schema['__loader__']} {list(schema)[3:-1]}",
)
def test_a_node_of_another_form_is_refused(schema: Schema) -> None:
    structure_is_refused(file_of(schema))


def test_findings_are_many_but_not_without_end() -> None:
    wrong = listing(*({**scalar(number), "content": "?"} for number in range(1000)))
    refusal = refused(file_of(wrong))
    assert len(findings(refusal)) == 100
    assert findings(refusal)[7]["place"] == "/content/7"


# --- Anything at all --------------------------------------------------------------------------------------


@cache
def sample() -> bytes:
    """A file with most kinds of nodes, small enough to be read a thousand times."""
    columns = ColumnTransformer([("a", OneHotEncoder(), [0]), ("b", StandardScaler(), [1, 2])])
    forest = RandomForestClassifier(2, max_depth=2, random_state=np.random.RandomState(1))
    return skops.io.dumps(make_pipeline(columns, forest).fit(X.round(), Y))


def is_read_or_refused(content: bytes) -> None:
    """Read it: nothing else may come of it than a reading or a refusal."""
    with suppress(Invalid):
        read(content)


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 255)), min_size=1, max_size=8))
@rules(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_changed_bytes_lead_to_a_refusal_or_to_nothing(changes: list[tuple[int, int]]) -> None:
    content = bytearray(sample())
    for at, value in changes:
        content[at % len(content)] = value
    is_read_or_refused(bytes(content))


@cache
def parts() -> list[tuple[Any, Any]]:
    """Give every place of the sample's schema at which something can be put: a container, and the key in it."""
    found: list[tuple[Any, Any]] = []
    schema, _ = opened(sample())
    waiting: list[tuple[tuple[Any, ...], Any]] = [((), schema)]
    while waiting:
        path, part = waiting.pop()
        keys: Iterator[Any] = iter(part) if isinstance(part, dict) else iter(range(len(part)))
        for key in keys:
            found.append(((*path, key), part[key]))
            if isinstance(part[key], dict | list):
                waiting.append(((*path, key), part[key]))
    return found


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.builds(listing),
    st.builds(scalar, st.integers()),
    st.sampled_from(sorted(_FORMS)),
)


@given(st.lists(st.tuples(st.integers(0), st.one_of(VALUES, st.integers(0).map(lambda at: ("part", at))))), st.data())
@rules(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_changed_schemas_lead_to_a_refusal_or_to_nothing(changes: list[tuple[int, Any]], data: st.DataObject) -> None:
    schema, members = opened(sample())
    for at, value in changes:
        path, _ = parts()[at % len(parts())]
        put = parts()[value[1] % len(parts())][1] if isinstance(value, tuple) else value
        holder = schema
        try:
            for key in path[:-1]:
                holder = holder[key]
            holder[path[-1]] = put
        except (KeyError, IndexError, TypeError):
            continue
    is_read_or_refused(closed(json.dumps(schema), members))


@given(st.binary(max_size=200))
def test_any_header_of_an_array_is_read_or_refused(text: bytes) -> None:
    is_read_or_refused(array_file(b"\x93NUMPY\x01\x00" + text))
