"""Play a sweep of many trials on many spot GPUs, without a cloud: when do head, tracking server and storage fill up?

What each of them takes for a piece of work is measured here; what a GPU does is given: `--step-s`, `--storage-mib-s`,
`--mtbf-h`. Reports, points and commits then come to three desks, each of which serves one after the other.

    python benchmarks/saturation.py --trials 1000 --gpus 64 --step-s 0.12 --storage-mib-s 300 --write
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from measure import publish
from simulated.sweep import Figures, full_at, play

MIB = 2**20
ABOUT = """Each GPU trains one trial after the other; a trial's length is a share of `steps`, halved again and again as
halving searches do. Every evaluation sends a report to the head (CPU of Ray Tune in the driver, a synced line of the
journal), a commit to storage and the points since the last one to MLflow. GPUs are taken away at random; a trial then
goes on from its newest commit, `recovery_s` later. *Load* is the work that comes to a desk in a second, in seconds;
*longest wait* what a piece of work waited at most. A desk is full at so many GPUs at which its load would be 1; above
that its queue grows to the end of the sweep, and with storage the GPUs wait too: a run writes one commit at a time.
What is *given* is an example to replace; the size of a commit is ResNet-50's (commits.md). The journal is measured on
this machine's disk: on NFS a synced line takes longer (`--report-s`)."""


# --- what is measured -------------------------------------------------------------------------------------------------


def spool_line_bytes(folder: Path) -> float:
    """Write what a run logs at a step, many times, and give the bytes of one."""
    from rayseg.tracking.spool import SpoolTracker

    tracker, lines = SpoolTracker(folder), 500
    names = ("loss", "loss_main", "lr", "samples_per_s", "grad_norm", "skipped")
    for step in range(lines):
        tracker.metrics({f"train/{name}": step * 0.618034 for name in names}, step)
    tracker.close("FINISHED")
    return (folder / "tracking" / "spool.jsonl").stat().st_size / lines


def tune_s(folder: Path) -> float:
    """Give the CPU seconds that Ray Tune takes in the driver for one report: what more reports add, trials alike."""
    from rayseg.cluster.connect import ray_session

    with ray_session(num_cpus=2):
        from ray import tune

        class Talker(tune.Trainable):
            def step(self) -> dict[str, object]:
                return {"figures": {"miou": 0.5, "loss": 0.7}, "done": self.iteration + 1 >= self.config["reports"]}

        def cpu_s(reports: int) -> float:
            began = time.process_time()
            tune.Tuner(
                Talker,
                param_space={"reports": reports},
                tune_config=tune.TuneConfig(num_samples=4, max_concurrent_trials=2, reuse_actors=True),
                run_config=tune.RunConfig(name=f"r{reports}", storage_path=str(folder), verbose=0),
            ).fit()
            return time.process_time() - began

        cpu_s(10)
        few, many = 50, 350
        return max(0.0, cpu_s(many) - cpu_s(few)) / (4 * (many - few))


def report_s(folder: Path) -> float:
    """Write reports to a journal as a driver does, each synced, and give the seconds of one."""
    from rayseg.sweep.journal import Journal

    journal, reports = Journal(folder), 200
    figures = {"step": 500, "miou": 0.5, "pixel_accuracy": 0.8, "loss": 0.7, "samples_per_s": 61.8}
    began = time.perf_counter()
    for number in range(reports):
        journal.write("result", {"key": f"{number:08x}", "step": 500, "miou": 0.5, "figures": figures})
    taken = time.perf_counter() - began
    journal.close()
    return taken / reports


def points_per_s(folder: Path) -> float:
    """Bring a run's points to a real MLflow server on this machine, as the replay does, and give points a second."""
    from rayseg.tracking.mlflow_tracker import RunIdentity, open_tracker, replay
    from tracking import server

    with server(folder) as uri:
        counts = []
        for number, lines in enumerate((5, 1000)):  # the first imports MLflow and makes the experiment
            run_dir = folder / f"run-{number}"
            tracker = open_tracker(run_dir, RunIdentity(experiment="b", run_key=str(number), run_name="r"), None)
            for step in range(lines):
                tracker.metrics({f"train/{name}": float(step) for name in "abcdef"}, step)
            tracker.close("FINISHED")
            began = time.perf_counter()
            replay(run_dir, uri, timeout_s=300)
            counts.append(lines * 6 / (time.perf_counter() - began))
        return counts[-1]


def measured(*, quick: bool) -> dict[str, float]:
    """Measure what this machine can tell; `quick` starts neither Ray nor a server."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"bytes_per_line": spool_line_bytes(Path(folder) / "spool"), "report_s": report_s(Path(folder) / "j")}
        if quick:
            return found
        found["report_s"] += tune_s(Path(folder) / "tune")
        return found | {"points_per_s": points_per_s(Path(folder))}


# --- what is said -----------------------------------------------------------------------------------------------------


def table(figures: Figures, trials: int, sizes: list[int]) -> list[str]:
    """Play the sweep on some numbers of GPUs, a line each."""
    lines = ["| GPUs | wall hours | steps redone | taken away | desk | load | longest wait s | full at GPUs |"]
    lines.append("|---|---|---|---|---|---|---|---|")
    for gpus in sizes:
        done = play(figures, trials=trials, gpus=gpus)
        first = (
            f"| {gpus} | {done.wall_s / 3600:.1f} | {done.redone / (done.kept + done.redone):.2%} | {done.taken_away} "
        )
        for desk in done.desks:
            load = done.load(desk)
            full = gpus / load * (done.kept * figures.step_s / gpus / done.wall_s)  # as if no GPU ever stood idle
            lines.append(f"{first}| {desk.name} | {load:.2%} | {desk.longest_wait_s:.1f} | {full:,.0f} |")
            first = "| | | | "
    return lines


def volumes(figures: Figures, trials: int, gpus: int) -> list[str]:
    """Say what fills first, what lies on storage in the end, and what crosses the network."""
    done = play(figures, trials=trials, gpus=gpus)
    evaluations = done.kept / figures.eval_every
    points = evaluations * figures.points_per_eval
    spool_gib = done.kept / figures.log_every * figures.bytes_per_line / MIB / 1024
    rate = gpus * figures.commit_mib / (figures.eval_every * figures.step_s)
    first, *others = sorted((gpus_full, name) for name, gpus_full in full_at(figures).items())
    return [
        f"- First {first[1]} is full, at {first[0]:,.0f} GPUs; "
        + ", ".join(f"{name} at {count:,.0f}" for count, name in others)
        + ".",
        f"- {gpus} GPUs write {rate:.0f} MiB/s of commits; evaluations half as often halve that.",
        f"- {evaluations:,.0f} evaluations: as many reports, and commits of {figures.commit_mib:g} MiB, "
        f"{evaluations * figures.commit_mib / MIB:.1f} TiB in all, of which each run keeps a few.",
        f"- {points / 1e6:.1f} million points, {spool_gib:.1f} GiB of spools.",
    ]


def main() -> None:
    """Measure, play, say."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--gpus", type=int, default=64)
    for name, kind in Figures.__annotations__.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=int if "int" in str(kind) else float, help=argparse.SUPPRESS
        )
    parser.add_argument("--quick", action="store_true", help="start neither Ray nor a server: does it run?")
    parser.add_argument("--write", action="store_true", help="keep the tables in docs/benchmarks/")
    options = vars(parser.parse_args())
    given = {name: options[name] for name in Figures._fields if options[name] is not None}
    own = measured(quick=options["quick"])
    figures = Figures(**{"step_s": 0.12} | own | given)
    sizes = sorted({max(1, options["gpus"] // 4), options["gpus"], options["gpus"] * 4, options["gpus"] * 16})
    came = {name: "measured" if name in own and name not in given else "given" for name in Figures._fields}
    sections = [
        ABOUT,
        "\n".join(
            ["| | | |", "|---|---|---|", *(f"| {n} | {v:.6g} | {came[n]} |" for n, v in figures._asdict().items())]
        ),
        f"## {options['trials']} trials",
        "\n".join(table(figures, options["trials"], sizes)),
        "\n".join(volumes(figures, options["trials"], options["gpus"])),
        f"Asked for: `{json.dumps(given)}`.",
    ]
    publish("saturation", "Where a large sweep saturates", sections, write=options["write"])


if __name__ == "__main__":
    main()
