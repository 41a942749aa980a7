"""An optimizer's state as bytes: a header that says whose it is, then a checked pickle.

cma and pymoo have no other form than pickle. A state comes from a run's own store; still, a
checksum refuses damage, and only classes of these libraries are ever loaded.
"""

import hashlib
import io
import json
import pickle
from collections.abc import Sequence

import numpy as np

from search.genome.protocol import Space

_MAGIC = b"evosearch-optimizer/1\n"
_MODULES = ("cma.", "pymoo.", "numpy.random.", "search.optimizers.", "search.genome.")
_NAMES = frozenset(
    {
        ("builtins", "complex"),
        ("builtins", "range"),
        ("builtins", "set"),
        ("builtins", "slice"),
        ("numpy", "dtype"),
        ("numpy", "ndarray"),
        ("numpy", "sum"),
        ("numpy.linalg", "eigh"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"),
    }
)


def signature(space: Space, *settings: object) -> str:
    """Equal for equal bounds, start, steps and settings (seed included)."""
    digest = hashlib.sha256(repr(settings).encode())
    for part in (space.lower, space.upper, space.initial, space.sigma, space.is_binary):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()


def pack_state(kind: str, signed: str, payload: object) -> bytes:
    """The state of an optimizer `kind` (a name with its library's version)."""
    body = pickle.dumps(payload, protocol=5)
    header = {"kind": kind, "signature": signed, "sha256": hashlib.sha256(body).hexdigest()}
    return _MAGIC + json.dumps(header).encode() + b"\n" + body


def unpack_state(kind: str, signed: str, state: bytes) -> Sequence[object]:
    """What `pack_state` was given. Raises ValueError for bytes that are not this optimizer's."""
    if not state.startswith(_MAGIC):
        raise ValueError("these bytes are no optimizer state of this version")
    line, _, body = state[len(_MAGIC) :].partition(b"\n")
    try:
        header = json.loads(line)
        found, other, checksum = header["kind"], header["signature"], header["sha256"]
    except (ValueError, KeyError, TypeError):
        raise ValueError("the header of this optimizer state is damaged") from None
    if found != kind:
        raise ValueError(f"this is the state of '{found}', not of '{kind}'")
    if other != signed:
        raise ValueError(f"this state of '{kind}' is of another search space or other settings")
    if checksum != hashlib.sha256(body).hexdigest():
        raise ValueError(f"this state of '{kind}' is damaged: its checksum differs")
    payload: Sequence[object] = _Loader(io.BytesIO(body)).load()
    return payload


class _Loader(pickle.Unpickler):
    """Loads nothing but the classes that states are made of."""

    def find_class(self, module: str, name: str) -> object:
        if (module, name) in _NAMES:
            return super().find_class(module, name)
        if module.startswith(_MODULES) and "." not in name:
            found = super().find_class(module, name)
            if getattr(found, "__module__", None) == module:
                return found
        raise ValueError(f"an optimizer state may not hold {module}.{name}")
