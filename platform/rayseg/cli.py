"""The command line: `rayseg <command>`, and what the job files call. Commands parse, call one function, print."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from rayseg.commands.analyse import analyse
from rayseg.commands.report import report
from rayseg.commands.table import table
from rayseg.errors import RaysegError, TrainingError, UsageError, nearest

if TYPE_CHECKING:
    from rayseg.sweep.trial import Sweep


def say(line: str) -> None:
    """Print a line now: a job's log is read while it runs."""
    print(line, flush=True)


def run(command: click.Command, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command; a user's mistake is one line on stderr and an exit code, without a traceback."""
    try:
        code = command.main(args=arguments, standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except RaysegError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else "")
        sys.exit(0)
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else command.name
        _fail(f"{error.format_message()} ({where}): see {where} --help", 2)
    except click.Abort as error:
        _fail(f"interrupted (Ctrl-C): {error.__cause__ or 'the same command goes on where it can'}", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)


def _fail(message: str, code: int) -> NoReturn:
    print("error: " + " ".join(message.split()), file=sys.stderr, flush=True)
    sys.exit(code)


class _Commands(click.Group):
    """A group that offers the nearest command for a mistyped one."""

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            raise UsageError(f"unknown command '{args[0]}'", "rayseg", nearest(args[0], self.commands))
        return super().resolve_command(ctx, args)


@click.group(cls=_Commands)
@click.version_option(package_name="rayseg")
def rayseg() -> None:
    """Find out, on a Ray cluster, which segmentation head wins."""


def main() -> NoReturn:
    """Be the console script; a name that the terminal cannot show is written with escapes."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    run(rayseg)


folder = click.Path(path_type=Path)
setting = click.option(
    "--set", "settings", multiple=True, metavar="A.B=C", help="Set a config field by its dotted name."
)


# --- data -----------------------------------------------------------------------------------------------------------


@rayseg.command()
@click.argument("card")
@click.option("--root", type=folder, help="The raw data set's folder; CARD's in RAYSEG_DATA when absent.")
@click.option("--out", type=folder, required=True, help="Where the shards go; must not exist.")
@click.option("--workers", type=click.IntRange(1, 256), help="Threads, or Ray tasks at once; all CPUs when absent.")
@click.option("--image", default="keep", show_default=True, help="keep, png, webp (no loss), webp:QUALITY, jpeg:95.")
@click.option(
    "--ray", "on_ray", is_flag=True, help="Write each shard in a Ray task; --root and --out on shared storage."
)
def shard(card: str, root: Path | None, out: Path, workers: int | None, image: str, on_ray: bool) -> None:
    """Write a data set as audited WebDataset shards with a Parquet index and an audit page."""
    from rayseg.data import card as cards
    from rayseg.data import catalogue, shards

    chosen = cards.load(card)
    data = os.environ.get("RAYSEG_DATA")
    if root is None and data and chosen.generated is None:
        root = catalogue.place(chosen, Path(data))
    try:
        with _bar(f"sharding {card}") as tick:
            report = shards.write(chosen, root, out, workers=_crew(workers, on_ray), image=image, progress=tick)
    finally:
        for kept in shards.left(out):
            print(f"finished shards wait in {kept}: the same command goes on from them", file=sys.stderr, flush=True)
    for line in report.warnings:
        say(f"warning: {line}")
    samples = ", ".join(f"{name} {count}" for name, count in report.samples.items())
    state = "unchanged" if report.unchanged else "written"
    state += f" ({report.adopted} samples by an earlier command)" if report.adopted else ""
    say(f"{report.out}: {samples} samples, {report.bytes / 2**20:.1f} MiB, {state}")
    say(f"look at it: {report.page}")


def _crew(workers: int | None, on_ray: bool) -> Any:
    """Give what writes shards: Ray tasks, or a number of threads."""
    if on_ray:
        from rayseg.cluster import sharding

        return sharding.crew(workers)
    return workers or os.cpu_count() or 1


@rayseg.command()
@click.argument("name", metavar="[CARD]", required=False)
@click.option(
    "--root", type=folder, envvar="RAYSEG_DATA", help="The folder that has one for each data set [RAYSEG_DATA]."
)
@click.option("--template", is_flag=True, help="Print a card to make your own of.")
@click.pass_context
def cards(ctx: click.Context, name: str | None, root: Path | None, template: bool) -> None:
    """List the data sets that have a card and what is found of them, or tell all of one card."""
    from rayseg import recipe
    from rayseg.data import card, catalogue

    if template:
        if name or ctx.get_parameter_source("root") is click.core.ParameterSource.COMMANDLINE:
            raise UsageError("--template takes nothing beside it", "rayseg cards", "leave CARD and --root out")
        return click.echo(catalogue.template(), nl=False)
    lines = catalogue.table(root)
    if name is not None:
        fitting = [one for one in recipe.names() if recipe.load(one).dataset == card.load(name).name]
        lines = catalogue.details(card.load(name), root, fitting)
    for line in lines:
        say(line)
    return None


@rayseg.command()
@click.argument("shards_dir", metavar="DIR", type=folder)
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Shards read at once.")
def verify(shards_dir: Path, workers: int) -> None:
    """Check every byte of a folder of shards; exit 3 with the shard and the reason where one is damaged."""
    from rayseg.data.verify import faults

    with _bar(f"verifying {shards_dir}") as tick:
        found = list(faults(shards_dir, tick, workers=workers))
    for fault in found[1:]:
        say(f"also damaged: {fault.where}: {fault.what}")
    if found:
        raise found[0]
    say(f"{shards_dir}: whole")


@rayseg.command()
@click.argument("shards_dir", metavar="DIR", type=folder)
@click.option("--augmented", type=folder, metavar="PNG", help="Draw to it what training makes of some samples.")
@click.option("--recipe", help="With --augmented: whose settings; GALD's for the card when absent.")
@setting
def inspect(shards_dir: Path, augmented: Path | None, recipe: str | None, settings: tuple[str, ...]) -> None:
    """Print samples, sizes and class shares, from the index alone."""
    from rayseg.data.summary import summary

    if augmented is None and (recipe or settings):
        raise UsageError("would be ignored without --augmented", "--recipe or --set", "give --augmented PNG too")
    found = summary(shards_dir)
    say(f"{found.name}: {found.title} ({found.licence})")
    splits = found.splits
    say(f"{'':16}" + "".join(f"{name:>12}" for name in splits))
    say(f"{'samples':16}" + "".join(f"{s.samples:>12}" for s in splits.values()))
    say(f"{'shards':16}" + "".join(f"{s.shards:>12}" for s in splits.values()))
    say(f"{'MiB':16}" + "".join(f"{s.bytes / 2**20:>12.1f}" for s in splits.values()))
    say(f"{'sizes':16}" + "".join(f"{_sizes(s.sizes):>12}" for s in splits.values()))
    for name in next(iter(splits.values())).class_shares:
        say(f"  {name:14}" + "".join(f"{s.class_shares[name]:>12.2%}" for s in splits.values()))
    say(f"  {'(ignored)':14}" + "".join(f"{s.ignore_share:>12.2%}" for s in splits.values()))
    for line in found.warnings:
        say(f"warning: {line}")
    say(f"look at it: {found.page}")
    if augmented is not None:
        from rayseg import recipe as recipes
        from rayseg.config import parse_settings
        from rayseg.train.preview import draw

        draw(shards_dir, augmented, recipe=recipe or recipes.fitting(found.name), settings=parse_settings(settings))
        say(f"what training sees: {augmented}")


def _sizes(sizes: dict[str, int]) -> str:
    first = next(iter(sizes))
    return first if len(sizes) == 1 else f"{first} +{len(sizes) - 1}"


# --- models ---------------------------------------------------------------------------------------------------------


@rayseg.command()
@click.option("--head", "head_names", multiple=True, help="Only this head (may be repeated).")
@click.option("--backbone", default="resnet50", show_default=True)
@click.option("--size", default="3x512x512", show_default=True, metavar="CxHxW")
@click.option("--classes", type=click.IntRange(2), default=19, show_default=True)
@click.option("--output-stride", type=click.Choice(["8", "16", "32"]), default="8", show_default=True)
@click.option("--paper-figures", is_flag=True, help="Instead: the papers' published sizes and costs, and our counts.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@click.pass_context
def models(ctx: click.Context, paper_figures: bool, as_json: bool, **chosen: Any) -> None:
    """Print parameters and FLOPs of each head on a backbone."""
    if not paper_figures:
        return _costs(as_json=as_json, **chosen)
    given = [name for name in chosen if ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT]
    if given:
        option = "--" + given[0].removesuffix("_names").replace("_", "-")
        raise UsageError("would be ignored with --paper-figures", option, "drop it: each cell has its own net and size")
    return _paper_figures(as_json)


def _paper_figures(as_json: bool) -> None:
    from rayseg import calibration

    table = calibration.rows()
    for line in [json.dumps(row._asdict()) for row in table] if as_json else calibration.text(table):
        say(line)


def _costs(
    *, head_names: tuple[str, ...], backbone: str, size: str, classes: int, output_stride: str, as_json: bool
) -> None:
    from rayseg import segmenter

    shape = _size(size)
    costs = segmenter.costs(list(head_names), backbone, classes, output_stride=int(output_stride), size=shape)
    if as_json:
        for cost in costs:
            say(json.dumps(cost._asdict()))
        return
    say(f"{backbone} at output stride {output_stride}, {classes} classes, {size}; 1 multiply-add = 2 FLOPs")
    say(f"{'head':14}{'params M':>10}{'head M':>9}{'aux M':>8}{'GFLOPs':>10}")
    for c in costs:
        say(
            f"{c.head:14}{c.params / 1e6:10.3f}{c.head_params / 1e6:9.3f}{c.aux_params / 1e6:8.3f}{2e-9 * c.macs:10.2f}"
        )


def _size(text: str) -> tuple[int, int, int]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(p.isdigit() and int(p) > 0 for p in parts) or int(parts[0]) != 3:
        raise UsageError(f"cannot read '{text}'", "--size", "write it as 3xHEIGHTxWIDTH, for example 3x640x320")
    return int(parts[0]), int(parts[1]), int(parts[2])


# --- runs -----------------------------------------------------------------------------------------------------------


@rayseg.command()
@click.option(
    "--recipe",
    "recipes",
    multiple=True,
    default=("gald/scenes",),
    show_default=True,
    help="A recipe's name, or the path of a .toml file. Several are phases, each from the best of the last.",
)
@click.option(
    "--dataset",
    help="A card instead of the recipe's; its shards are looked for under RAYSEG_HOME, or given by --shards.",
)
@click.option("--shards", multiple=True, help="A folder, or an https, s3 or gs URL; with phases one for each card.")
@click.option("--bad-shard", type=click.Choice(["error", "skip"]), help="Skip up to 0.1 % unreadable samples.")
@click.option("--allow-url-scheme", type=click.Choice(["http"]), help="Read shards without TLS too.")
@click.option("--run", "run_dir", type=folder, help="The run's directory; an unfinished run there goes on.")
@setting
def train(
    recipes: tuple[str, ...],
    dataset: str | None,
    shards: tuple[str, ...],
    bad_shard: str | None,
    allow_url_scheme: str | None,
    run_dir: Path | None,
    settings: tuple[str, ...],
) -> None:
    """Train one model; with --run DIR the same command goes on where it was."""
    from rayseg.cluster.phases import train_phases
    from rayseg.cluster.single import train_one
    from rayseg.config import parse_settings

    given: dict[str, Any] = {} if bad_shard is None else {"data.bad_shard": bad_shard}
    if allow_url_scheme is not None:
        given["data.remote.allow_url_schemes"] = [allow_url_scheme]
    same: dict[str, Any] = {"run_dir": run_dir, "settings": {**given, **parse_settings(settings)}, "show": say}
    same["on_start"] = _pause_on_interrupt
    if len(recipes) > 1:
        if dataset is not None:
            raise UsageError("each phase has its recipe's card", "--dataset", "drop it")
        train_phases(recipes, shards=shards, **same)
        return
    if len(shards) > 1:
        raise UsageError(f"{len(shards)} folders for one run", "--shards", "give one")
    train_one(recipe=recipes[0], dataset=dataset, shards=shards[0] if shards else None, **same)


def _pause_on_interrupt(runtime: Any) -> None:
    """Ctrl-C or SIGTERM once: commit and end in order. Twice: end now."""

    def pause(number: int, frame: object) -> None:
        say("pausing after this step; once more ends at once")
        runtime.wanted = "pause"
        signal.signal(number, signal.SIG_DFL)

    signal.signal(signal.SIGINT, pause)
    signal.signal(signal.SIGTERM, pause)


@rayseg.command()
@click.argument("place", metavar="RUN|COMMIT", type=folder)
@click.option("--shards", help="Other shards than those it was trained on.")
@click.option("--split", default=None, help="The split; the run's own validation split when absent.")
@click.option("--scales", metavar="S,S,...", help="Scales whose probabilities are averaged, e.g. 0.75,1,1.25.")
@click.option("--flip/--no-flip", default=None, help="Average with the mirrored image too, or not.")
@click.option("--window", metavar="HxW", help="Slide windows of this size over the image; `none` for whole images.")
@click.option(
    "--tta-table",
    is_flag=True,
    help="Accuracy against cost: whole and windows, one scale and --scales, mirrored or not.",
)
@click.option("--json", "as_json", is_flag=True)
def evaluate(place: Path, shards: str | None, split: str | None, tta_table: bool, as_json: bool, **given: Any) -> None:
    """Evaluate a run's best commit, or one commit, with the run's own test settings (its `test` table), or others."""
    from rayseg.train import inference, scorecard

    if tta_table:
        return _tta_table(place, shards, split, as_json=as_json, **given)
    views = inference.chosen_views(place, _views(**given))
    seen = inference.subject(place, shards, split, views=views)
    with _bar(f"evaluating {place} ({views})") as tick:
        found = inference.judge(seen, progress=tick)
    if as_json:
        return say(json.dumps(scorecard.plain(found, seen.shards)))
    for line in scorecard.lines(found, seen.shards):
        say(line)
    return None


def _tta_table(place: Path, shards: str | None, split: str | None, *, as_json: bool, **given: Any) -> None:
    from rayseg.train import inference, view_table

    if given["flip"] is not None:
        raise UsageError("would be ignored with --tta-table", "--flip", "drop it: the table has both")
    seen = inference.subject(place, shards, split)
    chosen = view_table.combinations(seen.config, seen.shards, _views(**given))
    with _bar(f"evaluating {place} ({len(chosen)} combinations of views)") as tick:
        rows = view_table.measure(seen, chosen, progress=tick)
    if as_json:
        return say(json.dumps(view_table.plain(rows)))
    for line in view_table.lines(rows, seen):
        say(line)
    return None


def _views(scales: str | None, flip: bool | None, window: str | None) -> dict[str, Any]:
    """Read what was given of a run's test settings; what was not given is not in it."""
    chosen: dict[str, Any] = {} if flip is None else {"flip": flip}
    try:
        if scales is not None:
            chosen["scales"] = [float(scale) for scale in scales.split(",")]
    except ValueError:
        raise UsageError(f"cannot read '{scales}'", "--scales", "write it as 0.5,1,1.5") from None
    if window is not None:
        sides = window.lower().split("x")
        if window != "none" and (len(sides) != 2 or not all(side.isdigit() for side in sides)):
            raise UsageError(f"cannot read '{window}'", "--window", "write it as 769x769, or none")
        chosen["window_px"] = None if window == "none" else [int(side) for side in sides]
    return chosen


@rayseg.command()
@click.argument("run_dir", metavar="RUN", type=folder)
def audit(run_dir: Path) -> None:
    """Count from a run's own record how often each epoch used each sample; exit 3 where it was not once."""
    from rayseg.train.feed import audit as count

    count(run_dir, say)


@rayseg.command()
@click.argument("run_dir", metavar="RUN", type=folder)
@click.argument("images", nargs=-1, required=True, type=folder)
@click.option("--out", type=folder, required=True, help="Where the masks and the coloured overlays go.")
def predict(run_dir: Path, images: tuple[Path, ...], out: Path) -> None:
    """Write a mask (label values) and a coloured overlay for each image."""
    from rayseg.train.inference import predict_images

    for path in predict_images(run_dir, images, out):
        say(str(path))


rayseg.add_command(analyse)
rayseg.add_command(report)
rayseg.add_command(table)


# --- the local stack ------------------------------------------------------------------------------------------------


@rayseg.command()
def up() -> None:
    """Start the local stack: a Ray head and an MLflow server, on loopback."""
    from rayseg.cluster import closing, home, stack
    from rayseg.tracking import registry
    from rayseg.tracking.mlflow_tracker import replay, unsynced

    uri = stack.up(progress=say).tracking_uri
    for run_dir in closing.close_dead(home.runs()):
        say(f"closed: {run_dir.name}, whose process was killed")
    for run_dir in unsynced(home.runs()):
        report = replay(run_dir, uri)
        say(f"brought to MLflow: {run_dir.name}" if report.complete else f"warning: {run_dir}: {report.error}")
    for sweep_dir in registry.waiting(home.runs()):
        say(registry.register(sweep_dir, uri))


@rayseg.command()
def status() -> None:
    """Say what of the local stack is up, and where."""
    from rayseg.cluster import stack

    for line in stack.status().lines():
        say(line)


@rayseg.command()
def down() -> None:
    """End what `rayseg up` started, and nothing else."""
    from rayseg.cluster import stack

    for line in stack.down() or ["nothing was up"]:
        say(line)


@rayseg.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("entrypoint", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--no-wait", is_flag=True, help="Submit and return; the job's status is not waited for.")
@click.option("--address", help="Another head than the local stack's: http(s)://host:port of its dashboard.")
@click.option("--insecure", is_flag=True, help="Accept a head that asks for no token.")
@click.option("--working-dir", type=folder, help="What travels to another head; the repository's root when absent.")
def submit(
    entrypoint: tuple[str, ...], no_wait: bool, address: str | None, insecure: bool, working_dir: Path | None
) -> int:
    """Submit a job file to the local stack, stream its log, and exit as it does."""
    from rayseg.cluster.submit import submit as send

    command = [part for part in entrypoint if part != "--"]
    return send(command, wait=not no_wait, address=address, insecure=insecure, working_dir=working_dir)


@rayseg.command()
@click.argument("cluster_file", metavar="[FILE]", required=False, type=folder)
@click.option("--head-on-spot", is_flag=True, help="With FILE: accept a head that may be taken away.")
def doctor(cluster_file: Path | None, head_on_spot: bool) -> int:
    """Print versions, disk, devices and the stack, or what is wrong with a cluster's FILE, and how to mend it."""
    from rayseg.cluster import clusterfile
    from rayseg.cluster.doctor import examine, examine_file

    if cluster_file is None:
        if head_on_spot:
            raise UsageError("would be ignored without a cluster's file", "--head-on-spot", "name the file, or drop it")
        for line in examine():
            say(line)
        return 0
    found = examine_file(cluster_file, head_on_spot=head_on_spot)
    for finding in found:
        print(finding, file=sys.stderr if finding.is_error else sys.stdout, flush=True)
    if not any(finding.is_error for finding in found):
        say(f"{cluster_file}: nothing is wrong")
    return clusterfile.exit_code(found)


@rayseg.command()
@click.option("--out", type=folder, help="Where it is kept; RAYSEG_HOME/drill when absent, an earlier one replaced.")
@click.option("--dataset", default="scenes", show_default=True, help="The card of what it trains on.")
@click.option("--shards", help="The card's shards; looked for under RAYSEG_HOME when absent.")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def drill(out: Path | None, dataset: str, shards: str | None, as_json: bool) -> int:
    """Train a small run under eight faults (minutes), and say what they cost and whether they changed anything."""
    from rayseg.cluster import home
    from rayseg.drill import run as drills

    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # either way the server and the run end too
    if out is None:
        drills.clear(out := home.root() / "drill")
    if out.exists():
        raise UsageError("it exists", out, "name a folder that does not")
    tally = drills.drill(out.absolute(), say, dataset=dataset, given=shards)
    for line in [json.dumps(drills.as_dict(tally))] if as_json else tally.lines():
        say(line)
    return 0 if tally.fine else TrainingError.exit_code


# --- jobs -----------------------------------------------------------------------------------------------------------


def sweep_job(sweep: Sweep) -> NoReturn:
    """Be the command line of a job file that exports `SWEEP`."""
    from rayseg.sweep.preset import ALGORITHMS

    presets = "; ".join(f"{n}: {p.about}" for n, p in sweep.presets.items())

    @click.command(name=f"jobs/{sweep.name}_sweep.py", help=sweep.about)
    @click.option("--preset", default="demo", show_default=True, help=presets)
    @click.option("--dataset", help="A card instead of the preset's.")
    @click.option("--shards", type=str, help="Its shards; looked for under RAYSEG_HOME when absent.")
    @click.option(
        "--search",
        multiple=True,
        metavar="A.B=VALUES",
        help="Search this config field too, or other values of it: head.kernel_size=3,5,7 or optim.lr=1e-3..1e-1:log.",
    )
    @click.option(
        "--algorithm",
        type=click.Choice(ALGORITHMS),
        help="How to search. grid: all combinations; random: draws; tpe: draws that learn from earlier trials; asha, "
        "hyperband: stop the worse trials early; bohb: both; pbt: the worse go on from the better; ladder: cheap "
        "settings first. The preset's when absent.",
    )
    @click.option("--trials", type=click.IntRange(1), help="How many trials; a grid has its own number.")
    @click.option(
        "--objective",
        type=click.Choice(["parameters", "latency_ms"]),
        help="Beside a high mIoU, want this small too; the ranking marks the trials that no other beats in both.",
    )
    @click.option(
        "--seeds", type=click.IntRange(2), help="Finals: run the best trials again until each has so many seeds."
    )
    @click.option(
        "--top", type=click.IntRange(2), help="With --seeds: how many trials are in the finals; 2 when absent."
    )
    @click.option("--concurrent", type=click.IntRange(1), help="How many trials run at once; all that fit when absent.")
    @click.option(
        "--warm-start", is_flag=True, help="Take over what earlier sweeps in MLflow found, and run no point again."
    )
    @click.option("--plan", is_flag=True, help="Run nothing: measure a minute or less, and say what it will take.")
    @click.option(
        "--price",
        type=click.FloatRange(min=0),
        metavar="PER_HOUR",
        help="With --plan: what an hour costs, of one GPU where trials take GPUs, else of one node.",
    )
    @click.option("--name", help="The sweep's name; made from preset and time when absent.")
    @click.option("--resume", is_flag=True, help="Go on with the newest sweep of this preset, or with --name.")
    @setting
    def command(
        settings: tuple[str, ...],
        search: tuple[str, ...],
        objective: str | None,
        plan: bool,
        price: float | None,
        **chosen: Any,
    ) -> None:
        from rayseg.cluster.driver import run_sweep
        from rayseg.cluster.planning import show_plan
        from rayseg.config import parse_settings
        from rayseg.sweep.asked import parse_searches
        from rayseg.sweep.options import Options

        if price is not None and not plan:
            raise UsageError("would be ignored without --plan", "--price", "add --plan, or drop it")
        if plan and (chosen["resume"] or chosen["name"]):
            raise UsageError("would be ignored with --plan", "--resume or --name", "drop it: a plan is of a new sweep")
        chosen["objectives"] = ("miou", f"-{objective}") if objective else None
        options = Options(settings=parse_settings(settings), search=parse_searches(search), **chosen)
        if plan:
            show_plan(sweep, options, price=price, show=say)
        else:
            run_sweep(sweep, options, show=say)

    run(command)


# --- drawing --------------------------------------------------------------------------------------------------------


class _bar:  # noqa: N801 - used like a function
    """A progress bar on a terminal; a line every tenth elsewhere. Both give an ETA."""

    def __init__(self, title: str) -> None:
        self.title = title

    def __enter__(self) -> Callable[[int, int], None]:
        from rayseg.train.progress import Steps

        self.rich: Any = None
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            self.rich = Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            )
            self.rich.start()
            task = self.rich.add_task(self.title, total=None)
            return lambda done, total: self.rich.update(task, completed=done, total=total)
        return Steps(self.title, lambda line: print(line, file=sys.stderr, flush=True)).tick

    def __exit__(self, *_: object) -> None:
        if self.rich is not None:
            self.rich.stop()
