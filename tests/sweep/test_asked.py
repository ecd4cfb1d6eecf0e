"""`--search` texts, and the fields that they may name."""

import re

import pytest

from rayseg import config as configs
from rayseg import heads
from rayseg.errors import UsageError
from rayseg.sweep.asked import parse_search, parse_searches
from rayseg.sweep.fields import kinds
from rayseg.sweep.space import Integer, Uniform, choice

READ = {
    "optim.lr=1e-4..1e-1:log": Uniform(low=1e-4, high=0.1, log=True),
    "optim.lr=.01..0.5": Uniform(low=0.01, high=0.5),
    "loss.weights.context=0..1": Uniform(low=0.0, high=1.0),
    "loss.border_alpha=0.1..0.9": Uniform(low=0.1, high=0.9),
    "head.kernel_size=3,5,7": choice(3, 5, 7),
    "head.kernel_size=3..7:2": Integer(low=3, high=7, step=2),
    "head.channels=64..256:log": Integer(low=64, high=256, log=True),
    "loss.ohem_min_kept=1000..100000": Integer(low=1000, high=100000),
    "head.weighting = dbs, softmax ,tanh": choice("dbs", "softmax", "tanh"),
    "head.norm=batch,sync_batch,group": choice("batch", "sync_batch", "group"),
    "loss.ohem=true,false": choice(True, False),
    "augment.scales=[0.5, 1.0],[0.75,1.25],none": choice([0.5, 1.0], [0.75, 1.25], None),
    "data.share=0.25,1": choice(0.25, 1),
}


@pytest.mark.parametrize(("text", "dimension"), READ.items())
def test_a_text_is_read(text, dimension):
    assert parse_search(text) == (text.partition("=")[0].strip(), dimension)


REFUSED = {
    "optim.lr": "cannot read 'optim.lr'",
    "optim.lr=": "cannot read 'optim.lr='",
    "=1,2": "cannot read '=1,2'",
    "optim.ler=0.1,0.2": "did you mean 'lr'?",
    "optm.lr=0.1,0.2": "did you mean 'optim.lr'?",
    "head.kernl_size=3,5": "did you mean 'kernel_size'?",
    "loss=1,2": "'loss' is a table",
    "optim.lr=0.1..": "cannot read 'optim.lr=0.1..'",
    "optim.lr=0.1..0.2:lin": "cannot read ':lin'",
    "optim.lr=0.1..0.2:2": "has no step",
    "optim.lr=0.2..0.1": "bounds 0.2 .. 0.1 (--search optim.lr)",
    "optim.lr=0..0.1:log": "bounds 0.0 .. 0.1 (--search optim.lr)",
    "head.norm=1..2": "takes no numbers",
    "head.channels=1.5..3": "takes whole numbers, not 1.5..3",
    "head.kernel_size=3": "use --set head.kernel_size=3",
    "head.kernel_size=3,3": "values 3 and 3 are equal (--search head.kernel_size)",
}


@pytest.mark.parametrize(("text", "says"), REFUSED.items())
def test_a_wrong_text_is_one_line(text, says):
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        parse_search(text)
    assert len(str(caught.value).splitlines()) == 1
    assert "--search" in caught.value.where


def test_a_name_is_searched_once():
    with pytest.raises(UsageError, match=r"'optim\.lr' is searched twice"):
        parse_searches(["optim.lr=1e-4..1e-1", "optim.lr=1,2"])


def test_every_field_of_every_run_is_known():
    """Walked over what configs become, not over their types."""
    for name in heads.names():
        mapping = {"head": {"name": name}, "data": {"shards": "x"}, "augment": {"crop_px": [64, 64]}}
        train = {"steps": 1, "batch": 1, "eval_every": 1}
        plain = configs.to_dict(configs.from_dict(mapping | {"train": train}))
        for field, value in configs.flatten(plain).items():
            kind = {type(None): "none", list: "list", bool: "bool", int: "int", float: "float", str: "str"}[type(value)]
            assert kind in kinds(field) or (kind == "none" and kinds(field)), field
