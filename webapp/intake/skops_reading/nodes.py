"""A node of a `.skops` file, and the forms that some kinds of nodes must have beyond their fields."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from webapp.intake.skops_reading.arrays import TREE_RECORD, Array, WrongError

_MERSENNE_WORDS = 624
_SEED_POOL = "4"


@dataclass(frozen=True, slots=True, eq=False)
class Node:
    """A node that has the form of its loader. Equal nodes of a file are one and the same."""

    loader: str
    name: str
    keys: tuple[str, ...] = ()
    nodes: tuple[Node, ...] = ()
    # The text of a JSON scalar, or what the header of an array says.
    value: Any = None


def identity(state: Any) -> tuple[str, str, int]:  # noqa: ANN401 - whatever the file holds
    """Give a node's loader, the name it bears, and its id."""
    if not isinstance(state, dict):
        raise WrongError("Here stands something else than an object of the file.")
    loader, module, name = state.get("__loader__"), state.get("__module__"), state.get("__class__")
    if not (isinstance(loader, str) and isinstance(module, str) and isinstance(name, str)):
        raise WrongError("The object does not say what it is.")
    number = state.get("__id__")
    if type(number) is not int:
        raise WrongError("The object has no id.")
    return loader, f"{module}.{name}", number


def typed(state: dict[str, Any], key: str, kind: type[Any]) -> Any:  # noqa: ANN401 - of the kind asked for
    """Give a field of a node, which must be of a kind."""
    value = state[key]
    if not isinstance(value, kind):
        raise WrongError(f"Its {key} is not of the kind that skops writes.")
    return value


def fields(node: Node) -> dict[str, Node]:
    """Give the values of a dict by their keys."""
    return dict(zip(node.keys, node.nodes, strict=False))


def exactly(node: Node, *keys: str) -> dict[str, Node]:
    """Give the values of a dict that must have these keys and no others."""
    found = fields(node)
    if node.loader != "DictNode" or found.keys() != set(keys):
        raise WrongError("Its parts are not those that skops writes.")
    return found


def integer(node: Node) -> int:
    """Give the integer that a node is."""
    if node.loader != "JsonNode" or not re.fullmatch(r"-?\d{1,400}", node.value):
        raise WrongError("Where an integer belongs stands something else.")
    return int(node.value)


def fits(nodes: tuple[Node, ...], shape: tuple[int, ...]) -> bool:
    """Tell whether lists within lists have the lengths of an array's shape."""
    if len(nodes) != shape[0]:
        return False
    if len(shape) == 1:
        return True
    return all(node.loader == "ListNode" and fits(node.nodes, shape[1:]) for node in nodes)


def check_mersenne(node: Node) -> None:
    """Refuse what NumPy's older random numbers would take as it is: their position in the list of words."""
    found = exactly(node, "bit_generator", "state", "has_gauss", "gauss")
    words = exactly(found["state"], "key", "pos")
    if (
        found["bit_generator"].value != '"MT19937"'
        or words["key"].value != Array("'<u4'", (_MERSENNE_WORDS,))
        or not 0 <= integer(words["pos"]) <= _MERSENNE_WORDS
        or integer(found["has_gauss"]) not in (0, 1)
        or found["gauss"].loader not in ("JsonNode", "NdArrayNode")
    ):
        raise WrongError("The state of the random numbers is not one that NumPy writes.")


def check_generator(node: Node) -> None:
    """Refuse a state that is not one of the newer random numbers: its text names a class that is called."""
    found = exactly(node, "bit_generator", "state", "has_uint32", "uinteger")
    numbers = [*exactly(found["state"], "state", "inc").values(), found["has_uint32"], found["uinteger"]]
    if found["bit_generator"].value != '"PCG64"' or any(integer(number) < 0 for number in numbers):
        raise WrongError("The state of the random numbers is not one that NumPy writes.")


def check_seed(node: Node) -> None:
    """Refuse a seed with a pool of another size: so much is allocated."""
    found = exactly(node, "entropy", "spawn_key", "pool_size", "n_children_spawned")
    if found["pool_size"].value != _SEED_POOL or found["spawn_key"].loader != "TupleNode":
        raise WrongError("The seed of the random numbers is not one that NumPy writes.")


def check_range(node: Node) -> None:
    """Refuse arguments of a range other than start, stop and step."""
    numbers = [integer(part) for part in node.nodes]
    if node.loader != "TupleNode" or len(numbers) != 3 or numbers[2] == 0:  # noqa: PLR2004 - start, stop, step
        raise WrongError("The range is not made of three integers.")


def check_dtype(node: Node) -> None:
    """Refuse a kind of element that is not written as an empty array."""
    if node.loader != "NdArrayNode" or node.value.shape != (0,):
        raise WrongError("The kind of element is not written as an empty array.")


def check_tree(arguments: Node, attributes: Node) -> None:
    """Refuse a tree whose parts do not fit each other: native code copies them as they are."""
    found = exactly(attributes, "max_depth", "node_count", "nodes", "values")
    if len(arguments.nodes) != 3:  # noqa: PLR2004 - the features, the classes of each output, the outputs
        raise WrongError("The tree is made with other arguments than scikit-learn's.")
    features, classes, outputs = arguments.nodes
    count, width = integer(found["node_count"]), integer(outputs)
    values = found["values"].value
    if (
        min(count, width, integer(features), integer(found["max_depth"]) + 1) < 1
        or classes.value != Array("'<i8'", (width,))
        or found["nodes"].value != Array(TREE_RECORD, (count,))
        or not isinstance(values, Array)
        or values.descr != "'<f8'"
        or values.shape != (count, width, *values.shape[-1:])
    ):
        raise WrongError("The parts of the tree do not fit each other.")


def check_loss(arguments: Node, attributes: Node) -> None:
    """Refuse a loss that is made with anything but one number."""
    if attributes.loader not in ("DictNode", "TupleNode") or attributes.nodes or len(arguments.nodes) > 1:
        raise WrongError("The loss is not made as scikit-learn makes it.")
    for argument in arguments.nodes:
        if argument.loader != "JsonNode" or not isinstance(json.loads(argument.value), float):
            raise WrongError("The loss is made with something else than a number.")
