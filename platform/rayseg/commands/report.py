"""`rayseg report SWEEP --out report.html`: a sweep as one page that needs no network and no server."""

from __future__ import annotations

from pathlib import Path

import click

from rayseg.errors import UsageError

_folder = click.Path(path_type=Path)


@click.command(short_help="Write a sweep as one HTML page: which won, by how much, and why.")
@click.argument("sweep")
@click.option(
    "--out", type=_folder, metavar="HTML", help="The page; replaced if it exists. SWEEP/report.html if absent."
)
def report(sweep: str, out: Path | None) -> None:
    """Write a sweep as one page: ranking, effects, curves, hard images, cost, and how to run the winner again.

    SWEEP is a sweep's folder, or its name under RAYSEG_HOME/runs. The page is made of that folder alone, also while
    the sweep runs; it fetches nothing.
    """
    if out is not None:
        _check(out)
    from rayseg.durable import write_atomically
    from rayseg.report import gather, page

    place = found(sweep)
    made, out = gather.gather(place), out or place / "report.html"
    text = page.render(made).encode("utf-8", "replace").decode()
    try:
        write_atomically(out, text)
    except OSError as error:
        raise UsageError(f"cannot write it: {error.strerror}", out, "name another --out") from None
    click.echo(f"{out}: {len(made.trials)} trials, {len(text.encode()) / 2**20:.1f} MiB")


def found(sweep: str) -> Path:
    """Find a sweep's folder by its path, or by its name."""
    from rayseg.cluster import home

    path = Path(sweep)
    if not path.exists() and home.RUN_NAME.fullmatch(sweep):
        path = home.location() / "runs" / sweep
    return path.absolute()


def _check(out: Path) -> None:
    if out.is_dir():
        raise UsageError("a folder", out, "name a file, such as report.html")
    if not out.parent.is_dir():
        raise UsageError("its folder does not exist", out, "make it, or name another --out")
