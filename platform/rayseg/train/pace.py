"""What a run costs: a few real steps and evaluations by `fit` itself, timed, in a folder that is thrown away.

`python -m rayseg.train.pace` does it in a process of its own, so that the memory is that of the run alone. It says
`ready`, reads one request, waits for another line as the signal to begin (several begin together), and writes one
line of JSON for each run that it measured.
"""

from __future__ import annotations

import itertools
import json
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist

from rayseg import config as configs
from rayseg.config import RunConfig
from rayseg.errors import RaysegError, TrainingError
from rayseg.schema import Value, parse
from rayseg.tracking import NullTracker
from rayseg.train.loop import fit
from rayseg.train.runtime import Stop, from_chief

BLOCK = 6
"""Steps between two evaluations."""
AHEAD = 3
"""Steps after each evaluation that are not counted: their batches were made while no step was taken."""
IMAGES = 3
LEAST_S = 8.0
"""A run is watched for so long, and to the end of that block."""


Kind = Literal["begin", "step", "judged", "end"]


class Request(Value):
    """Runs to measure one after the other in `folder`, each a whole config; none begins that would end after `limit_s`.

    With `world` above 1 as many processes measure each run together, joined by the file `meeting`.
    """

    configs: list[dict[str, Any]]
    folder: str
    threads: int
    limit_s: float
    rank: int = 0
    world: int = 1
    gpu: int = 0
    meeting: str = ""


class Pace(NamedTuple):
    """Seconds and memory of one run: `start_s` to the first step, `end_s` for its tables and pictures.

    An evaluation takes `image_s` an image, and `commit_s` for what follows it.
    """

    start_s: float
    step_s: float
    image_s: float
    commit_s: float
    end_s: float
    peak_mib: float


def images_of(config: RunConfig, val_images: int) -> int:
    """Count the predictions of one evaluation, of a split of `val_images`.

    Of several workers the first one makes those again that it shows and another one made.
    """
    total = min(config.data.val_samples or val_images, val_images)
    return total + (min(config.train.shown_images, total) if config.train.workers > 1 else 0)


def measure(config: RunConfig, runtime: Clock) -> Pace:
    """Run some steps of `config` and time them. Every rank calls it.

    Raises:
        RaysegError: the run cannot be built, or its time was over before the first evaluation.
    """
    _forget_peak(runtime.device)
    train = config.train.model_copy(update={"eval_every": BLOCK, "log_every": 1})
    images = min(config.data.val_samples or IMAGES, IMAGES)
    data = config.data.model_copy(update={"val_samples": images})
    short = config.model_copy(update={"train": train, "data": data})
    runtime.mark("begin")
    if fit(short, runtime, runtime, show=_silent) is None:
        what = f"its first {min(BLOCK, config.train.steps)} steps take more than {runtime.limit_s:.0f} s here"
        raise TrainingError(what, "--plan", "plan on a machine like those that will train")
    runtime.mark("end")
    return _pace(runtime, images_of(short, images))


class Clock(NullTracker):
    """The runtime and the tracker of a measured run: notes when each step and each evaluation was over."""

    def __init__(self, run_dir: Path, device: torch.device, *, limit_s: float, rank: int = 0, world: int = 1) -> None:
        self.run_dir, self.device, self.rank, self.world = run_dir, device, rank, world
        self.limit_s, self.began, self.step = limit_s, time.monotonic(), 0
        self.marks: list[tuple[Kind, int, float]] = []

    def mark(self, kind: Kind) -> None:
        """Note that something is over."""
        self.marks.append((kind, self.step, time.monotonic()))

    def stop(self) -> Stop | None:
        """End once enough was seen; pause where a first evaluation comes too late. It is asked after each step."""
        self.step += 1
        self.mark("step")
        seconds = self.marks[-1][2] - self.began
        if any(kind == "judged" for kind, _, _ in self.marks):
            wanted = 2 if seconds > min(LEAST_S, self.limit_s) else 0
        else:
            wanted = 1 if seconds > self.limit_s else 0
        return (None, "pause", "end")[from_chief(wanted, self.device)]  # type: ignore[return-value]

    def report(self, metrics: Mapping[str, float]) -> None:
        """Drop it."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Note the end of an evaluation."""
        if any(name.startswith("val/") for name in values):
            self.mark("judged")


def _pace(clock: Clock, images: int) -> Pace:
    """Read the marks. What follows an evaluation is seen in the step after it, which takes so much longer."""
    steps, judged, after = [], [], []
    for (before, _, since), (kind, step, at) in itertools.pairwise(clock.marks):
        took = at - since
        if kind == "judged":
            judged.append(took / images)
        elif kind == "step" and before == "judged":
            after.append(took)
        elif kind == "step" and step > 1 and (step - 1) % BLOCK >= AHEAD:
            steps.append(took)
    begin, first = clock.marks[0][2], clock.marks[1][2]
    step_s = statistics.fmean(steps)
    return Pace(
        start_s=max(first - begin - step_s, 0.0),
        step_s=step_s,
        image_s=judged[-1],
        commit_s=max(statistics.fmean(after) - step_s, 0.0),
        end_s=clock.marks[-1][2] - clock.marks[-2][2],
        peak_mib=_peak_mib(clock.device),
    )


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        Path("/proc/self/clear_refs").write_text("5")


def _peak_mib(device: torch.device) -> float:
    """Give what the device holds for this process at most, or on the CPU the process itself."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**20
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def _silent(_: str) -> None:
    """A measured run says nothing."""


def main() -> None:
    """Answer one request from stdin."""
    import matplotlib.figure  # noqa: F401 - a slot has it after its first trial

    out = sys.stdout
    sys.stdout = sys.stderr  # what others print is no answer
    print("ready", file=out, flush=True)
    request = parse(Request, json.loads(sys.stdin.readline()), "request")
    torch.set_num_threads(request.threads)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", request.gpu) if cuda else torch.device("cpu")
    sys.stdin.readline()
    if request.world > 1:
        backend, place = "nccl" if cuda else "gloo", f"file://{request.meeting}"
        dist.init_process_group(backend, init_method=place, rank=request.rank, world_size=request.world)
    began = time.monotonic()
    for number, plain in enumerate(request.configs):
        spent = time.monotonic() - began
        left = request.limit_s - spent
        if number and from_chief(left < spent / number, device):
            break
        folder = Path(request.folder) / str(number)
        clock = Clock(folder, device, limit_s=left, rank=request.rank, world=request.world)
        try:
            answer: dict[str, Any] = measure(configs.from_dict(plain), clock)._asdict()
        except RaysegError as error:
            answer = error.fields()
        print(json.dumps(answer), file=out, flush=True)
        shutil.rmtree(folder, ignore_errors=True)
    if request.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
