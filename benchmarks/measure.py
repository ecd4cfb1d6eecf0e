"""Measure forms of one computation against each other: peak of live bytes, and time by interleaved runs.

Memory is the most bytes of tensors alive at once beyond the inputs, counted at every operation: the same on any
machine. Time is only ever given as a ratio: all forms run in turn, round by round, and the ratio is the median over
the rounds, so that a busy neighbour slows a whole round and not one form.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

MIB = 2**20
FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
Form = Callable[..., Tensor]
"""A computation from tensors to one tensor."""


class LiveBytes(TorchDispatchMode):
    """Watches every tensor that an operation makes: the bytes alive now, and the most there were.

    Views of `inputs` are no new bytes.
    """

    def __init__(self, inputs: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.given = {x.untyped_storage()._cdata for x in inputs}
        self.alive: dict[int, int] = {}
        self.peak = self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage())
        self.peak = max(self.peak, sum(self.alive.values()))
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        if (key := storage._cdata) not in self.alive and key not in self.given:
            self.alive[key] = storage.nbytes()
            self.largest = max(self.largest, self.alive[key])
            weakref.finalize(storage, self.alive.pop, key)


def run(form: Form, inputs: Sequence[Tensor], *, training: bool) -> None:
    """Compute `form` once, with all gradients where `training`."""
    if not training:
        with torch.no_grad():
            form(*inputs)
        return
    wanted = [x for x in inputs if x.requires_grad]
    torch.autograd.grad(form(*inputs).sum(), wanted)


def live_bytes(form: Form, inputs: Sequence[Tensor], *, training: bool) -> LiveBytes:
    """Watch `form` compute once: `.peak` is the most bytes alive at once, `.largest` its largest tensor's.

    The inputs do not count. What a fused kernel allocates inside itself is not seen.
    """
    with LiveBytes(inputs) as watched:
        run(form, inputs, training=training)
    return watched


class Cost(NamedTuple):
    """One form's cost: bytes at the peak, the median of its times, and of its times over the first form's."""

    peak: int
    seconds: float
    ratio: float


def compare(forms: Mapping[str, Form], inputs: Sequence[Tensor], *, training: bool, rounds: int = 5) -> dict[str, Cost]:
    """Measure every form; the first is what the others are compared with."""
    peaks = {name: live_bytes(form, inputs, training=training).peak for name, form in forms.items()}
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.perf_counter()
            run(form, inputs, training=training)
            times[name].append(time.perf_counter() - start)
    first = times[next(iter(forms))]
    ratios = {n: statistics.median(t / f for t, f in zip(own, first, strict=True)) for n, own in times.items()}
    return {name: Cost(peaks[name], statistics.median(times[name]), ratios[name]) for name in forms}


def table(title: str, costs: Mapping[str, Cost]) -> str:
    """Lay costs out as a Markdown table: how much less memory, and how much faster, than the first form."""
    first = next(iter(costs.values()))
    lines = [
        f"### {title}",
        "",
        "| form | peak MiB | times less memory | median s | times faster |",
        "|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        less, faster = first.peak / max(cost.peak, 1), 1 / cost.ratio
        lines.append(f"| {name} | {cost.peak / MIB:.1f} | {less:.1f} | {cost.seconds:.3f} | {faster:.2f} |")
    return "\n".join(lines)


def hardware() -> str:
    """Name the machine, torch, and the day."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{platform.machine()} CPU"
    return f"{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {date.today()}"


def arguments(about: str) -> argparse.Namespace:
    """Read `--quick` (small sizes, two rounds: does it run?) and `--write` (keep the tables in docs/benchmarks)."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="small sizes and two rounds: does it run?")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/benchmarks/")
    return parser.parse_args()


def publish(name: str, title: str, sections: Sequence[str], *, write: bool) -> None:
    """Print a page; with `write` keep it as `docs/benchmarks/<name>.md`."""
    page = "\n\n".join([f"# {title}", f"`python benchmarks/{name}.py --write` on {hardware()}.", *sections]) + "\n"
    print(page)
    if write:
        FOLDER.mkdir(parents=True, exist_ok=True)
        (FOLDER / f"{name}.md").write_text(page)
