"""The jobs' paper presets have the rows of the papers' tables, no more and no fewer, and their recipes' values.

The tables are written from the papers: what differs between the rows, and the mIoU that they print.
"""

import pytest

from looks import loss_of, model_of, optimizer_of, sample_of
from rayseg import config as configs
from rayseg import recipe
from rayseg.sweep.trial import trials
from test_jobs import JOBS, sweep_of

DGCW = {  # Tables 1 and 2 of DGCWNet: base, what is stacked upon it, the normalisation
    ("none", "none", None): 75.65,
    ("none", "dgcw", "dbs"): 77.81,
    ("none", "conv", None): 75.90,
    ("none", "dgcw", "softmax"): 77.46,
    ("none", "dgcw", "tanh"): 77.44,
    ("psp", "none", None): 77.88,
    ("psp", "dgcw", "dbs"): 79.60,
    ("psp", "conv", None): 78.19,
    ("psp", "dgcw", "softmax"): 79.19,
    ("psp", "dgcw", "tanh"): 79.14,
    ("aspp", "none", None): 78.61,
    ("aspp", "dgcw", "dbs"): 80.43,
    ("aspp", "conv", None): 78.75,
    ("aspp", "dgcw", "softmax"): 79.95,
    ("aspp", "dgcw", "tanh"): 79.92,
    ("none", "gap", None): 76.01,
    ("none", "se", None): 76.22,
    ("none", "nl", None): 77.34,
    ("none", "nl_reduced", None): 76.85,
    ("psp", "gap", None): 78.25,
    ("psp", "se", None): 78.41,
    ("psp", "nl", None): 78.79,
    ("psp", "nl_reduced", None): 78.03,
    ("aspp", "gap", None): 78.78,
    ("aspp", "se", None): 78.83,
    ("aspp", "nl", None): 79.60,
    ("aspp", "nl_reduced", None): 78.97,
}
DFDAM = {(False, False): 70.3, (True, False): 72.8, (True, True): 73.1}  # Table 2: DAFM, 2DPAM
DFDAM_VOC = {  # Table 1
    ("resnet50", False, False): 68.2,
    ("resnet50", True, False): 73.7,
    ("resnet50", True, True): 74.6,
    ("resnet101", False, False): 72.9,
    ("resnet101", True, False): 76.8,
    ("resnet101", True, True): 77.9,
}
NO = (None, None, None)
DFN = {  # random scales; RRB; global pooling, CAB, deep supervision; lambda of the Border Network
    (False, False, NO, None): 69.26,  # Table 1
    (True, False, NO, None): 72.86,  # Tables 1 and 2
    (True, True, (False, False, False), None): 76.65,  # Table 2
    (True, True, (True, False, False), None): 78.20,
    (True, True, (True, True, False), None): 79.31,
    (True, True, (False, False, True), None): 77.08,
    (True, True, (True, False, True), None): 78.51,
    (True, True, (True, True, True), None): 79.54,
    (True, True, (True, True, True), 0.1): 79.67,  # Table 3; Figure 8 prints no numbers
    (True, True, (True, True, True), 0.05): None,
    (True, True, (True, True, True), 0.5): None,
    (True, True, (True, True, True), 0.75): None,
    (True, True, (True, True, True), 1.0): None,
}
DENOISED = {  # Table II; GR and LR, both off being Table IV's NL
    ("resnet50s", None, None): 76.7,
    ("resnet50s", False, False): 79.5,
    ("resnet50s", True, False): 81.2,
    ("resnet50s", False, True): 81.4,
    ("resnet50s", True, True): 82.0,
    ("resnet101s", None, None): 77.9,
    ("resnet101s", False, False): 80.6,
    ("resnet101s", True, False): 82.3,
    ("resnet101s", False, True): 82.5,
    ("resnet101s", True, True): 83.5,
}
GALD = {  # Table II(b): GA, kernel size, dilation
    ("none", None, None): 73.7,
    ("none", 3, 3): 76.2,
    ("none", 5, 3): 77.2,
    ("none", 5, 6): 77.5,
    ("none", 7, 6): 78.9,
    ("aspp", None, None): 77.2,
    ("aspp", 3, 3): 79.9,
    ("aspp", 3, 6): 79.8,
    ("aspp", 5, 3): 80.2,
    ("aspp", 5, 6): 80.8,
    ("aspp", 7, 6): 80.3,
}
PARTS = {  # Tables I(a), (b), (d); (c); II(a); II(c): GA, LD, arrangement, how the mask shrinks, who sees [X_g; X]
    ("none", "none", None, None, None): 73.7,
    ("aspp", "none", None, None, None): 77.2,
    ("nl", "none", None, None, None): 78.0,
    ("psp", "none", None, None, None): 76.2,
    ("cgnl", "none", None, None, None): 78.2,
    ("none", "v1", None, "depthwise", None): 77.5,
    ("psp", "v1", "gald", "depthwise", None): 78.9,
    ("aspp", "v1", "gald", "depthwise", None): 79.5,
    ("nl", "v1", "gald", "depthwise", None): 79.2,
    ("cgnl", "v1", "gald", "depthwise", None): 79.6,
    ("cgnl", "v1", "parallel", "depthwise", None): 77.5,
    ("cgnl", "v1", "ldga", "depthwise", None): 78.1,
    ("none", "v2", None, None, None): 78.9,
    ("psp", "v2", "gald", None, "both"): 80.2,
    ("aspp", "v2", "gald", None, "both"): 80.8,
    ("nl", "v2", "gald", None, "both"): 79.9,
    ("cgnl", "v2", "gald", None, "both"): 80.1,
    ("cgnl", "v1", "gald", "bilinear", None): 77.6,
    ("cgnl", "v1", "gald", "average", None): 76.5,
    ("aspp", "v2", "gald", None, "key"): 80.1,
    ("aspp", "v2", "gald", None, "query"): 79.8,
}
HEADS = {  # Denoised NL's Tables III and IV, on ResNet-50 and on ResNet-101
    ("denoised_nl", False): (76.7, 77.9),
    ("psp", None): (77.6, 79.0),
    ("aspp", None): (77.9, 79.2),
    ("nonlocal_net", None): (79.5, 80.6),
    ("ocnet", None): (80.3, 81.3),
    ("ccnet", None): (79.9, 81.1),
    ("danet", None): (80.3, 81.2),
    ("dranet", None): (80.2, 81.1),
    ("denoised_nl", True): (82.0, 83.5),
}


def dfn_row(config):
    head = config.head
    parts = (head.global_pooling, head.cab, head.deep_supervision)
    return config.augment.scales != (1.0,), head.rrb, parts, config.loss.border_weight if head.border else None


CASES = {
    ("dgcw", "paper"): (DGCW, lambda c: (c.head.base, c.head.context, c.head.weighting)),
    ("dfdam", "paper"): (DFDAM, lambda c: (c.head.dafm, c.head.pam)),
    ("dfdam", "paper_voc"): (DFDAM_VOC, lambda c: (c.backbone.name, c.head.dafm, c.head.pam)),
    ("dfn", "paper"): (DFN, dfn_row),
    ("denoised_nl", "paper"): (
        DENOISED,
        lambda c: (c.backbone.name, c.head.global_rectifying, c.head.local_retention),
    ),
    ("gald", "paper"): (GALD, lambda c: (c.head.ga, c.head.kernel_size, c.head.dilation)),
    ("gald", "paper_parts"): (
        PARTS,
        lambda c: (c.head.ga, c.head.ld, c.head.arrangement, c.head.ld_downsample, c.head.key_query),
    ),
    ("heads", "paper"): (
        {
            (*row, b): miou
            for row, pair in HEADS.items()
            for b, miou in zip(("resnet50s", "resnet101s"), pair, strict=True)
        },
        lambda c: (c.head.name, getattr(c.head, "attention", None), c.backbone.name),
    ),
}


def made(job, name):
    preset = sweep_of(JOBS / f"{job}_sweep.py").presets[name]
    assert preset.algorithm == "grid"
    return trials(preset, algorithm="grid", count=1, shards="anywhere", settings={}), recipe.load(preset.recipe).run


def test_every_paper_preset_is_here():
    jobs = [path.stem.removesuffix("_sweep") for path in JOBS.glob("*_sweep.py")]
    found = {(job, name) for job in jobs for name in sweep_of(JOBS / f"{job}_sweep.py").presets if "paper" in name}
    assert found == set(CASES)
    assert {job for job, _ in found} == set(jobs)


@pytest.mark.parametrize(("job", "name"), CASES)
def test_the_rows_are_the_papers(job, name):
    table, row_of = CASES[job, name]
    rows = [row_of(trial.config) for trial in made(job, name)[0]]
    assert len(rows) == len(set(rows))
    assert set(rows) == set(table)


@pytest.mark.parametrize(("job", "name"), [case for case in CASES if case[0] != "heads"])
def test_all_else_is_the_recipes(job, name):
    """One of the rows is the recipe's own run; nothing but what the rows name differs in any."""
    found, run = made(job, name)
    own = configs.from_dict(configs.merged(run, {"data.shards": "anywhere"}))
    row_of = CASES[job, name][1]
    (mine,) = [trial.config for trial in found if row_of(trial.config) == row_of(own)]
    assert mine.backbone == own.backbone
    small = own.backbone.model_copy(update={"name": "resnet10t", "pretrained": False, "multi_grid": None})
    for look in (model_of, loss_of, optimizer_of, sample_of):
        assert look(mine.model_copy(update={"backbone": small})) == look(own.model_copy(update={"backbone": small}))
    for trial in found:
        for table in ("optim", "train", "data", "test"):
            assert getattr(trial.config, table) == getattr(own, table), (table, trial.point)


def test_no_danger_of_an_old_recipe_in_the_heads_sweep():
    """Another head drops Denoised NL's options; its auxiliary outputs' weights and all else of the training stay."""
    found, run = made("heads", "paper")
    own = configs.from_dict(configs.merged(run, {"data.shards": "anywhere"}))
    for trial in found:
        for table in ("optim", "train", "data", "test", "augment"):
            assert getattr(trial.config, table) == getattr(own, table)
        assert trial.config.loss.weights == (own.loss.weights if trial.config.head.name == "denoised_nl" else {})
    decoders = {t.config.head.decoder for t in found if t.config.head.name == "dranet"}
    assert decoders == {False}
