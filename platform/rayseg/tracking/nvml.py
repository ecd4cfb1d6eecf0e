"""A GPU's figures from NVIDIA's own library (libnvidia-ml, which comes with the driver), without a package for it.

https://docs.nvidia.com/deploy/nvml-api: every function gives 0 where it did what it was asked. What this card or this
container does not tell is left out.
"""

from __future__ import annotations

import ctypes
from typing import Any

LIBRARY = "libnvidia-ml.so.1"
MB = 1e6


class _Memory(ctypes.Structure):
    _fields_ = [("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong)]


class _Rates(ctypes.Structure):
    _fields_ = [("gpu", ctypes.c_uint), ("memory", ctypes.c_uint)]


class Gpu:
    """One GPU; its figures have the names that MLflow gives to those of GPU `number`."""

    def __init__(self, library: Any, handle: ctypes.c_void_p, number: int) -> None:
        self._library, self._handle, self._number = library, handle, number

    def figures(self) -> dict[str, float]:
        """Ask for utilisation, memory and power."""
        found: dict[str, float] = {}
        rates, memory, milliwatts = _Rates(), _Memory(), ctypes.c_uint()
        if self._asked("nvmlDeviceGetUtilizationRates", rates):
            found["utilization_percentage"] = rates.gpu
        if self._asked("nvmlDeviceGetMemoryInfo", memory) and memory.total:
            found["memory_usage_megabytes"] = memory.used / MB
            found["memory_usage_percentage"] = 100 * memory.used / memory.total
        if self._asked("nvmlDeviceGetPowerUsage", milliwatts):
            found["power_usage_watts"] = milliwatts.value / 1000
        return {f"system/gpu_{self._number}_{name}": round(value, 1) for name, value in found.items()}

    def _asked(self, name: str, answer: Any) -> bool:
        return getattr(self._library, name)(self._handle, ctypes.byref(answer)) == 0


def find(uuid: str, number: int = 0) -> Gpu | None:
    """Find the GPU of that id (`GPU-…`), called `number` in its figures; None where the library does not know it."""
    try:
        library = ctypes.CDLL(LIBRARY)
        handle = ctypes.c_void_p()
        known = library.nvmlInit_v2() == 0 and (
            library.nvmlDeviceGetHandleByUUID(uuid.encode(), ctypes.byref(handle)) == 0
        )
    except (OSError, AttributeError):  # no such library, or an old one
        return None
    return Gpu(library, handle, number) if known else None
