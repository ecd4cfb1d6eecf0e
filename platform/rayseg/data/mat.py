"""MATLAB files: one numeric array out of a MAT-file of level 5 (`save -v6` and `-v7`), by its name, and nothing else.

Format: MathWorks, "MAT-File Format", https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf, level 5. SBD,
PASCAL Context and COCO-Stuff keep their masks in it. A general reader builds every cell and struct that a file claims
to hold before it can be asked for one array; this one walks past them, so neither a claimed size nor a compressed
element can fill the memory, and there is no object to build from a stranger's file.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rayseg.errors import DataError

MAX_BYTES = 128 * 2**20
"""The largest element taken: 16 megapixels of doubles, which is how MATLAB keeps what nobody cast."""
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_MATRIX, _COMPRESSED = 14, 15
_STRUCT, _NUMERIC = 2, range(6, 16)
_COMPLEX = 0x08
_NAME_BYTES = 512
"""A compressed element is opened this far to read its name: flags, dimensions and name come first."""


class _Element(NamedTuple):
    kind: int
    data: memoryview


class _DamageError(Exception):
    """The bytes are no level-5 file: `read` says so with the file's name."""


def read(data: bytes, variable: str, where: object) -> NDArray[Any]:
    """Read the array `variable` (`S`, or `GTcls.Segmentation` for a struct's field) as `(H, W)` of its stored type.

    Raises:
        DataError: no level-5 file, a damaged or too large one, no such variable, or no real numbers in two dimensions.
    """
    if data[:4] == b"\x89HDF" or data.startswith(b"MATLAB 7.3"):
        raise DataError("MAT-file of version 7.3 (HDF5)", where, "save it again with MATLAB's `save -v7`")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise DataError(f"no MAT-file: it starts with {data[:12]!r}", where, "fetch the file again")
    try:
        return _array(_variable(data, order, variable.split(".")), order)
    except KeyError as error:
        raise DataError(f"no variable {error} in it", where, f"the card reads '{variable}'") from None
    except (_DamageError, struct.error, zlib.error) as error:
        raise DataError(f"MAT-file is damaged: {error}", where, "fetch the file again") from None


def _variable(data: bytes, order: str, path: list[str]) -> memoryview:
    """Find a top-level variable, then go down by field names."""
    for matrix in _matrices(memoryview(data)[128:], order, path[0]):
        for field in path[1:]:
            matrix = _field(matrix, order, field)
        return matrix
    raise KeyError(path[0])


def _matrices(rest: memoryview, order: str, name: str) -> Iterator[memoryview]:
    """Give the top-level matrices of this name; of another compressed one no more than its name is unpacked."""
    while len(rest):
        element, rest = _element(rest, order)
        if element.kind == _COMPRESSED:
            start = _unpacked(element.data, _NAME_BYTES)
            if _name(start[8:], order) == name:
                yield _element(_unpacked(element.data, MAX_BYTES), order)[0].data
        elif element.kind == _MATRIX and _name(element.data, order) == name:
            yield element.data


def _element(data: memoryview, order: str) -> tuple[_Element, memoryview]:
    """Split off the first element: a tag of type and size and the data, padded to eight bytes."""
    kind, size = struct.unpack_from(order + "II", data)
    if kind >> 16:  # a small element keeps up to four bytes inside its tag
        if kind >> 16 > 4:
            raise _DamageError("a small element of more than four bytes")
        return _Element(kind & 0xFFFF, data[4 : 4 + (kind >> 16)]), data[8:]
    if size > len(data) - 8:
        raise _DamageError(f"an element of {size} bytes where {len(data) - 8} are left")
    padding = 0 if kind == _COMPRESSED else -size % 8
    return _Element(kind, data[8 : 8 + size]), data[8 + size + padding :]


def _unpacked(data: memoryview, most: int) -> memoryview:
    """Decompress up to `most` bytes; for a whole element, more than that is refused."""
    stream = zlib.decompressobj()
    found = stream.decompress(data, most)
    if most == MAX_BYTES and not stream.eof:
        raise _DamageError(f"a compressed element that is cut, or larger than {MAX_BYTES // 2**20} MiB")
    return memoryview(found)


def _head(matrix: memoryview, order: str) -> tuple[int, tuple[int, ...], str, memoryview]:
    """Read class, dimensions and name of a matrix; what follows depends on the class."""
    flags, rest = _element(matrix, order)
    sizes, rest = _element(rest, order)
    name, rest = _element(rest, order)
    (bits,) = struct.unpack_from(order + "I", flags.data)
    if bits >> 8 & _COMPLEX:
        raise _DamageError("complex numbers")
    shape = np.frombuffer(sizes.data[: len(sizes.data) // 4 * 4], order + "i4")
    return bits & 0xFF, tuple(shape.tolist()), bytes(name.data).decode("latin-1"), rest


def _name(matrix: memoryview, order: str) -> str:
    return _head(matrix, order)[2]


def _field(matrix: memoryview, order: str, wanted: str) -> memoryview:
    """Give a field of a struct of one element, walking past those before it."""
    kind, shape, _, rest = _head(matrix, order)
    if kind != _STRUCT or set(shape) != {1}:
        raise KeyError(wanted)
    length, rest = _element(rest, order)
    text, rest = _element(rest, order)
    (width,) = struct.unpack_from(order + "i", length.data)
    if not 1 <= width <= 64:
        raise _DamageError(f"field names of {width} bytes")
    for start in range(0, len(text.data), width):
        element, rest = _element(rest, order)
        if bytes(text.data[start : start + width]).split(b"\0")[0] == wanted.encode():
            return element.data
    raise KeyError(wanted)


def _array(matrix: memoryview, order: str) -> NDArray[Any]:
    """Give the numbers of a matrix, which MATLAB stores column by column and in the smallest type that holds them."""
    kind, shape, _, rest = _head(matrix, order)
    if kind not in _NUMERIC or len(shape) != 2 or min(shape) < 1:
        raise _DamageError(f"class {kind} of {shape}: a mask is a matrix of numbers")
    numbers, _ = _element(rest, order)
    if numbers.kind not in _TYPES:
        raise _DamageError(f"numbers of type {numbers.kind}")
    dtype = np.dtype(order + _TYPES[numbers.kind])
    if shape[0] * shape[1] * dtype.itemsize != len(numbers.data):
        raise _DamageError(f"{len(numbers.data)} bytes for {shape[0]}x{shape[1]} numbers of {dtype.itemsize}")
    return np.frombuffer(numbers.data, dtype).reshape(shape, order="F")
