"""The report's page: one HTML file without a request to anywhere, from the verdict down to how to run the winner again.

Every text on it goes through `markup`; the policy lets the browser run the page's own script and fetch nothing.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from urllib.parse import quote

from rayseg.data import page_style
from rayseg.data.markup import Markup, isolated, join, tag
from rayseg.report import charts, levels, lines, look, tables
from rayseg.report.trials import CURVES
from rayseg.report.values import Report, Trial
from rayseg.report.verdict import verdict
from rayseg.sweep import pareto

COSTS = {"-parameters": "parameters (M)", "-latency_ms": "ms an image"}


def render(report: Report) -> str:
    """Make the page's HTML."""
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=look.POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"{report.name}: which won, and by how much"),
        tag("style", Markup(page_style.CSS + look.CSS)),
    ]
    body = [tag("main", list(_sections(report))), tag("div", id="say", role="tooltip")]
    body.append(tag("script", Markup(look.SCRIPT)))
    return f"<!DOCTYPE html>\n{tag('html', tag('head', head), tag('body', body), lang='en')}\n"


def _sections(report: Report) -> Iterator[Markup]:
    yield _header(report)
    yield _ranking(report)
    yield _parallel(report)
    yield _heat_map(report)
    yield _marginals(report)
    yield _curves(report)
    yield _front(report)
    yield _pictures(report)
    yield _classes(report)
    yield _section("What it took", tables.pairs(tables.costs(report)))
    yield _rerun(report)
    yield _section("What stands behind it", tables.pairs([*report.facts.items()]))
    yield tag("footer", "Made from the sweep's folder; nothing on this page is fetched.")


def _section(title: str, *parts: object, about: str = "") -> Markup:
    return join([tag("h2", title), tag("p", about, class_="soft") if about else None, *parts])


def _warning(words: str) -> Markup:
    return tag("p", words, class_="warning")


def _header(report: Report) -> Markup:
    said = verdict(report)
    box = [tag("b", isolated(said.line)), tag("p", said.means)]
    parts = [tag("h1", isolated(report.name)), tag("p", isolated(report.about), class_="soft")]
    parts.append(tag("div", box, class_=f"verdict {said.kind}"))
    if said.standing:
        parts.append(_warning(said.standing))
    if report.finals is not None and report.finals.pairs:
        parts.append(tables.finalists(report.finals))
        level = report.finals.pairs[0].level
        over = f"{100 * level:.4g} % interval, paired over {report.finals.images} validation images"
        about = f"How far the best is above the others: difference of mIoU and its {over}."
        parts.append(tag("p", about, class_="soft"))
        parts.append(charts.intervals(report.finals.pairs))
    notes = [tag("li", isolated(note)) for note in report.notes]
    return tag("header", parts, tag("ul", notes, class_="findings") if notes else None)


def _ranking(report: Report) -> Markup:
    about = "By best mIoU. A heading sorts. “To the best” is known of finalists: mIoU of the trial minus the best's, "
    about += "with its interval. Boundary F1 is of the evaluation with the best mIoU; its 3 px are at 1024x2048."
    return _section("Ranking", tables.ranking(report), about=about)


def _parallel(report: Report) -> Markup:
    kept = tag("p", tag("span"), tag("button", "show all", type="button"), id="kept", hidden="")
    if not report.searched:
        return _section("All trials", tag("p", "Nothing was searched that differs.", class_="soft"))
    drawn = lines.parallel(report.trials, report.searched, report.winner)
    least = f"--least:{56 * (len(report.searched) + 1)}px"
    about = "A line a trial, stronger the better, the best thick. Drag along an axis to keep only that range."
    return _section(
        "All trials over what was searched", tag("div", drawn, class_="wide", style=least), kept, about=about
    )


def _heat_map(report: Report) -> Markup:
    by_name = {each.name: each for each in report.searched}
    if report.picture is None or not all(name in by_name for name in report.picture):
        return join([])
    pair = by_name[report.picture[0]], by_name[report.picture[1]]
    grid = levels.grid(pair, report.trials)
    if not grid.counts.any():
        return join([])
    names = (pair[0].label, pair[1].label)
    title = f"{names[0].replace('_', ' ').capitalize()} and {names[1].replace('_', ' ')}"
    about = "Best mIoU of each pair of values and how many trials ran there; the best is framed."
    return _section(title, tag("div", charts.heat_map(grid, names), class_="wide"), about=about)


def _marginals(report: Report) -> Markup:
    counted = [trial for trial in report.trials if trial.counts]
    if not report.searched:
        return join([])
    scores = [trial.miou or 0.0 for trial in counted]
    panels = [
        tag("div", tag("h3", isolated(each.name)), tables.of_levels(found, min(scores), max(scores)))
        for each in report.searched
        if each.name not in report.rungs and (found := levels.marginal(each, counted))
    ]
    warnings = [_warning(words) for words in _doubts(report, counted)]
    about = "Mean of the best mIoU over all trials that had a value, whatever else they had; spread is the standard "
    about += "deviation of these trials, not an error of the mean."
    return _section("Effect of each searched value", warnings, tag("div", panels, class_="panels"), about=about)


def _doubts(report: Report, counted: list[Trial]) -> Iterator[str]:
    """Say what keeps these means from being effects."""
    found = levels.confounded([each for each in report.searched if each.name not in report.rungs], counted)
    if found:
        said = ", ".join(f"{one} with {other} (V = {v:.2f})" for one, other, v in found[:6])
        more = f" and {len(found) - 6} more pairs" if len(found) > 6 else ""
        yield f"Confounded: these values did not vary apart, so an effect of one may be the other's: {said}{more}."
    if any(name in trial.point for trial in counted for name in report.rungs):
        yield f"Trials of cheaper rungs are among these means; a rung sets {', '.join(report.rungs)}."
    elif len({trial.step for trial in counted}) > 1:
        yield "Trials ended at different steps, and a search that stops the worse ones favours what starts fast."


def _curves(report: Report) -> Markup:
    ranked = [trial for trial in report.trials if trial.counts]
    others = [trial for trial in report.trials if not trial.counts]
    drawn = [lines.curves([*ranked, *others], name, words) for name, words in CURVES.items()]
    about = (
        f"The best {min(lines.NAMED, len(report.trials))} in colour, the others grey. Point at one to see which it is."
    )
    panels = [tag("div", each, class_="wide", style="--least:640px") for each in drawn if each is not None]
    return _section("Curves", panels, about=about) if panels else join([])


def _front(report: Report) -> Markup:
    if len(report.objectives) < 2 or report.objectives[1] not in COSTS:
        return join([])
    name = report.objectives[1].lstrip("-")
    scale = 1e-6 if name == "parameters" else 1.0
    shown = [trial for trial in report.trials if trial.counts and getattr(trial, name)]
    if not shown:
        return join([])
    costs = [scale * getattr(trial, name) for trial in shown]
    points = [(t.key, (t.miou or 0.0, -cost)) for t, cost in zip(shown, costs, strict=True)]
    best = set(pareto.front(points))
    drawn = charts.front(shown, costs, best, COSTS[report.objectives[1]])
    return _section("Pareto front", drawn, about="Diamonds are trials that no other one beats in both.")


def _pictures(report: Report) -> Markup:
    if not report.pictures:
        return _section("Hardest images", tag("p", "No trial has left pictures yet.", class_="soft"))
    parts = []
    for picture in report.pictures:
        source = f"data:{picture.media};base64,{base64.b64encode(picture.data).decode()}"
        parts += [tag("h3", picture.about), tag("img", src=source, alt=picture.about, class_="sheet")]
    return _section("Hardest images", parts)


def _classes(report: Report) -> Markup:
    if not report.classes:
        return join([])
    if report.winner == report.base:
        about = f"The best trial {report.winner} is the base trial itself."
    else:
        about = f"IoU of {report.winner} minus that of the base trial {report.base}; hatched is a loss."
    return _section("Class by class", tag("div", tables.classes(report.classes), class_="scroll"), about=about)


def _rerun(report: Report) -> Markup:
    if (again := report.rerun) is None:
        return _section(
            "Run it again", tag("p", "The best trial's config cannot be read here; see above.", class_="soft")
        )
    trial = report.trial(report.winner)
    parts: list[object] = []
    if trial.donor:
        said = f"It went on from the weights of {trial.donor}: this line trains its config from the start."
        parts.append(_warning(said))
    if again.why:
        parts.append(_warning(f"Not the same run: {again.why}."))
    save = tag("a", "winner.toml", href=f"data:text/plain;charset=utf-8,{quote(again.toml)}", download="winner.toml")
    if again.with_file:
        parts.append(tag("p", "First keep the recipe of this page as ", save, "."))
    parts += [tag("pre", again.train), tag("p", "Evaluate the trial as it lies here:"), tag("pre", again.evaluate)]
    whole = tag("summary", f"The whole config of {report.winner}, as a recipe")
    parts.append(tag("details", whole, tag("p", save), tag("pre", again.toml)))
    return _section("Run it again", parts, about=f"{report.winner} over the sweep's recipe, as a line for a shell.")
