"""What state a pickle may give to an object: for most the attributes of a dict, for some what their own code reads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from webapp.intake.reading.calls import (
    BIT_GENERATORS,
    RANDOM_STATE,
    SEED_SEQUENCE,
    TREE,
    WRAPPER,
    check_bytes,
    shape_of,
)
from webapp.intake.reading.values import Array, Dict, Dtype, List, Made, Name, Opaque, Set, Tuple, Unusual, is_whole

KEY_WORDS = 624
# Attributes of these names would stand before the methods of the class.
METHODS = {
    "decision_function",
    "fit",
    "fit_predict",
    "fit_transform",
    "get_feature_names_out",
    "get_metadata_routing",
    "get_params",
    "inverse_transform",
    "kneighbors",
    "partial_fit",
    "predict",
    "predict_log_proba",
    "predict_proba",
    "score",
    "score_samples",
    "set_params",
    "staged_predict",
    "toarray",
    "tosparse",
    "transform",
}
# Its attributes are named after the methods it is about.
ABOUT_METHODS = "sklearn.utils._metadata_requests.MetadataRequest"


def build(target: object, state: object) -> None:
    """Give an object its state, if it is one that an honest file gives it."""
    if isinstance(target, Opaque) or isinstance(state, Opaque):
        return
    if not isinstance(target, Made):
        label = target.label if isinstance(target, Name | List | Dict | Tuple | Set) else "a plain value"
        raise Unusual(label, "It is given a state, which it cannot have.")
    if isinstance(target, Dtype):
        _dtype(target, state)
    elif isinstance(target, Array):
        _array(target, state)
    elif rule := RULES.get(target.of):
        rule(target, state)
        target.build()
        target.put([state])
    elif target.of.startswith("sklearn.metrics._dist_metrics."):
        _distance(target, state)
        target.build()
        target.put([state])
    else:
        _attributes(target, state)


def _attributes(target: Made, state: object) -> None:
    if target.waits or not target.of.startswith(("sklearn.", "scipy.")):
        raise Unusual(target.of, "It is given a state, which it has not in honest files.")
    if not isinstance(state, Dict) or state.placed or state.others:
        raise Unusual(target.of, "Its state is no dict of attributes.")
    for key in state.named:
        if key.startswith("__"):
            raise Unusual(target.of, "Its state sets what Python keeps for itself.")
        if key in METHODS and target.of != ABOUT_METHODS:
            raise Unusual(target.of, "Its state puts something else in the place of one of its methods.")
    target.build()
    target.put([state])


# --- NumPy's types and arrays -----------------------------------------------------------------------------

DTYPE_VERSION = 3
ARRAY_VERSION = 1
SIMPLE_FLAGS = {"O": 63}
TEXT = {"U": (4, 8), "S": (1, 0)}
STRUCTURE, ALIGNED_STRUCTURE = 16, 144


def _dtype(dtype: Dtype, state: object) -> None:
    match state.items if isinstance(state, Tuple) else []:
        case [3, str(order), None, names, fields, size, alignment, flags] if order in "<>|=" and len(order) == 1:
            if dtype.kind == "V":
                dtype.fields = _fields(dtype, names, fields)
                fits = is_whole(alignment) and size == dtype.size and flags in {STRUCTURE, ALIGNED_STRUCTURE}
            elif dtype.kind in TEXT:
                fits = (names, fields) == (None, None) and (size, alignment, flags) == (dtype.size, *TEXT[dtype.kind])
            else:
                plain = (-1, -1, SIMPLE_FLAGS.get(dtype.kind, 0))
                fits = (names, fields) == (None, None) and (size, alignment, flags) == plain
            if fits:
                dtype.build()
                return
    raise Unusual("numpy.dtype", "Its state is none that NumPy writes.")


def _fields(dtype: Dtype, names: object, fields: object) -> tuple[tuple[str, str, int], ...]:
    """Give the fields of a structure, if they lie in it one behind the other."""
    found, end = [], 0
    if isinstance(names, Tuple) and isinstance(fields, Dict) and not fields.others and names.items:
        for name in names.items:
            match fields.named.get(name) if isinstance(name, str) else None:
                case Tuple(items=[Dtype(waits=False) as inner, int(offset)]) if inner.kind in "fiu" and offset >= end:
                    found.append((str(name), f"{inner.kind}{inner.size}", offset))
                    end = offset + inner.size
        if len(found) == len(names.items) == len(fields.named) and end <= dtype.size:
            return tuple(found)
    raise Unusual("numpy.dtype", "The fields of a structure do not lie in it one behind the other.")


def _array(array: Array, state: object) -> None:
    items = state.items if isinstance(state, Tuple) else []
    match items:
        case [1, Tuple() as shape, Dtype(waits=False) as dtype, bool(), data, *masks]:
            array.shaped(dtype, shape_of(shape, array.of))
            if array.of == "numpy.ndarray" and not masks:
                _check_items(array, dtype, data)
                return
            if array.of != "numpy.ndarray" and isinstance(data, memoryview):
                _check_items(array, dtype, data)
                _check_mask(array, masks)
                return
        case [_, _, Opaque(), *_]:
            array.waits = False
            return
    raise Unusual(array.of, "Its state is none that NumPy writes.")


def _check_items(array: Array, dtype: Dtype, data: object) -> None:
    if dtype.kind == "O" and isinstance(data, List) and len(data.items) == array.count:
        array.height = data.height + 1
        return
    if dtype.kind == "O" or not isinstance(data, memoryview) or len(data) != array.claimed_bytes:
        raise Unusual(array.of, "The array's type, shape and content do not agree.")
    check_bytes(dtype, data, array.of)


def _check_mask(array: Array, masks: Sequence[object]) -> None:
    match masks:
        case [memoryview() as mask, None | int() | float() | Made()] if len(mask) == array.count:
            if not mask.tobytes().translate(None, b"\0\1"):
                return
    raise Unusual(array.of, "Its mask does not fit it.")


# --- What reads its state in compiled code ----------------------------------------------------------------


def _tree(target: Made, state: object) -> None:
    named = _exactly(target, state, {"max_depth", "node_count", "nodes", "values"})
    match named:
        case {
            "max_depth": int(depth),
            "node_count": int(count),
            "nodes": Array() as nodes,
            "values": Array() as values,
        }:
            fits = len(nodes.shape) == 1 and values.is_of("f8", 3) and nodes.shape[0] == values.shape[0] == count
            if fits and nodes.dtype and nodes.dtype.fields and depth >= 0:
                return
    raise Unusual(TREE, "Its nodes and their number do not agree.")


def _neighbours(target: Made, state: object) -> None:
    match state.items if isinstance(state, Tuple) else []:
        case [
            Array() as data,
            Array() as order,
            Array() as nodes,
            Array() as bounds,
            *numbers,
            Made() as metric,
            weights,
        ]:
            fits = data.is_of("f8", 2) and order.is_of("i8", 1) and bounds.is_of("f8", 3)
            fits = fits and order.count == data.shape[0] and len(nodes.shape) == 1
            fits = fits and len(numbers) == 7 and all(map(is_whole, numbers)) and numbers[2] == nodes.count  # noqa: PLR2004 - leaf size, levels, nodes, and four that count calls
            fits = fits and metric.of.startswith("sklearn.metrics._dist_metrics.")
            if fits and (weights is None or (isinstance(weights, Array) and weights.is_of("f8", 1))):
                return
    raise Unusual(target.of, "Its parts do not agree.")


def _distance(target: Made, state: object) -> None:
    match state.items if isinstance(state, Tuple) else []:
        case [int() | float(), Array() as vector, Array() as matrix]:
            if vector.is_of("f8", 1) and matrix.is_of("f8", 2):
                return
    raise Unusual(target.of, "Its state is none that scikit-learn writes.")


def _random_state(target: Made, state: object) -> None:
    _mersenne(target, _exactly(target, state, {"bit_generator", "state", "has_gauss", "gauss"}))


def _bit_generator(target: Made, state: object) -> None:
    # With the sequence of seeds it came from, or alone as up to NumPy 1.23.
    match state:
        case Tuple(items=[Dict() as found, None | Made(of="numpy.random.bit_generator.SeedSequence", waits=False)]):
            state = found
    if target.of == BIT_GENERATORS["MT19937"]:
        _mersenne(target, _exactly(target, state, {"bit_generator", "state"}))
        return
    match _exactly(target, state, {"bit_generator", "state", "has_uint32", "uinteger"}):
        case {"bit_generator": "PCG64", "state": Dict(named={"state": int(), "inc": int()}), "uinteger": int()}:
            return
    raise Unusual(target.of, "Its state is none that NumPy writes.")


def _mersenne(target: Made, state: Mapping[str, object]) -> None:
    match state:
        case {"bit_generator": "MT19937", "state": Dict(named={"key": Array() as key, "pos": int(position)})}:
            # A position beyond the key would be read from whatever lies behind it in memory.
            if key.is_of("u4", 1) and key.count == KEY_WORDS and 0 <= position <= KEY_WORDS:
                return
    raise Unusual(target.of, "Its state is none that NumPy writes.")


def _seed_sequence(target: Made, state: object) -> None:
    match state.items if isinstance(state, Tuple) else []:
        case [int() | Made() | Array(), int(), Array() as pool, int(size), Tuple()]:
            if pool.is_of("u4", 1) and pool.count == size:
                return
    raise Unusual(target.of, "Its state is none that NumPy writes.")


def _exactly(target: Made, state: object, keys: set[str]) -> Mapping[str, object]:
    if isinstance(state, Dict) and not state.others and state.placed <= 1 and set(state.named) == keys:
        return state.named
    raise Unusual(target.of, "Its state has other parts than in honest files.")


RULES: dict[str, Callable[[Made, object], None]] = {
    TREE: _tree,
    RANDOM_STATE: _random_state,
    SEED_SEQUENCE: _seed_sequence,
    **dict.fromkeys(BIT_GENERATORS.values(), _bit_generator),
    "sklearn.neighbors._ball_tree.BallTree": _neighbours,
    "sklearn.neighbors._kd_tree.KDTree": _neighbours,
}


# --- joblib's arrays --------------------------------------------------------------------------------------

WRAPPER_KEYS = {"subclass", "shape", "order", "dtype", "allow_mmap"}
ALIGNMENT = "numpy_array_alignment_bytes"


def wrapped(wrapper: Made, state: object) -> tuple[Array, Dtype, int | None]:
    """Give the array that joblib announces, its type, and to how many bytes what follows in the file is aligned."""
    if isinstance(state, Dict) and not state.others and not state.placed:
        # Another key, such as the name of a method, would stand before what joblib does with it.
        if set(state.named) - {ALIGNMENT} != WRAPPER_KEYS:
            raise Unusual(WRAPPER, "It has other attributes than joblib writes.")
        match state.named:
            case {
                "subclass": Name(full="numpy.ndarray"),
                "shape": shape,
                "order": "C" | "F",
                "dtype": Dtype(waits=False) as dtype,
                "allow_mmap": bool(),
            } if (alignment := state.named.get(ALIGNMENT)) in (None, 16):
                array = Array()
                array.shaped(dtype, shape_of(shape, WRAPPER))
                wrapper.build()
                return array, dtype, 16 if alignment else None
    raise Unusual(WRAPPER, "Its attributes are none that joblib writes.")
