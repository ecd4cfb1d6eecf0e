"""docs/heads.md: its drawings, counts, options and searches are the code's; its links lead somewhere."""

import re
import shlex
import sys
import types
import typing
from pathlib import Path

import pytest
import torch
from matplotlib.mathtext import MathTextParser

from rayseg import cli, heads, recipe, segmenter
from rayseg import config as configs
from rayseg.errors import UsageError
from rayseg.sweep.space import Uniform, choice
from rayseg.sweep.trial import Preset, Sweep, trials

DOCS = Path(__file__).parents[1] / "docs"
sys.path.insert(0, str(DOCS / "drawings"))

import measured  # noqa: E402 - they lie beside the page
import page  # noqa: E402
from diagram import Drawing  # noqa: E402

TEXT = page.PAGE.read_text("utf-8")
SECTIONS = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", TEXT, re.S | re.M))
LAYOUTS = {layout.__name__: layout for layout in page.LAYOUTS}


@pytest.fixture(scope="module")
def drawings():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield {name: layout() for name, layout in LAYOUTS.items()}
    torch.set_num_threads(before)


def blocks(kind, text=TEXT):
    return re.findall(rf"^```{kind}\n(.*?)^```$", text, re.S | re.M)


# --- drawings -------------------------------------------------------------------------------------------------------


def test_every_head_has_a_section_a_drawing_and_a_row(drawings):
    assert sorted(SECTIONS) == heads.names() == sorted(page.ABOUT)
    assert sorted({d.setting.head.name for d in drawings.values()}) == heads.names()
    for drawing in drawings.values():
        assert f"(pictures/heads/{drawing.name}.svg)" in SECTIONS[drawing.setting.head.name]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_drawing_shows_the_modules_that_there_are_and_leaves_no_parameter_out(drawings, name):
    assert not drawings[name].unknown()
    assert not drawings[name].undrawn()


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_drawing_is_readable(drawings, name):
    assert not drawings[name].faults()


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_picture_on_disk_is_the_drawing(drawings, name):
    found = (page.PICTURES / f"{name}.svg").read_text("utf-8")
    assert found == drawings[name].svg(), "run `python docs/drawings`"


def test_no_picture_is_left_over():
    assert {path.stem for path in page.PICTURES.iterdir()} == set(LAYOUTS)


BY_HAND = {  # channels above an arrow, pixels below it, words in a box; (769 - 1) / 8 + 1 = 97, a quarter of it is 25
    "fcn": ["2048", "97×97", "3×3, 512", "1×1, 19"],
    "psp": ["2048", "90×90", "6×6", "4096"],
    "aspp": ["1280", "3×3, 256 r=36"],
    "nonlocal_net": ["1×1, 64", "2560", "all 9409 pixels"],
    "gap": ["2560"],
    "cgnl": ["48×48", "3×3, 512 /2 dw", "1×1, 512 g=8"],
    "dranet": ["50×128", "193×193", "288"],
    "dgcw": ["25×25", "640", "for all 625² pairs", "512 a branch"],
    "gald_v1": ["104×104", "51×51", "12×12"],
    "gald_v2": ["2304", "over 5×5 taps,", "6 px apart"],
    "dfdam": ["256×256", "64×64", "32×32", "1×1, 8", "3×3, 64"],
    "dfn": ["25×25", "200×200", "3×3, 21", "1×200×200"],
    "denoised_nl": ["48×48", "of 2304² pairs", "19×48×48"],
}


@pytest.mark.parametrize("name", BY_HAND)
def test_the_shapes_are_those_counted_by_hand(name):
    texts = re.findall(r">([^<>\n]+)</text>", (page.PICTURES / f"{name}.svg").read_text("utf-8"))
    assert [wanted for wanted in BY_HAND[name] if wanted not in texts] == []


def small():
    drawing = Drawing("fcn", measured.defaults("fcn", "resnet18", size_px=65))
    drawing.box("x", (0, 0), "stage 4", kind="backbone", shape="x4")
    drawing.box("reduce", (1.1, 0), of="layers.0")
    return drawing


def test_what_is_unreadable_or_missing_is_noticed():
    drawing = small()
    drawing.flow("x", "reduce")
    assert not drawing.faults()
    assert sorted(drawing.undrawn()) == ["layers.2.bias", "layers.2.weight"]
    drawing.box("over", (0.6, 0), "in the way")
    assert {"x on over", "reduce on over", "('x', 'reduce') through over"} <= set(drawing.faults())
    drawing.frame("gone", ["x"], of="layers.7")
    assert drawing.unknown() == ["layers.7"]
    drawing = small()
    drawing.box("long", (3, 0), "a text that no box of this width can hold")
    assert drawing.faults() == ["text of long is too wide"]


# --- counts ---------------------------------------------------------------------------------------------------------


def test_the_counts_in_the_page_are_counted(drawings):
    assert page.filled(TEXT, page.blocks(list(drawings.values()))) == TEXT, "run `python docs/drawings`"


@pytest.mark.parametrize(("head", "stride"), [("fcn", 8), ("ccnet", 8), ("dfdam", 32)])
def test_counts_are_what_describe_counts(head, stride):
    """Heads with the usual auxiliary head, one of their own, and none; the page counts each backbone once."""
    setting = measured.defaults(head, "resnet18", size_px=129, output_stride=stride)
    cost = segmenter.describe(segmenter.skeleton(setting.model()), (3, 129, 129))
    assert measured.counts(setting) == (cost.params, cost.head_params, cost.aux_params, cost.macs)


# --- options --------------------------------------------------------------------------------------------------------

BASES = {"gald": [{}, {"ld": "v1"}], "dgcw": [{}, {"context": "nl_reduced"}]}
"""Other options with which some of a head's are read."""


def rows(name):
    """A section's options: name, values, default, each as written."""
    table = SECTIONS[name].split("| Option |")[1].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def written(text):
    """The values in backticks: TOML, or a word."""
    return [configs.parse_setting(f"x={value}")[1] for value in re.findall(r"`([^`]+)`", text)]


def choices(annotation):
    """What a field of words or of true and false takes; nothing for numbers."""
    if annotation is bool:
        return {True, False}
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    parts = typing.get_args(annotation) if typing.get_origin(annotation) in (typing.Union, types.UnionType) else ()
    return set().union(*map(choices, parts))


@pytest.mark.parametrize("name", heads.names())
def test_the_options_are_those_of_the_config(name):
    fields = heads.config_class(name).model_fields
    assert {row[0].strip("`") for row in rows(name)} == fields.keys() - {"name", "norm"}
    plain = heads.from_dict({"name": name}).model_dump(mode="json")
    for option, values, default, _ in rows(name):
        option = option.strip("`")
        assert written(default) == ([plain[option]] if plain[option] is not None else [])
        if known := choices(fields[option].annotation):
            assert set(written(values)) == known
        for value in written(values):
            assert any(accepted(name, base | {option: value}) for base in BASES.get(name, [{}])), (option, value)


def accepted(name, options):
    try:
        heads.from_dict({"name": name, **options})
    except UsageError:
        return False
    return True


# --- searches -------------------------------------------------------------------------------------------------------


def presets():
    """Every preset of the page's Python."""
    names = {"choice": choice, "Uniform": Uniform, "Preset": Preset}
    for block in blocks("python"):
        exec(block, names)
    sweeps = [value for value in names.values() if isinstance(value, Sweep)]
    found = {name: value for name, value in names.items() if isinstance(value, Preset)}
    return found | {f"{sweep.name}.{name}": preset for sweep in sweeps for name, preset in sweep.presets.items()}


PRESETS = presets()


def test_every_section_has_a_preset():
    for name, section in SECTIONS.items():
        (block,) = blocks("python", section)
        assert re.match(rf"{name}(_\w+)? = Preset\(", block)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_draws_trials_whose_heads_or_losses_differ(name):
    preset = PRESETS[name]
    made = trials(preset, algorithm=preset.algorithm, count=preset.trials, shards="scenes", settings={})
    assert len({trial.key for trial in made}) == len(made) > 1
    wanted = {"norms.scenes": made[0].config.head.name}.get(name, name.split("_")[0])
    assert made[0].config.head.name.split("_")[0] == wanted.split("_")[0]
    spec = measured.built_backbone(made[0].config.backbone.model_copy(update={"name": "resnet18"})).spec
    seen = set()
    for trial in made:
        with torch.device("meta"):
            head = heads.build(trial.config.head, spec, 11)
        weights = segmenter.Segmenter.loss_weights(types.SimpleNamespace(head=head))
        assert trial.config.loss.weights.keys() <= weights.keys()
        seen.add((repr(head), str(trial.config.loss), str(trial.config.optim)))
    assert len(seen) == len(made)


COMMANDS = [line for block in blocks("bash") for line in block.splitlines()]


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_one(line):
    program, *words = shlex.split(line)
    if program == "python":
        assert (DOCS.parent / words[0]).is_file()
        return
    command = cli.rayseg.commands[words[0]]
    context = command.make_context(words[0], words[1:])
    settings = configs.parse_settings(context.params["settings"])
    (named,) = context.params["recipes"]
    base = recipe.load(named).run
    run = configs.from_dict(configs.merged(base, {"data.shards": "scenes", **settings}))
    flat = configs.flatten(run.model_dump(mode="json"))
    assert {name: flat[name] for name in settings} == settings


def test_dotted_names_in_the_text_are_fields():
    tables = configs.RunConfig.model_fields
    options = {field for name in heads.names() for field in heads.config_class(name).model_fields}
    for table, name in re.findall(r"`(head|loss|optim|augment|test|backbone|train)\.(\w+)", TEXT):
        known = options if table == "head" else tables[table].annotation.model_fields
        assert name in known, f"{table}.{name}"


# --- the page -------------------------------------------------------------------------------------------------------


def test_links_lead_somewhere():
    anchors = {re.sub(r"[^\w -]", "", line).lower().replace(" ", "-") for line in re.findall(r"^#+ (.*)$", TEXT, re.M)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        if target.startswith("#"):
            assert target[1:] in anchors, target
        elif not target.startswith("https://"):
            assert (DOCS / target).is_file(), target


@pytest.mark.parametrize("equation", blocks("math"), ids=lambda text: text[:20].strip())
def test_an_equation_is_well_formed(equation):
    MathTextParser("path").parse(f"${' '.join(equation.split())}$")


def test_every_section_has_an_equation_and_tells_what_was_ambiguous():
    for name, section in SECTIONS.items():
        assert blocks("math", section), name
        assert "Ambiguous" in section, name


def test_blocks_that_do_not_fit_the_page_are_refused():
    with pytest.raises(ValueError, match="counts:new"):
        page.filled("<!-- heads -->\n<!-- end -->\n", {"heads": "", "counts:new": ""})
