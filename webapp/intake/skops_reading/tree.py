"""Walks the nodes of a `.skops` file: each is held against the table of pairs, and read in the form of its loader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from webapp.errors import member
from webapp.intake.reading.findings import MOST_LISTED, meaning, shown
from webapp.intake.skops_reading import archive, arrays, nodes, refusals
from webapp.intake.skops_reading.arrays import Array, WrongError
from webapp.intake.skops_reading.nodes import Node, fields, typed

PROTOCOLS = (0, 1, 2)
# A vocabulary of 450,000 words; each is a text and the mention of its type.
MOST_NODES = 1_000_000
# Estimators within estimators; a search over a pipeline of column transformers has about 25.
MOST_DEPTH = 80
JSON_CHARACTERS = 1024**2

# Where a node stands: the place it stands in, and its key there. Made for every node, written out for findings only.
_Place = tuple[Any, ...]
_Parts = tuple[tuple[str, ...], tuple[Node, ...], Any]
_Read = Callable[["Tree", dict[str, Any], _Place], _Parts]

_ROOT: _Place = ()
_WRONG = Node("", "")
_IDENTIFIER = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]*")
_VERSION = re.compile(r"[0-9]{1,4}(\.[0-9]{1,9}){1,3}[A-Za-z0-9.+]{0,30}")
# Most scalars; for the others JSON is asked.
_PLAIN = re.compile(r'null|true|false|0|-?[1-9][0-9]{0,30}|"[^"\\\x00-\x1f]{0,1000}"')
# What a dict's key may be: it is made by calling its type with text of the file.
_KEY_TYPES = {
    *(f"builtins.{name}" for name in ("str", "int", "float", "bool")),
    *(f"numpy.{name}" for name in ("str_", "bool", "int32", "int64", "float32", "float64")),
}
# Classes of native code, which are not complete until they are handed all of their state.
_NATIVE = ("sklearn.metrics._dist_metrics.", "sklearn.neighbors._ball_tree.", "sklearn.neighbors._kd_tree.")


def _pointer(place: _Place) -> str:
    keys = []
    while place:
        place, key = place
        keys.append(str(key))
    return "".join(member("", key) for key in reversed(keys))


def _check_scalar(text: str) -> None:
    try:
        single = len(text) <= JSON_CHARACTERS and not isinstance(json.loads(text), list | dict)
    except (ValueError, RecursionError):
        raise WrongError("The value is not JSON.") from None
    if not single:
        raise WrongError("The value is too long, or not a single one.")


class Tree:
    """The nodes of a schema, each read in the form of its loader; whatever is wrong is collected."""

    def __init__(
        self, content: bytes, members: Mapping[str, archive.Member], allowed: frozenset[tuple[str, str]]
    ) -> None:
        """`members` are those that hold arrays; each must belong to some node."""
        self._zip = content
        self._members = members
        self._allowed = allowed
        self._allowed_names = {name for _, name in allowed}
        self._headers: dict[tuple[str, str], Any] = {}
        self._owners: dict[str, int] = {}
        self._made: dict[tuple[Any, ...], Node] = {}
        # The first node of each id, as it is written and as it was read.
        self._first: dict[int, tuple[dict[str, Any], Node]] = {}
        self._depth = 0
        self._unknown: dict[tuple[str, str], refusals.Finding] = {}
        self._wrong: list[refusals.Finding] = []
        self.names: set[str] = set()
        self.libraries: set[str] = set()
        self.sparse_bytes = 0
        self.objects = 0

    def read(self, schema: Any) -> None:  # noqa: ANN401 - whatever the file holds
        """Read all nodes; raise `Invalid` when anything was found."""
        if not isinstance(schema, dict):
            raise refusals.malformed("", "The schema is not a JSON object.")
        protocol = schema.pop("protocol", None)
        if isinstance(protocol, bool) or protocol not in PROTOCOLS or not isinstance(protocol, int):
            raise refusals.malformed(
                "/protocol", "The file is of a protocol that is not known here; is its skops newer?"
            )
        written_by = schema.pop("_skops_version", "")
        if not isinstance(written_by, str):
            raise refusals.malformed("/_skops_version", "The version of skops is not a text.")
        try:
            self._node(schema, _ROOT)
        except RecursionError:
            raise refusals.malformed("", "The objects of the file are nested too deeply.") from None
        unused = self._members.keys() - self._owners.keys()
        if not (self._unknown or self._wrong):
            self._wrong += [refusals.finding(file, "No part of the model uses it.", file) for file in sorted(unused)]
        self._refuse()

    def _refuse(self) -> None:
        unknown = sorted({name for _, name in self._unknown})
        findings = [*self._unknown.values(), *self._wrong][:MOST_LISTED]
        if unknown:
            own = all(name.startswith("__main__.") for name in unknown)
            listed = ", ".join(shown(name) for name in unknown[:5])
            code = "model_custom_code" if own else "model_unknown_names"
            raise refusals.refusal(code, f"The file names what a model file may not: {listed}.", *findings)
        if self._wrong:
            first = self._wrong[0]
            places = f"At {first['place'] or 'the beginning'}: {first['meaning']}"
            raise refusals.refusal(
                "model_structure_invalid", f"The file is not as skops writes it. {places}", *findings
            )

    # - Any node -

    def _node(self, state: Any, place: _Place) -> Node:  # noqa: ANN401 - whatever the file holds
        """Read a node and those in it; give `_WRONG` when something was found, which is then noted."""
        self.objects += 1
        if self.objects > MOST_NODES:
            raise refusals.too_large(archive.SCHEMA, f"The file describes more than {MOST_NODES} objects.")
        if self._depth >= MOST_DEPTH:
            raise refusals.malformed(_pointer(place), "The objects of the file are nested too deeply.")
        self._depth += 1
        name = ""
        try:
            loader, name, number = nodes.identity(state)
            first = self._first.get(number)
            if first is not None and first[0] == state:
                return first[1]
            self._look_up(loader, name, place)
            return self._one(number, state, Node(loader, name, *self._parts(loader, state, place)))
        except WrongError as wrong:
            if wrong.args and len(self._wrong) < MOST_LISTED:
                self._wrong.append(refusals.finding(name, str(wrong), _pointer(place)))
            return _WRONG
        finally:
            self._depth -= 1

    def _look_up(self, loader: str, name: str, place: _Place) -> None:
        self.names.add(name)
        if (loader, name) in self._allowed or (loader, name) in self._unknown:
            return
        if len(self._unknown) < MOST_LISTED:
            said = meaning(name)
            if name in self._allowed_names:
                said = f"May stand in a model file, but not in this role ({shown(loader)})."
            self._unknown[loader, name] = refusals.finding(name, said, _pointer(place))

    def _parts(self, loader: str, state: dict[str, Any], place: _Place) -> _Parts:
        if loader not in _FORMS:
            self._search(state, place)
            raise WrongError
        fields, read_parts = _FORMS[loader]
        if not any(state.keys() == known for known in fields):
            self._search(state, place)
            raise WrongError(f"Its fields are not those that skops writes for a {loader}.")
        return read_parts(self, state, place)

    def _search(self, state: dict[str, Any], place: _Place) -> None:
        """Read the nodes within something that has no form, so that all their names are reported."""
        waiting: list[tuple[Any, _Place]] = [(value, (place, key)) for key, value in state.items()]
        while waiting:
            value, at = waiting.pop()
            if isinstance(value, dict) and "__loader__" in value:
                self._node(value, at)
            elif isinstance(value, dict):
                waiting += [(part, (at, key)) for key, part in value.items()]
            elif isinstance(value, list):
                waiting += [(part, (at, index)) for index, part in enumerate(value)]

    def _one(self, number: int, state: dict[str, Any], node: Node) -> Node:
        """Give the one node of its kind. skops takes the first node of an id for all of them: they must be alike."""
        key = (node.loader, node.name, node.keys, tuple(map(id, node.nodes)), node.value)
        node = self._made.setdefault(key, node)
        if self._first.setdefault(number, (state, node))[1] is not node:
            raise WrongError("Another object of the file has the same id.")
        return node

    def _nodes(self, states: Iterable[tuple[_Place, Any]]) -> tuple[Node, ...]:
        found = tuple(self._node(state, place) for place, state in states)
        if _WRONG in found:
            raise WrongError
        return found

    # - A reader for each loader -

    def nothing(self, _state: dict[str, Any], _place: _Place) -> _Parts:
        """A function or class that is mentioned."""
        return (), (), None

    def scalar(self, state: dict[str, Any], _place: _Place) -> _Parts:
        """A text, number, truth value or null, written as JSON within the JSON."""
        text = typed(state, "content", str)
        if not _PLAIN.fullmatch(text):
            _check_scalar(text)
        return (), (), text

    def sequence(self, state: dict[str, Any], place: _Place) -> _Parts:
        """A list, tuple or set."""
        content = typed(state, "content", list)
        within = (place, "content")
        return (), self._nodes(((within, index), item) for index, item in enumerate(content)), None

    def mapping(self, state: dict[str, Any], place: _Place) -> _Parts:
        """A dict, and the types of its keys, which are called with the keys' texts."""
        content = typed(state, "content", dict)
        within = (place, "content")
        states = [((place, "key_types"), state["key_types"]), *(((within, key), content[key]) for key in content)]
        types, *values = self._nodes(states)
        if types.loader != "ListNode" or len(types.nodes) != len(values):
            raise WrongError("The types of the keys are not listed one by one.")
        if not all(one.loader == "TypeNode" and one.name in _KEY_TYPES for one in types.nodes):
            raise WrongError("A key is of a type that keys do not have.")
        return tuple(content), tuple(values), types

    def instance(self, state: dict[str, Any], place: _Place) -> _Parts:
        """An object of which the class is made empty, and handed its state."""
        attributes = self._content(state, place)
        wanted = "TupleNode" if f"{state['__module__']}.".startswith(_NATIVE) else "DictNode"
        if attributes.loader != wanted and (wanted != "DictNode" or attributes.value != "null"):
            raise WrongError("The state of the object is not as skops writes it.")
        if not all(_IDENTIFIER.fullmatch(key) for key in attributes.keys):
            raise WrongError("The object has an attribute whose name no estimator uses.")
        self._note_library(attributes)
        return (), (attributes,), None

    def _note_library(self, attributes: Node) -> None:
        found = fields(attributes).get("_sklearn_version")
        if found is None:
            return
        version = json.loads(found.value) if found.loader == "JsonNode" else None
        if not isinstance(version, str) or not _VERSION.fullmatch(version):
            raise WrongError("The version of scikit-learn cannot be read.")
        self.libraries.add(version)

    def array(self, state: dict[str, Any], place: _Place) -> _Parts:
        """An array or a single number, in a member of its own; or, when it holds objects, a list of nodes."""
        kind = typed(state, "type", str)
        if kind == "json" and "shape" in state:
            return self._objects(state, place)
        if kind != "numpy" or "file" not in state:
            raise WrongError("The array is stored in an unknown way.")
        header: Array = self._header(state, "npy", self._npy)
        single = f"{state['__module__']}.{state['__class__']}" != "numpy.ndarray"
        if single and (header.shape or arrays.is_record(header)):
            raise WrongError("A single number has the form of an array.")
        return (), (), header

    def _npy(self, packed: archive.Member, _kind: str) -> Array:
        return arrays.header(archive.unpacked(self._zip, packed, arrays.HEADER_CHARACTERS), packed.size)[0]

    def _header(self, state: dict[str, Any], suffix: str, look: Callable[[archive.Member, str], Any]) -> Any:  # noqa: ANN401 - of two kinds
        file, kind = typed(state, "file", str), f"{state['__module__']}.{state['__class__']}"
        if file not in self._members or not file.endswith(f".{suffix}"):
            raise WrongError("The member that should hold it is missing.")
        # skops reads a member anew for each object: a large one that a thousand share would fill the memory.
        if self._owners.setdefault(file, state["__id__"]) != state["__id__"]:
            raise WrongError("The member that should hold it belongs to another object.")
        if (file, kind) not in self._headers:
            # Until it has been read, it is wrong.
            self._headers[file, kind] = None
            self._headers[file, kind] = look(self._members[file], kind)
        if self._headers[file, kind] is None:
            raise WrongError
        return self._headers[file, kind]

    def _objects(self, state: dict[str, Any], place: _Place) -> _Parts:
        content, within = typed(state, "content", list), (place, "content")
        states = [((place, "shape"), state["shape"]), *(((within, at), item) for at, item in enumerate(content))]
        shape, *items = self._nodes(states)
        lengths = tuple(nodes.integer(part) for part in shape.nodes)
        if shape.loader != "TupleNode" or not lengths or not nodes.fits(tuple(items), lengths):
            raise WrongError("The array does not hold as many objects as its shape says.")
        return (), (shape, *items), Array("object", lengths)

    def sparse(self, state: dict[str, Any], _place: _Place) -> _Parts:
        """A sparse matrix, as a zip in a member of its own."""
        if state["type"] != "scipy":
            raise WrongError("The sparse matrix is stored in an unknown way.")
        return (), (), self._header(state, "npz", self._npz)

    def _npz(self, packed: archive.Member, kind: str) -> tuple[Array, ...]:
        content = archive.unpacked(self._zip, packed)
        headers, unpacked = arrays.sparse(content, kind.rpartition(".")[2])
        self.sparse_bytes += unpacked
        if self.sparse_bytes > archive.UNPACKED_BYTES:
            raise refusals.too_large(packed.name, "The sparse matrices of the file unpack to more than is read.")
        return headers

    def masked(self, state: dict[str, Any], place: _Place) -> _Parts:
        """An array some of whose elements are hidden."""
        parts = self._named(state, place, ("data", "mask"))
        if not all(part.loader == "NdArrayNode" for part in parts):
            raise WrongError("The parts of the masked array are no arrays.")
        return (), parts, None

    def _named(self, state: dict[str, Any], place: _Place, keys: tuple[str, ...]) -> tuple[Node, ...]:
        content = typed(state, "content", dict)
        if content.keys() != set(keys):
            raise WrongError("Its parts are not those that skops writes.")
        return self._nodes((((place, "content"), key), content[key]) for key in keys)

    def _content(self, state: dict[str, Any], place: _Place) -> Node:
        (content,) = self._nodes([((place, "content"), state["content"])])
        return content

    def dtype(self, state: dict[str, Any], place: _Place) -> _Parts:
        """A kind of element, written as an empty array."""
        content = self._content(state, place)
        nodes.check_dtype(content)
        return (), (content,), None

    def random_state(self, state: dict[str, Any], place: _Place) -> _Parts:
        """NumPy's older random numbers."""
        content = self._content(state, place)
        nodes.check_mersenne(content)
        return (), (content,), None

    def random_generator(self, state: dict[str, Any], place: _Place) -> _Parts:
        """NumPy's newer random numbers; since protocol 2 with the seed they came from."""
        with_seed = "seed_seq" in typed(state, "content", dict)
        parts = self._named(state, place, ("bit_generator", "seed_seq") if with_seed else ("bit_generator",))
        nodes.check_generator(parts[0])
        if with_seed:
            nodes.check_seed(parts[1])
        return (), parts, None

    def reduced(self, state: dict[str, Any], place: _Place) -> _Parts:
        """An object of native code that is made by calling its class: a tree or a loss."""
        calling = typed(state, "__reduce__", dict)
        if calling.keys() != {"args"}:
            raise WrongError("Its class is called in an unknown way.")
        states = [(((place, "__reduce__"), "args"), calling["args"]), ((place, "content"), state["content"])]
        arguments, attributes = parts = self._nodes(states)
        if arguments.loader != "TupleNode":
            raise WrongError("Its class is called in an unknown way.")
        check = nodes.check_tree if state["__loader__"] == "TreeNode" else nodes.check_loss
        check(arguments, attributes)
        return (), parts, None

    def range(self, state: dict[str, Any], place: _Place) -> _Parts:
        """A range, made by calling it with three integers."""
        content = self._content(state, place)
        nodes.check_range(content)
        return (), (content,), None

    def slice(self, state: dict[str, Any], _place: _Place) -> _Parts:
        """A slice, whose parts are plain integers or nothing."""
        content = typed(state, "content", dict)
        parts = tuple(content.values())
        if content.keys() != {"start", "stop", "step"} or not all(type(part) in (int, type(None)) for part in parts):
            raise WrongError("The slice is not made of integers.")
        return (), (), tuple(content[key] for key in ("start", "stop", "step"))


_EVERY = {"__class__", "__module__", "__loader__", "__id__"}
_CONTENT = ({*_EVERY, "content"},)
_REDUCED = ({*_EVERY, "content", "__reduce__"},)
# The loaders that are read, with the fields that their nodes have. The others call what the file names with what the
# file gives, or are never written for an estimator; they are told like unknown names.
_FORMS: dict[str, tuple[tuple[set[str], ...], _Read]] = {
    "ConstructorFromReduceNode": (_CONTENT, Tree.range),
    "DTypeNode": (_CONTENT, Tree.dtype),
    "DictNode": (({*_EVERY, "content", "key_types"},), Tree.mapping),
    "FunctionNode": ((_EVERY,), Tree.nothing),
    "JsonNode": (({*_EVERY, "content", "is_json"},), Tree.scalar),
    "ListNode": (_CONTENT, Tree.sequence),
    "LossNode": (_REDUCED, Tree.reduced),
    "MaskedArrayNode": (_CONTENT, Tree.masked),
    "NdArrayNode": (({*_EVERY, "type", "file"}, {*_EVERY, "type", "content", "shape"}), Tree.array),
    "ObjectNode": (_CONTENT, Tree.instance),
    "RandomGeneratorNode": (_CONTENT, Tree.random_generator),
    "RandomStateNode": (_CONTENT, Tree.random_state),
    "SetNode": (_CONTENT, Tree.sequence),
    "SliceNode": (_CONTENT, Tree.slice),
    "SparseMatrixNode": (({*_EVERY, "type", "file"},), Tree.sparse),
    "TreeNode": (_REDUCED, Tree.reduced),
    "TupleNode": (_CONTENT, Tree.sequence),
    "TypeNode": ((_EVERY,), Tree.nothing),
}
