"""MATLAB files: what SciPy writes is read back, and what is cut, forged or a bomb is refused in little memory."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from rayseg.data import mat
from rayseg.errors import DataError

RNG = np.random.default_rng(0)
MASK = RNG.integers(0, 21, (7, 5)).astype(np.uint8)


def saved(content: dict[str, Any], compressed: bool = True) -> bytes:
    file = io.BytesIO()
    savemat(file, content, do_compression=compressed)
    return file.getvalue()


SBD = {"GTcls": {"Boundaries": np.array([[1.0], [2.0]]), "Segmentation": MASK, "CategoriesPresent": np.array([15])}}


@pytest.mark.parametrize("compressed", [True, False])
@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "u4", "i8", "f4", "f8"])
def test_what_scipy_writes_is_read_back(dtype: str, compressed: bool) -> None:
    numbers = MASK.astype(dtype)
    data = saved({"names": np.array(["a", "bc"], object), "S": numbers, "after": np.eye(2)}, compressed)
    found = mat.read(data, "S", "x.mat")
    np.testing.assert_array_equal(found, numbers)
    np.testing.assert_array_equal(found, loadmat(io.BytesIO(data))["S"])


@pytest.mark.parametrize("compressed", [True, False])
def test_a_field_of_a_struct(compressed: bool) -> None:
    np.testing.assert_array_equal(mat.read(saved(SBD, compressed), "GTcls.Segmentation", "x.mat"), MASK)
    nested = saved({"a": {"b": {"c": MASK, "d": MASK + 1}}}, compressed)
    np.testing.assert_array_equal(mat.read(nested, "a.b.d", "x.mat"), MASK + 1)


def tag(order: str, kind: int, data: bytes) -> bytes:
    return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)


def by_hand(order: str, numbers: bytes, shape: tuple[int, ...], kind: int = 2, flags: int = 9) -> bytes:
    """Write one matrix as the format's document has it: SciPy writes neither the other byte order nor nonsense."""
    head = b"MATLAB 5.0 MAT-file".ljust(124) + (b"\x00\x01IM" if order == "<" else b"\x01\x00MI")
    body = tag(order, 6, struct.pack(order + "II", flags, 0)) + tag(
        order, 5, struct.pack(f"{order}{len(shape)}i", *shape)
    )
    return head + tag(order, 14, body + tag(order, 1, b"S") + tag(order, kind, numbers))


def test_the_other_byte_order_and_the_order_of_columns() -> None:
    numbers = np.array([[1, 300, 5], [2, 400, 6]], np.uint16)
    for order in ("<", ">"):
        data = by_hand(order, numbers.astype(order + "u2").tobytes(order="F"), (2, 3), kind=4, flags=11)
        np.testing.assert_array_equal(mat.read(data, "S", "x.mat"), numbers)


BAD = {
    "version 7.3": (b"MATLAB 7.3 MAT-file" + bytes(200), "save -v7"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(200), "save -v7"),
    "html": (b"<!DOCTYPE html><html>" + bytes(200), "no MAT-file"),
    "empty": (b"", "no MAT-file"),
    "header alone": (saved({})[:128], "no variable 'S'"),
    "another variable": (saved({"T": MASK}), "no variable 'S'"),
    "a struct": (saved({"S": {"x": MASK}}), "class 2"),
    "a cell": (saved({"S": np.array([["a", 1]], object)}), "class 1"),
    "text": (saved({"S": "abc"}), "class 4"),
    "three dimensions": (saved({"S": np.zeros((2, 2, 2), np.uint8)}), "a mask is a matrix"),
    "no pixels": (saved({"S": np.zeros((0, 3), np.uint8)}), "a mask is a matrix"),
    "complex": (saved({"S": np.eye(2) * 1j}), "complex"),
    "a claimed size": (by_hand("<", bytes(6), (40_000, 40_000)), "6 bytes for 40000x40000"),
    "a negative size": (by_hand("<", bytes(6), (-2, -3)), "a mask is a matrix"),
    "a claimed type": (by_hand("<", bytes(6), (2, 3), kind=77), "type 77"),
    "a claimed length": (by_hand("<", bytes(6), (2, 3))[:-8], "damaged: an element of"),
    "rubbish instead of zlib": (saved({})[:128] + tag("<", 15, b"rubbish!"), "damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_refused(name: str) -> None:
    data, says = BAD[name]
    with pytest.raises(DataError, match=says) as caught:
        mat.read(data, "S", "a/b.mat")
    assert "(a/b.mat)" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize("wanted", ["GTcls", "GTcls.None", "GTcls.Segmentation.more", "GTcls.Boundaries.x"])
def test_a_path_that_leads_nowhere(wanted: str) -> None:
    with pytest.raises(DataError):
        mat.read(saved(SBD), wanted, "x.mat")


@pytest.mark.parametrize(("name", "says"), [(b"S", "larger than 1 MiB"), (b"T", "no variable 'S'")])
def test_a_compressed_bomb_is_refused_in_little_memory(name: bytes, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros behind the name wanted are unpacked up to the limit, and behind another name not at all."""
    monkeypatch.setattr(mat, "MAX_BYTES", 2**20)
    matrix = by_hand("<", b"", (1, 1))[136:-8].replace(b"S", name) + struct.pack("<II", 2, 2**26)
    packed = zlib.compress(struct.pack("<II", 14, len(matrix) + 2**26) + matrix + bytes(2**26), 1)
    data = saved({})[:128] + struct.pack("<II", 15, len(packed)) + packed
    tracemalloc.start()
    with pytest.raises(DataError, match=says):
        mat.read(data, "S", "bomb.mat")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3 * 2**20


WHOLE = [saved(SBD), saved(SBD, compressed=False)]


@pytest.mark.parametrize("which", [0, 1], ids=["compressed", "plain"])
def test_whatever_is_damaged_is_an_array_or_one_error(which: int) -> None:
    whole, rng = WHOLE[which], np.random.default_rng(which)
    cuts = [whole[:at] for at in range(0, len(whole), 3)]
    for _ in range(400):
        flipped = bytearray(whole)
        flipped[rng.integers(len(whole))] ^= 1 << int(rng.integers(8))
        cuts.append(bytes(flipped))
    for data in cuts:
        try:
            found = mat.read(data, "GTcls.Segmentation", "x.mat")
        except DataError:
            continue
        assert found.ndim == 2
        assert found.size < 1000
