"""Every recipe holds and builds its model, and every value of the papers' recipes is the paper's, or says that it is
a choice. The tables here are written from the papers' sections, not from the recipes.
"""

import functools
import math
import re

import pytest

from rayseg import config as configs
from rayseg import optim, recipe, segmenter
from rayseg.config import RunConfig
from rayseg.data import card as cards
from rayseg.errors import UsageError
from rayseg.losses import SegmentationLoss
from rayseg.schema import parse, to_dict
from rayseg.tracking import NullTracker
from rayseg.train.loop import fit
from rayseg.train.runtime import LocalRuntime

CLASSES = {
    "ade20k": 150,
    "camvid": 11,
    "camvid_full": 11,
    "cityscapes": 19,
    "cityscapes_coarse": 19,
    "cocostuff10k": 171,
    "pascal_context": 60,  # 59 and background
    "scenes": 11,
    "voc": 21,
    "voc_aug": 21,
}
IMAGES = {
    "ade20k": 20210,
    "camvid_full": 367,
    "cityscapes": 2975,
    "cityscapes_coarse": 2975 + 19998,
    "cocostuff10k": 9000,
    "pascal_context": 4998,
    "trainval": 2975 + 500,
    "voc": 1464,
    "voc_aug": 10582,
}
SMALL = {f"{head}/{card}" for head in ("denoised_nl", "dfdam", "dfn", "dgcw", "gald") for card in ("scenes", "camvid")}
"""Ours, for two cores: no paper has their values."""


def steps(epochs, data, batch):
    return math.floor(epochs * IMAGES[data] / batch + 0.5)


def values(dataset, lr, crop, batch, **more):
    """What every paper states: momentum 0.9 and power 0.9, square crops."""
    always = {"optim.momentum": 0.9, "optim.power": 0.9}
    return {
        "dataset": dataset,
        "optim.lr": lr,
        "augment.crop_px": [crop, crop],
        "train.batch": batch,
        **always,
        **{name.replace("__", "."): value for name, value in more.items()},
    }


def gald(dataset, lr, crop, batch, **more):
    """Section IV: v2 with ASPP, k = 5, r = 3 "for the remaining datasets", ImageNet's weights, OHEM on Cityscapes."""
    head = {"head.name": "gald", "head.ga": "aspp", "head.ld": "v2", "head.kernel_size": 5, "head.dilation": 3}
    common = head | {"backbone.pretrained": True}
    if dataset.startswith("cityscapes"):
        common["loss.ohem"] = True
    wanted = values(dataset, lr, crop, batch, **more)
    return {name: value for name, value in (common | wanted).items() if value is not None}


GALD_CITY = {"head__dilation": 6}  # Table II(b): 80.8, the figure of Tables I(d), III and IV
GALD_SCALES = [0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
LATER = {"backbone__pretrained": None}  # starts from a run
MS = {"test__flip": True}  # "multi-scale inference with flip": the scales are not said

DFDAM = {
    "backbone.pretrained": True,
    "head.name": "dfdam",
    "head.channels": 128,
    "loss.weights.context": 0.4,
    "loss.weights.spatial": 0.1,
    "augment.scales": [0.75, 1.0, 1.25, 1.5, 1.75, 2.0],
    "augment.flip": True,
    "test.scales": [0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0],
    "test.flip": True,
}
DFDAM_VOC = DFDAM | values("voc_aug", 0.001, 512, 16, optim__weight_decay=1e-5)
DFN = {
    "backbone.pretrained": True,
    "head.name": "dfn",
    "loss.border_weight": 0.1,
    "optim.weight_decay": 0.0001,
    "augment.scales": [0.5, 0.75, 1.0, 1.5, 1.75],
    "augment.flip": True,
    "test.scales": [0.5, 0.75, 1.0, 1.5, 1.75],
    "test.flip": True,
}
DFN_VOC = {
    k: v for k, v in (DFN | values("voc_aug", 4e-3, 0, 32)).items() if k != "augment.crop_px"
}  # VOC's is not said
DGCW = {
    "backbone.pretrained": True,
    "backbone.output_stride": 8,
    "head.name": "dgcw",
    "head.base": "aspp",
    "head.context": "dgcw",
    "head.channels": 128,
    "head.factor": 4,
    "head.weighting": "dbs",
    "head.reduce": "sum",
    "loss.aux_weight": 0.4,
    "optim.weight_decay": 0.0005,
    "augment.scale": [0.5, 2.0],
    "augment.flip": True,
}
DGCW_MS = {"test.scales": [0.75, 1.0, 1.25, 1.5], "test.flip": True}
DNL = {
    "backbone.pretrained": True,
    "backbone.output_stride": 8,
    "head.name": "denoised_nl",
    "head.global_rectifying": True,
    "head.local_retention": True,
    "loss.weights.aux1": 1.0,
    "loss.weights.aux2": 1.0,
    "augment.scale": [0.5, 2.0],
    "augment.flip": True,
}


def without(table, *names):
    return {name: value for name, value in table.items() if name not in names}


PAPER = {
    "gald/cityscapes": gald("cityscapes", 0.01, 832, 8, train__steps=50000, test__window_px=[832, 832], **GALD_CITY),
    "gald/cityscapes_v1": without(
        gald("cityscapes", 0.01, 832, 8, train__steps=50000, test__window_px=[832, 832]),
        "head.kernel_size",
        "head.dilation",
    )
    | {"head.ga": "cgnl", "head.ld": "v1", "head.ld_downsample": "depthwise"},
    "gald/cityscapes_r101": gald("cityscapes", 0.01, 832, 8, **GALD_CITY, **MS),
    "gald/cityscapes_trainval": gald(
        "cityscapes",
        0.01,
        832,
        8,
        data__train_split="trainval",
        train__steps=steps(300, "trainval", 8),
        **GALD_CITY,
        **MS,
    ),
    "gald/cityscapes_coarse": gald(
        "cityscapes_coarse",
        0.001,
        832,
        16,
        train__steps=steps(40, "cityscapes_coarse", 16),
        train__freeze_norm=True,
        **GALD_CITY,
        **MS,
        **LATER,
    ),
    "gald/cityscapes_coarse_fine": without(
        gald("cityscapes", 0.001, 832, 8, train__steps=steps(20, "cityscapes", 8), **GALD_CITY, **MS, **LATER),
        "train.batch",
    ),
    "gald/ade20k": gald(
        "ade20k",
        0.01,
        512,
        16,
        train__steps=steps(240, "ade20k", 16),
        augment__scales=GALD_SCALES,
        test__scales=GALD_SCALES,
    ),
    "gald/pascal_context": gald("pascal_context", 0.001, 532, 16, train__steps=steps(180, "pascal_context", 16)),
    "gald/cocostuff10k": gald("cocostuff10k", 0.001, 532, 16, train__steps=steps(240, "cocostuff10k", 16)),
    "gald/camvid_paper": gald("camvid_full", 0.01, 640, 16, train__steps=steps(180, "camvid_full", 16)),
    "gald/cityscapes_for_camvid": gald("cityscapes", 0.01, 640, 16, train__steps=steps(180, "cityscapes", 16)),
    "gald/camvid_from_cityscapes": gald(
        "camvid_full", 0.001, 640, 16, train__steps=steps(90, "camvid_full", 16), **LATER
    ),
    "dfdam/cityscapes": DFDAM
    | values("cityscapes", 0.01, 1024, 8, optim__weight_decay=5e-4, backbone__name="resnet18"),
    "dfdam/voc_aug_r50": DFDAM_VOC | {"backbone.name": "resnet50"},
    "dfdam/voc_aug_r101": DFDAM_VOC | {"backbone.name": "resnet101"},
    "dfdam/voc_finetune": without(
        DFDAM_VOC | {"dataset": "voc", "data.train_split": "trainval", "backbone.name": "resnet101"},
        "backbone.pretrained",
        "optim.lr",
    ),
    "dfn/voc_aug": DFN_VOC,
    "dfn/voc_finetune": without(DFN_VOC | {"dataset": "voc"}, "backbone.pretrained", "optim.lr"),
    "dfn/cityscapes": without(DFN, "test.scales", "test.flip") | values("cityscapes", 4e-3, 800, 32),
    "dgcw/cityscapes": DGCW | values("cityscapes", 0.01, 769, 8),
    "dgcw/cityscapes_ohem": DGCW
    | DGCW_MS
    | values("cityscapes", 0.01, 769, 8, loss__ohem=True, loss__ohem_threshold=0.7, loss__ohem_min_kept=100000),
    "dgcw/pascal_context": DGCW | DGCW_MS | values("pascal_context", 0.005, 513, 16),
    "dgcw/ade20k": DGCW | values("ade20k", 0.02, 513, 16),
    "denoised_nl/cityscapes": DNL
    | values("cityscapes", 0.01, 768, 8, optim__weight_decay=5e-4, train__steps=steps(240, "cityscapes", 8)),
    "denoised_nl/ade20k": DNL
    | values("ade20k", 0.02, 608, 16, optim__weight_decay=1e-4, train__steps=steps(240, "ade20k", 16)),
}

STAGES = {
    "gald/cityscapes_coarse": "gald/cityscapes_r101",
    "gald/cityscapes_coarse_fine": "gald/cityscapes_coarse",
    "gald/camvid_from_cityscapes": "gald/cityscapes_for_camvid",
    "dfdam/voc_finetune": "dfdam/voc_aug_r101",
    "dfn/voc_finetune": "dfn/voc_aug",
}
"""Which recipe's run each later stage starts from."""

# --- what a recipe's file says ---------------------------------------------------------------------------------------


def leaves(name):
    """The recipe's values by dotted name, without `run.`, and its data set."""
    found = recipe.load(name)
    return {"dataset": found.dataset} | configs.flatten(found.run)


def comments(name):
    """The comment behind every value, by dotted name, read from the file's lines."""
    found, table = {}, ""
    for line in (recipe.FOLDER / f"{name}.toml").read_text().splitlines():
        if header := re.fullmatch(r"\[(?:run\.?)?([\w.]*)\]", line.strip()):
            table = f"{header[1]}." if header[1] else ""
        elif entry := re.match(r"(\w+) = ((?:[^#\"]|\"[^\"]*\")*)(?:# (.*))?$", line):
            inner = re.findall(r"(\w+) = ", entry[2]) if entry[2].startswith("{") else []
            for key in [f"{entry[1]}.{k}" for k in inner] or [entry[1]]:
                found[table + key] = entry[3] or ""
    return found


def full(name, **settings):
    """The recipe as a run's config; what it leaves to the user is named."""
    found = recipe.load(name)
    own = {"start_from": "/a/run"} if "start_from" in found.run else {}
    return configs.from_dict(configs.merged(found.run, {"data.shards": "/nowhere"} | own | settings), name)


def test_every_recipe_is_in_a_table_here():
    assert set(recipe.names()) == set(PAPER) | SMALL


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_values(name):
    found = leaves(name)
    assert {key: found.get(key) for key in PAPER[name]} == PAPER[name]


@pytest.mark.parametrize("name", PAPER)
def test_what_is_not_the_papers_is_a_choice_with_a_reason(name):
    said = comments(name)
    assert said.keys() >= leaves(name).keys()
    for key in leaves(name):
        if key in PAPER[name]:
            assert "choice" not in said[key], key
        else:
            assert re.match(r"choice: \w.{4,}", said[key]), f"{key} is not in the paper"


@pytest.mark.parametrize("name", PAPER)
def test_a_papers_recipe_is_complete(name):
    """What decides a run is written down, and not left to defaults that may change."""
    needed = {
        "backbone.name",
        "backbone.output_stride",
        "head.name",
        "loss.aux_weight",
        "optim.lr",
        "optim.momentum",
        "optim.weight_decay",
        "optim.power",
        "augment.crop_px",
        "augment.flip",
        "train.steps",
        "train.batch",
        "train.workers",
        "train.eval_every",
    }
    found = leaves(name)
    assert needed <= found.keys()
    assert ("augment.scale" in found) != ("augment.scales" in found)
    assert any(key.startswith("test.") for key in found)
    assert bool(found.get("backbone.pretrained")) != ("start_from" in found)


# --- what a recipe is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_is_a_run_and_survives_its_plain_form(name):
    config = full(name)
    assert parse(RunConfig, to_dict(config), name) == config
    kept, given = configs.flatten(to_dict(config)), configs.flatten(recipe.load(name).run)
    assert {key: kept[key] for key in given if key != "start_from"} == {
        k: v for k, v in given.items() if k != "start_from"
    }


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_names_a_card_and_its_splits(name):
    found = recipe.load(name)
    card = cards.load(found.dataset)
    assert card.num_classes == CLASSES[found.dataset]
    data = full(name).data
    assert data.val_split in card.splits
    assert data.train_split in card.splits or data.train_split == "trainval"  # for test servers, added by the user
    if found.dataset in IMAGES:
        split = card.splits["train"]
        assert sum(card.splits[part].expected for part in split.of or ("train",)) == IMAGES[found.dataset]


@functools.cache
def skeleton(plain_json):
    return segmenter.skeleton(segmenter.Config.model_validate_json(plain_json))


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_builds_its_model_its_loss_and_its_optimizer(name):
    config, card = full(name), cards.load(recipe.load(name).dataset)
    model_config = config.model(card.num_classes)
    plain = model_config.backbone.model_copy(update={"pretrained": False})
    model = skeleton(model_config.model_copy(update={"backbone": plain}).model_dump_json())
    SegmentationLoss(
        config.loss,
        ignore_index=card.ignore_index,
        weights=model.loss_weights(),
        borders=model.border_outputs,
        num_classes=card.num_classes,
    )
    groups = optim.build(config.optim, model.backbone, model).param_groups
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


@pytest.mark.parametrize("name", [name for name in recipe.names() if "start_from" in recipe.load(name).run])
def test_a_later_stage_asks_for_its_start_and_has_the_earlier_ones_model(name):
    with pytest.raises(UsageError, match="--set start_from=RUN"):
        configs.from_dict(configs.merged(recipe.load(name).run, {"data.shards": "/nowhere"}), name)
    earlier = STAGES[name]
    assert earlier in recipe.load(name).about
    built = [full(which).model(19) for which in (name, earlier)]
    one, other = (c.model_copy(update={"backbone": c.backbone.model_copy(update={"pretrained": False})}) for c in built)
    assert one == other


@pytest.mark.parametrize("name", sorted(SMALL - {"gald/camvid"}))
def test_every_small_recipe_trains(name, tiny_shards, tmp_path):
    settings = {
        "data.shards": str(tiny_shards),
        "train.steps": 2,
        "train.eval_every": 2,
        "train.batch": 2,
        "augment.crop_px": [64, 64],
        "data.val_samples": 2,
        "train.shown_images": 0,
    }
    summary = fit(full(name, **settings), LocalRuntime(tmp_path, "cpu"), NullTracker(), show=lambda line: None)
    assert summary.status == "finished"


@pytest.mark.parametrize("name", cards.names())
def test_a_card_has_a_recipe_for_a_look_at_it(name):
    chosen = recipe.fitting(name)
    assert recipe.load(chosen).dataset == (name if chosen != "gald/scenes" else "scenes")
    assert recipe.fitting("camvid") == "gald/camvid"
