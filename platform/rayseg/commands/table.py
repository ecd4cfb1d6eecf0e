"""`rayseg table NAME …`: a paper's ablation table, each row's printed figure beside what our runs came to."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

from rayseg.errors import UsageError

_HELP = """Print a paper's ablation table beside our figures; without NAME, list the tables.

Ours are the finished runs of exactly these rows, in MLflow and in the folders here: mean and spread over the seeds, on
which data, after how many steps. Over another recipe or data set than the paper's the figures are no match for the
paper's, and the table says so. With --run the missing ones are trained first; typed again, it goes on.
"""


@click.command(help=_HELP, short_help="Print a paper's ablation table beside our figures; run what is missing.")
@click.argument("name", required=False)
@click.option("--recipe", help="What the rows are settings of; the paper's own recipe when absent.")
@click.option("--dataset", metavar="CARD", help="A card instead of the recipe's.")
@click.option("--shards", metavar="DIR", help="Its shards; looked for under RAYSEG_HOME when absent.")
@click.option(
    "--seeds",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="So many seeds a row. When absent: all of the first 16 that are there; with --run, one.",
)
@click.option("--set", "settings", multiple=True, metavar="A.B=C", help="Set a config field of all rows.")
@click.option("--run", "running", is_flag=True, help="Train what is missing, in the experiment table-NAME-CARD.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def table(name: str | None, running: bool, as_json: bool, **given: Any) -> None:
    if name is None:
        _list(as_json, running, given)
        return
    from rayseg.tables import find

    find(name)  # before seconds go into imports
    _print(name, running, as_json, given)


def _list(as_json: bool, running: bool, given: dict[str, Any]) -> None:
    for option, value in {"--run": running, **{f"--{name}": value for name, value in given.items()}}.items():
        if value:
            raise UsageError("would be ignored without a table's name", option.replace("settings", "set"), "name one")
    from rayseg.tables import TABLES
    from rayseg.tables.text import listing

    if as_json:
        click.echo(json.dumps([{"name": t.name, "title": t.title, "source": t.source} for t in TABLES.values()]))
        return
    for line in listing(list(TABLES.values())):
        click.echo(line)


def _print(name: str, running: bool, as_json: bool, given: dict[str, Any]) -> None:
    from rayseg.cluster.tabling import Wish, read, run_missing, subject
    from rayseg.config import parse_settings
    from rayseg.tables import text

    def show(line: str) -> None:
        print(line, file=sys.stderr if as_json else sys.stdout, flush=True)

    seeds = given.pop("seeds") or (1 if running else None)
    wish = Wish(name, seeds=seeds, **given | {"settings": parse_settings(given["settings"])})
    about = subject(wish, show)
    page = run_missing(wish, about, show) if running else read(about, show)
    if as_json:
        click.echo(json.dumps(text.plain(page), indent=1))
        return
    for line in text.lines(page):
        click.echo(line)
