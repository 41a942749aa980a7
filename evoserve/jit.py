"""What every compiled kernel needs: the compiler's options, and memory by address.

Kernels take addresses, so that no number of inputs, dtype or shape needs a compilation of its own.
Machine code is cached on disk where a folder is writable: under NUMBA_CACHE_DIR, else in the
user's cache folder, by the contents of all kernels' sources, because one kernel's code ends up in
that of others and numba looks at the file of the outermost alone.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import numba
from llvmlite import ir
from numba import cfunc, njit
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic
from numba.extending import register_jitable

_Function = TypeVar("_Function", bound=Callable[..., object])
_OPTIONS: dict[str, Any] = {"error_model": "numpy"}
_PART: dict[str, Any] = {**_OPTIONS, "no_cfunc_wrapper": True}
_REORDERED = {"reassoc", "contract", "arcp", "nsz"}
_SOURCES = ("jit.py", "merge/*.py", "model/cpu/*.py")


def intrinsic(function: Callable[..., Any]) -> Any:
    """A function for kernels that is written in LLVM, see numba.extending.intrinsic."""
    return numba_intrinsic(function)


def compiled(function: _Function) -> _Function:
    """An entry: compiled at its first call, without the GIL, and cached on disk."""
    return cast(_Function, _cached(njit, nogil=True)(function))


def part(function: _Function) -> _Function:
    """A part of kernels, compiled with each that calls it; plain Python when called from there.

    No operation is reordered or contracted.
    """
    return cast(_Function, register_jitable(**_PART)(function))


def reordered_part(function: _Function) -> _Function:
    """As `part`, but sums may be reordered and contracted; NaN and infinity stay what they are.

    The order depends on the code alone, so that equal inputs give equal bits on one machine.
    """
    return cast(_Function, register_jitable(**_PART, fastmath=_REORDERED)(function))


def _pointer_to(element: Any) -> Any:
    """A function for kernels: address -> pointer to numba type `element`."""
    pointer: Any = types.CPointer(element)  # type: ignore[attr-defined]

    def typed(_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer_type = context.get_value_type(signature.return_type)
            return builder.inttoptr(arguments[0], pointer_type)

        return pointer(address), generate

    return intrinsic(typed)


float32_at = _pointer_to(types.float32)
int64_at = _pointer_to(types.int64)
int32_at = _pointer_to(types.int32)
uint32_at = _pointer_to(types.uint32)
int16_at = _pointer_to(types.int16)
uint16_at = _pointer_to(types.uint16)
int8_at = _pointer_to(types.int8)


class NativeFunction(Protocol):
    """Compiled code; its address is good while the object lives."""

    @property
    def address(self) -> int:
        """For `call` in other kernels."""
        ...


def native(function: Callable[[int], None]) -> NativeFunction:
    """Compile, now, a function of the address of its arguments, int64 each, see `call`.

    Unlike a function that is called by name, its code is compiled once and not again with every
    caller.
    """
    return cast(NativeFunction, _cached(cfunc, types.void(types.int64))(function))


@intrinsic
def call(_context: Any, _address: Any, arguments: Any) -> Any:
    """Call a `NativeFunction` by its address, with a tuple of int64."""

    def generate(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        cells = cgutils.alloca_once(builder, word, len(arguments))
        for index, value in enumerate(cgutils.unpack_tuple(builder, values[1])):
            builder.store(value, builder.gep(cells, [ir.Constant(word, index)]))
        kind = ir.FunctionType(ir.VoidType(), [word])
        function = builder.inttoptr(values[0], ir.PointerType(kind))
        builder.call(function, [builder.ptrtoint(cells, word)])
        return context.get_dummy_value()

    return types.void(types.int64, arguments), generate


@intrinsic
def void_at(_context: Any, _address: Any) -> Any:
    """Address -> untyped pointer, for `numba.carray` with a record dtype."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.intp), generate


def _cached(decorate: Callable[..., Any], *signature: Any, **options: Any) -> Callable[..., Any]:
    """A decorator whose code is kept on disk, if a folder is writable."""

    def compile_function(function: Any) -> Any:
        try:
            with _cache_folder():
                return decorate(*signature, cache=True, **_OPTIONS, **options)(function)
        except RuntimeError:
            return decorate(*signature, **_OPTIONS, **options)(function)

    return compile_function


@contextmanager
def _cache_folder() -> Iterator[None]:
    """Where functions that are decorated meanwhile keep their code."""
    given: str = numba.config.CACHE_DIR
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    root = Path(given) if given else home / "evoserve" / "kernels"
    numba.config.CACHE_DIR = str(root / _stamp())
    try:
        yield
    finally:
        numba.config.CACHE_DIR = given


@functools.cache
def _stamp() -> str:
    package, digest = Path(__file__).parent, hashlib.sha256()
    for file in sorted(file for pattern in _SOURCES for file in package.glob(pattern)):
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]
