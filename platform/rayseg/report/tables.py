"""The tables of a report: the ranking, the finalists, levels of a searched value, classes, and what it all took."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from rayseg.data.markup import Markup, isolated, tag
from rayseg.report.charts import dots
from rayseg.report.levels import Level
from rayseg.report.values import OfClass, Report, Trial
from rayseg.sweep.judged import Judged, Pair
from rayseg.sweep.trial import short
from rayseg.train.progress import duration


def cell(words: object, value: object = "", *, look: str | None = "n") -> Markup:
    """Make a cell; `value` is what a column is sorted by, nothing for what is not known."""
    return tag("td", words, class_=look, data_v="" if value is None else value)


def number(value: float | None, form: str = ".4f", unit: str = "") -> Markup:
    """Make a cell of a number; a dash where there is none."""
    return cell("–" if value is None else f"{value:{form}}{unit}", value)


def heads(names: Sequence[str], *, words: Collection[str] = ()) -> Markup:
    """Make a row of headings that sort their columns; those in `words` are of text."""
    cells = [tag("th", tag("button", name, type="button"), class_=None if name in words else "n") for name in names]
    return tag("thead", tag("tr", cells))


def ranking(report: Report) -> Markup:
    """Show all trials, the best first, those that failed and further seeds last."""
    timed = any(trial.latency_ms for trial in report.trials)
    bounded = any(trial.boundary is not None for trial in report.trials)
    to_best = {pair.other: pair for pair in report.finals.pairs} if report.finals else {}
    names = ["rank", "trial", *(each.label for each in report.searched), "mIoU", *(["to the best"] if to_best else [])]
    names += [*(["boundary F1 3px"] if bounded else []), "parameters", *(["ms an image"] if timed else [])]
    names += ["steps", "time", "why it ended"]
    rows, rank = [], 0
    for trial in report.trials:
        rank += trial.counts
        cells = [cell(rank if trial.counts else "–", rank if trial.counts else None)]
        cells.append(cell(tag("code", trial.key), trial.key, look=None))
        cells += [_searched(trial, each.name) for each in report.searched]
        cells += [number(trial.miou), *([_against(trial, report, to_best)] if to_best else [])]
        cells += [number(trial.boundary)] if bounded else []
        cells.append(number(None if trial.parameters is None else trial.parameters / 1e6, ".2f", " M"))
        cells += [number(trial.latency_ms, ".1f")] if timed else []
        cells.append(cell(f"{trial.step} / {trial.steps}" if trial.steps else trial.step, trial.step))
        spent = trial.costs.seconds
        cells += [cell("–" if spent is None else duration(spent), spent), _why(trial)]
        rows.append(tag("tr", cells, data_key=trial.key, class_="best" if trial.key == report.winner else None))
    table = tag("table", heads(names, words={"trial", "why it ended"}), tag("tbody", rows), class_="ranking sortable")
    return tag("div", table, class_="scroll")


def _searched(trial: Trial, name: str) -> Markup:
    """Make a cell of a searched value, sorted as a number where it is one."""
    if name not in trial.point:
        return cell("–", None)
    value = trial.point[name]
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return cell(isolated(short(value)), value if is_number else short(value))


def _against(trial: Trial, report: Report, to_best: Mapping[str, Pair]) -> Markup:
    pair = to_best.get(trial.key)
    if pair is None:
        is_best = report.finals is not None and trial.key == report.winner
        return cell("best of the finals" if is_best else "–", None)
    difference, low, high = -pair.difference, -pair.high, -pair.low
    return cell(f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]", difference)


def _why(trial: Trial) -> Markup:
    more = [f"goes on from {trial.donor}"] if trial.donor else []
    more += ["a further seed of a finalist: not in the ranking"] if trial.further else []
    known = trial.state in trial.why if trial.why else False
    said = trial.why if known else ": ".join(filter(None, [trial.state, trial.why]))
    return cell(isolated("; ".join([said, *more])), trial.state, look="why")


def finalists(finals: Judged) -> Markup:
    """Show the finalists with all their seeds."""
    rows = []
    for each in finals.finalists:
        runs = ", ".join(f"{miou:.4f} (seed {seed})" for miou, seed in zip(each.miou, each.seeds, strict=True))
        spread = "–" if each.spread is None else f"± {each.spread:.4f}"
        cells = [tag("td", tag("code", each.key)), tag("td", f"{each.mean:.4f}", class_="n")]
        rows.append(tag("tr", cells, tag("td", spread, class_="n"), tag("td", runs), data_key=each.key))
    head = [
        tag("th", name, class_="n" if "m" in name else None) for name in ("finalist", "mean mIoU", "spread", "runs")
    ]
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))


def of_levels(found: Sequence[Level], low: float, high: float) -> Markup:
    """Show mIoU at each level of a searched value."""
    rows = []
    for level in found:
        spread = "–" if level.spread is None else f"± {level.spread:.4f}"
        cells = [tag("td", isolated(level.text)), tag("td", len(level.miou), class_="n")]
        cells += [tag("td", f"{level.mean:.4f}", class_="n"), tag("td", spread, class_="n")]
        rows.append(tag("tr", cells, tag("td", dots(level, low, high), style="width:250px")))
    names = {"value": None, "trials": "n", "mean": "n", "spread": "n", "each trial, and the mean": None}
    head = [tag("th", name, class_=look) for name, look in names.items()]
    return tag("table", tag("thead", tag("tr", head)), tag("tbody", rows))


def classes(found: Sequence[OfClass]) -> Markup:
    """Show how far the winner's classes are from the base trial's, the largest gain first."""
    apart = {each.name: _apart(each) for each in found}
    order = sorted(found, key=lambda each: (apart[each.name] is None, -(apart[each.name] or 0.0)))
    most = max((abs(v) for v in apart.values() if v is not None), default=0.0) or 1.0
    rows = []
    for each in order:
        change = apart[each.name]
        cells = [cell(isolated(each.name), each.name, look="name"), number(each.here), number(each.base)]
        cells += [number(change, "+.4f"), tag("td", _bar(change, most))]
        rows.append(tag("tr", cells))
    names = ["class", "best", "base", "difference"]
    head = heads(names, words={"class"})
    return tag("table", head, tag("tbody", rows), class_="sortable")


def _apart(each: OfClass) -> float | None:
    return None if each.here is None or each.base is None else each.here - each.base


def _bar(change: float | None, most: float) -> Markup:
    length = 0.0 if change is None else 100 * abs(change) / most
    gain, style = (change or 0.0) > 0, f"width:{length:.1f}%"
    loss_bar = tag("i", class_="minus", style=style) if not gain else ""
    gain_bar = tag("i", class_="plus", style=style) if gain else ""
    return tag("span", tag("span", loss_bar), tag("span", gain_bar), class_="apart")


def pairs(found: Sequence[tuple[str, object]]) -> Markup:
    """Make a list of names and what they are."""
    return tag("dl", [[tag("dt", name), tag("dd", isolated(value))] for name, value in found])


def costs(report: Report) -> list[tuple[str, str]]:
    """Add up what the sweep took."""
    spent = [t.costs for t in report.trials if t.costs.seconds is not None and t.state != "known"]
    seconds, samples = sum(c.seconds or 0.0 for c in spent), sum(t.costs.samples for t in report.trials)
    measured = [c for c in spent if c.training_s is not None]
    of_measured = sum(c.seconds or 0.0 for c in measured)
    training = sum(c.training_s or 0.0 for c in measured)
    stopped = [t for t in report.trials if t.state == "stopped"]
    spared = sum(t.costs.spared_steps for t in stopped)
    rows = [("trial hours", f"{seconds / 3600:.3f} over {len(spent)} trials that are over")]
    if report.wall_s is not None:
        rows.append(("first to last word", f"{report.wall_s / 3600:.3f} h on the clock, pauses among them"))
    rows.append(("samples seen", f"{samples:,} in training"))
    if seconds:
        pace = sum(c.samples for c in spent) / seconds
        rows.append(("samples/s", f"{pace:.2f} a trial, evaluations and start-up among the time"))
    if of_measured:
        rows.append(("goodput", f"{training / of_measured:.1%} of the trials' time was updates that made the weights"))
    rows.append(("stopped early", f"{len(stopped)} of {len(report.trials)} trials, {spared:,} steps not run"))
    return rows
