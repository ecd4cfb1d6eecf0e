"""`rayseg analyse RUN --figure NAME …`: a paper's figure of what its head does inside, for a run of one's own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from rayseg.analysis import catalogue
from rayseg.errors import UsageError

_HELP = """Draw what a run's head does inside, as its paper's figures show it: a PNG, and an NPZ with the arrays.

RUN is a run's directory, whose best commit is looked at, or one commit's; it is seen with the run's own precision
and test window. `--list` names
the figures, the heads that have them and what each is asked with.
"""
_ARRAYS = f"""Arrays of the NPZ (H, W: the image or window in pixels; h, w: the map; C: channels or classes):

{catalogue.arrays_text()}
"""
_folder = click.Path(path_type=Path)


@click.command(help=_HELP, epilog=_ARRAYS, short_help="Draw the papers' figures of what a head does inside.")
@click.argument("run_dir", metavar="[RUN]", required=False, type=_folder)
@click.option("--list", "listed", is_flag=True, help="Name the figures, and draw nothing.")
@click.option("--figure", metavar="NAME", help="One of --list's.")
@click.option("--image", "images", multiple=True, metavar="KEY", help="The sample's key; channel_weights takes two.")
@click.option("--point", metavar="Y,X", help="A pixel of the image, counted from 0 at its upper left corner.")
@click.option("--against", type=_folder, metavar="RUN", help="A second run to compare with.")
@click.option("--split", help="The split; the run's own validation split when absent.")
@click.option("--shards", metavar="DIR", help="Other shards than those it was trained on.")
@click.option("--out", type=_folder, metavar="DIR", help="Where the files go; RUN/analyses when absent.")
def analyse(run_dir: Path | None, listed: bool, figure: str | None, point: str | None, **given: Any) -> None:
    if listed:
        for name, value in {"RUN": run_dir, "--figure": figure, "--point": point, **given}.items():
            if value:
                raise UsageError("would be ignored with --list", name, "drop it, or drop --list")
        for line in catalogue.listing():
            click.echo(line)
        return
    if run_dir is None or figure is None:
        missing = "RUN" if run_dir is None else "--figure"
        raise UsageError("nothing to draw", missing, "rayseg analyse RUN --figure NAME; --list names the figures")
    catalogue.find(figure)  # before seconds go into imports
    _draw(run_dir, figure, given, None if point is None else parse_point(point))


def _draw(run_dir: Path, figure: str, given: dict[str, Any], point: tuple[int, int] | None) -> None:
    from rayseg.analysis.analyse import Request, analyse
    from rayseg.train.progress import Steps

    out = given.pop("out")
    told = Steps(f"analysing {run_dir}", lambda line: click.echo(line, err=True))
    report = analyse(run_dir, Request(figure, point=point, **given), out, progress=told.tick)
    for path in report.files:
        click.echo(str(path))
    for name, value in report.numbers.items():
        click.echo(f"{name}: {value}")


def parse_point(text: str) -> tuple[int, int]:
    """Read `Y,X`.

    Raises:
        UsageError: it is not two whole numbers.
    """
    if not re.fullmatch(r"-?\d{1,9},-?\d{1,9}", text.replace(" ", "")):
        raise UsageError(f"cannot read '{text[:40]}'", "--point", "write it as Y,X in pixels, for example 40,60")
    y, x = text.split(",")
    return int(y), int(x)
