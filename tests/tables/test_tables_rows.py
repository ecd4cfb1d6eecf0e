"""Every row of every table is a run of its own that can be built, and has the figure that its paper prints."""

import re
from pathlib import Path

import pytest

from looks import SLIM
from rayseg import config as configs
from rayseg import losses, recipe, segmenter
from rayseg.errors import UsageError
from rayseg.sweep.trial import built
from rayseg.tables import TABLES, find
from rayseg.tables.asked import ask, numbered

PAPERS = Path(__file__).parents[2].parent / "shared" / "papers"
TEXTS = {"dgcw": "dgcwnet", "dfdam": "df_dam", "gald": "gald", "dfn": "dfn", "dnl": "denoised_nl"}
NUMBERED = {  # how each paper numbers its ablation tables
    "dgcw": {"1", "2", "3"},
    "dfdam": {"1", "2", "3", "5"},
    "gald": {"1a", "1b", "1c", "1d", "2a", "2b", "2c", "3"},
    "dfn": {"1", "2", "3", "4", "fig8"},
    "dnl": {"2", "3", "4"},
}


def test_the_names_are_the_papers_numbers():
    found = {}
    for name in TABLES:
        paper, _, number = name.partition("-")
        found.setdefault(paper, set()).add(number)
    assert found == NUMBERED
    assert all(table.name == name for name, table in TABLES.items())


def of(table, recipe_name, settings):
    return ask(table, recipe_name, "anywhere", settings, 1)


@pytest.mark.parametrize("name", TABLES)
def test_each_row_builds_a_model_and_its_loss_and_no_two_rows_are_one_run(name):
    """On the paper's own recipe, with a small backbone where backbones are not what the rows differ in."""
    table = TABLES[name]
    differing = {setting for row in table.rows for setting in row.settings or ()}
    slim = {} if any(setting.startswith("backbone.") for setting in differing) else SLIM
    asked = of(table, table.recipe, slim)
    for line in asked.lines:
        assert bool(line.trials) == (line.row.settings is not None), line.why
        assert line.trials or line.why
    trials = numbered(asked.trials())
    assert built(trials, 19)  # raises where a model or a loss cannot be built, or two are alike
    assert len({trial.key for trial in trials}) == len(trials)


@pytest.mark.parametrize("name", TABLES)
def test_all_else_is_the_papers_recipe(name):
    table = TABLES[name]
    own = configs.from_dict(configs.merged(recipe.load(table.recipe).run, {"data.shards": "anywhere"}))
    for line in of(table, table.recipe, {}).lines:
        for trial in line.trials:
            for part in ("optim", "train", "test", "augment", "backbone"):
                if not any(setting.startswith(f"{part}.") for setting in line.row.settings):
                    assert getattr(trial.config, part) == getattr(own, part), (part, line.row)


def flat_text(paper):
    path = PAPERS / f"{TEXTS[paper]}.md"
    if not path.exists():
        pytest.skip(f"the paper's text is not here: {path}")
    return re.sub(r"\s+", " ", path.read_text("utf-8"))


SPOTS = {  # a row of the table, and how the paper's text has its label and figure
    "dgcw-1": ("R101-ASPP + DGCW (tanh)", r"ResNet-101-ASPP \+ DGCW\(tanh\) (\S+)"),
    "dgcw-2": ("R101-PPM + NL-H", r"ResNet-101-PPM \+ NL-H (\S+)"),
    "dgcw-3": ("+ OHEM", r"Baseline \+ OHEM (\d\S+)"),
    "dfdam-1": ("R101, DAFM", r"Res101 DAFM (\d\S+)"),
    "dfdam-2": ("DAFM + 2DPAM", r"Res18 DAFM \+ 2DPAM (\S+)"),
    "dfdam-3": ("+ MS + flip", r"Ours \(Res18\) √ √ (\S+)"),
    "dfdam-5": ("+ MS", r"Ours \(Res101\) √ (\d\S+)"),
    "gald-1a": ("FCN + CGNL", r"\+CGNL \[13\] (\S+)"),
    "gald-1b": ("+ NL + LDv1", r"\+NL \+ LDv1 (\S+)"),
    "gald-1c": ("+ LDGA", r"\+LDGA (\S+)"),
    "gald-1d": ("+ LDv2", r"- - \+LDv2 (\d\S+)"),
    "gald-2a": ("+ CGNL + LD, average", r"\+CGNL\+LD\(average pooling\) (\S+)"),
    "gald-2b": ("+ ASPP + LDv2, k=7 r=6", r"\+ASPP\+LDv2\(k=7×7,r=6[^)]*\) (\S+)"),
    "gald-2c": ("query", r" Query - (\S+)"),
    "dfn-1": ("Res-101", r"Random_Scale Mean IOU\(%\) Res-101 (\S+)"),
    "dfn-2": ("+ RRB + GP + DS", r"Res-101\+RRB\+GP\+DS (\S+)"),
    "dfn-3": ("Res-101 + SN + BN", r"Res-101\+SN\+BN (\S+)"),
    "dnl-3": ("R-101, PPM", r"Baseline \(R-101\) 77\.9 \+PPM (\S+)"),
    "dnl-4": ("R-50, DRANet*", r"Baseline \(R-50\).*?\+DRANet\* (\S+)"),
}


@pytest.mark.parametrize("name", SPOTS)
def test_a_figure_is_what_the_papers_text_has(name):
    label, pattern = SPOTS[name]
    printed = re.search(pattern, flat_text(name.partition("-")[0])).group(1)
    (row,) = [row for row in TABLES[name].rows if row.label == label]
    assert float(row.published) == float(printed)


@pytest.mark.parametrize("name", TABLES)
def test_every_figure_stands_in_the_papers_text(name):
    text = flat_text(name.partition("-")[0])
    for row in TABLES[name].rows:
        assert not row.published or re.search(rf"(?<!\d){re.escape(row.published)}(?!\d)", text), row


def test_an_option_of_the_recipe_stays_in_the_rows_that_read_it():
    """The recipe for drawn scenes has narrow borders, 64 channels; Smooth Networks without borders read no borders."""
    asked = of(find("dfn-3"), "dfn/scenes", {})
    smooth, whole = (line.trials[0].config for line in asked.lines[:2])
    assert (smooth.head.channels, smooth.head.border, smooth.loss.border_width) == (64, False, None)
    assert (whole.head.channels, whole.head.border, whole.loss.border_width) == (64, True, 3)
    for config in (smooth, whole):
        model = segmenter.skeleton(config.model(5))
        losses.for_model(config.loss, model, ignore_index=255, num_classes=5)
    bare = of(find("dgcw-1"), "dgcw/scenes", {}).lines[0].trials[0].config
    assert (bare.head.context, bare.head.channels) == ("none", None)


def test_an_option_that_some_rows_read_may_be_set_and_one_that_none_reads_may_not():
    asked = of(find("gald-1a"), "gald/scenes", {})
    assert all(line.trials[0].config.head.kernel_size is None for line in asked.lines)
    with pytest.raises(UsageError, match="no row of gald-1a reads it"):
        of(find("gald-1a"), "gald/scenes", {"head.kernel_size": 3})
    asked = of(find("gald-1d"), "gald/scenes", {"train.steps": 7})
    assert {trial.config.train.steps for trial in asked.trials()} == {7}


@pytest.mark.parametrize("name", ["head.dilation", "seed", "head.name"])
def test_what_the_rows_are_made_of_is_not_to_be_set(name):
    with pytest.raises(UsageError, match=f"'{name}' is what the rows of gald-2b are made of"):
        of(find("gald-2b"), "gald/scenes", {name: 1})


def test_a_row_that_does_not_hold_over_a_recipe_says_why_and_the_others_stand():
    lines = of(find("dgcw-3"), "dgcw/scenes", {"augment.crop_px": [64, 64]}).lines
    assert lines[0].trials
    assert not lines[1].trials
    assert lines[1].why.startswith("not over this recipe: loss.ohem_min_kept = 100000 of a batch of 32768 pixels")


def test_an_unknown_table_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean 'gald-2b'"):
        find("gald-2bb")


@pytest.mark.parametrize("paper", NUMBERED)
def test_a_run_that_stands_in_two_tables_has_one_figure(paper):
    figures = {}
    for name in (name for name in TABLES if name.startswith(paper)):
        for line in of(TABLES[name], TABLES[name].recipe, {}).lines:
            for trial in line.trials:
                if line.row.published:
                    figures.setdefault(trial.key, {})[name] = float(line.row.published)
    assert any(len(where) > 1 for where in figures.values()) or paper == "dfdam"
    assert all(len(set(where.values())) == 1 for where in figures.values()), figures
