"""`rayseg analyse` as a user types it: files and numbers, what its PNG shows, one line for each mistake."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from analysed_run import PLAIN
from click.testing import CliRunner

from rayseg import cli, segmenter
from rayseg import config as configs
from rayseg.analysis import catalogue
from rayseg.commands.analyse import analyse as command
from rayseg.data import open_shards
from rayseg.schema import to_dict
from rayseg.train import commit, evaluate
from rayseg.train.runtime import LocalRuntime

HEADS: dict[str, dict[str, Any]] = {
    "gald": {
        "head.name": "gald",
        "head.channels": 16,
        "head.kernel_size": 3,
        "head.dilation": 1,
        "test.window_px": [32, 40],
    },
    "denoised_nl": {"head.name": "denoised_nl", "head.channels": 16},
    "dfdam": {"head.name": "dfdam", "head.channels": 16, "backbone.output_stride": 32},
    "dfn": {"head.name": "dfn", "head.channels": 16, "backbone.output_stride": 32},
    "dgcw": {"head.name": "dgcw", "head.base": "none", "head.channels": 8, "test.window_px": [32, 40]},
}


@pytest.fixture(scope="module")
def run_of(tiny_shards: Any, tmp_path_factory: Any) -> Any:
    """A run of a head with a commit, made when it is first asked for."""
    done: dict[str, Path] = {}

    def made(head: str) -> Path:
        if head not in done:
            done[head] = committed(tmp_path_factory.mktemp("runs") / f"{head}-run", tiny_shards, head)
        return done[head]

    return made


def committed(run_dir: Path, shards: Any, head: str, scale: float = 1.0) -> Path:
    """Write what a run leaves behind: a commit of its config and weights, with an evaluation."""
    config = configs.from_dict(configs.merged(PLAIN, {"data.shards": str(shards), **HEADS[head]}))
    torch.manual_seed(0)
    model = segmenter.build(config.model(11))
    weights = {name: scale * x if x.is_floating_point() else x for name, x in model.state_dict().items()}
    state = {"config": to_dict(config), "progress": {"best_step": 2, "miou": 0.1}}
    found = evaluate.evaluate(
        model, open_shards(shards, "val"), LocalRuntime(run_dir, "cpu"), config=config, precision=torch.float32
    )
    commit.write(run_dir, 2, {"model": weights}, state, {commit.EVALUATION: evaluate.to_bytes(found)})
    return run_dir


def key(tiny_shards: Any) -> str:
    return str(open_shards(tiny_shards, "val").index.key[0])


def options(figure: catalogue.Figure, tiny_shards: Any) -> list[str]:
    """What the figure asks for."""
    given = ["--figure", figure.name] + (["--image", key(tiny_shards)] if figure.images else [])
    return given + (["--point", "20,33"] if figure.point != "refused" else [])


OF = {
    "class_variance": "dgcw",
    "channel_weights": "dfdam",
    "confidence_map": "dfdam",
    "local_affinity": "gald",
    "attention_maps": "denoised_nl",
    "border_prediction": "dfn",
    "error_map": "gald",
}


@pytest.mark.parametrize("name", OF)
def test_a_figure_is_a_picture_and_its_arrays(run_of: Any, tiny_shards: Any, tmp_path: Path, name: str) -> None:
    figure = catalogue.find(name)
    arguments = [str(run_of(OF[name])), *options(figure, tiny_shards), "--out", str(tmp_path)]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    picture, arrays = (Path(line) for line in result.stdout.splitlines()[:2])
    assert sorted(tmp_path.iterdir()) == sorted([picture, arrays])
    pixels = cv2.imread(str(picture))[..., ::-1]
    assert 200 < pixels.shape[0] < 2000
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 20
    green = (np.abs(pixels.astype(int) - (0, 255, 64)) < 40).all(-1).sum()
    assert (green > 20) == (figure.point != "refused"), "the cross at the point"
    documented = {each for names in figure.arrays for each in names.split(", ")} | set(catalogue.SEEN)
    documented |= {f"border_{level}" for level in (1, 2, 3, 4)}
    with np.load(arrays) as file:
        if name == "local_affinity":  # seen in the test window whose middle is nearest to 20,33
            assert file["corner"].tolist() == [0, 24]
            assert file["point"].tolist() == [20, 9]
        assert set(file.files) <= documented
        missing = documented - set(file.files)
    optional = {"corner", "point", "against_prediction", "against_wrong", "border_1 … border_n"}
    optional |= {f"border_{level}" for level in (1, 2, 3, 4)} if name != "border_prediction" else set()
    optional |= set(catalogue.SEEN) if not figure.images else set()
    assert missing <= optional | {each for each in documented if each.startswith("other_")}
    numbers = result.stdout.splitlines()[2:]
    assert numbers
    assert all(re.fullmatch(r".+: .+", line) for line in numbers)
    assert not re.search(r"\bnan\b", result.stdout)


def test_files_go_beside_the_run_and_are_replaced(run_of: Any, tiny_shards: Any) -> None:
    run = run_of("gald")
    arguments = [str(run), "--figure", "error_map", "--image", key(tiny_shards), "--against", str(run_of("dfn"))]
    first, second = (CliRunner().invoke(command, arguments, catch_exceptions=False).stdout for _ in range(2))
    assert first == second
    lines = [Path(line) for line in first.splitlines()[:2]]
    assert [path.parent for path in lines] == [run / "analyses"] * 2
    assert all("against-dfn-run" in path.name for path in lines)
    assert sorted((run / "analyses").iterdir()) == sorted(lines)
    assert "wrong with dfn-run alone: " in first


def test_the_list_names_every_figure_with_its_paper() -> None:
    found = CliRunner().invoke(command, ["--list"], catch_exceptions=False).stdout
    for figure in catalogue.FIGURES.values():
        assert re.search(rf"^{figure.name} +{re.escape(figure.paper)} ", found, re.MULTILINE)
    for paper in ("DGCWNet, Fig. 3", "DF-DAM, Fig. 7", "DF-DAM, Fig. 8", "GALD, Fig. 7", "GALD, Fig. 9"):
        assert paper in found
    assert "Denoised NL, Fig. 11" in found
    assert "DFN, Fig. 6" in found


@pytest.mark.parametrize(
    ("head", "arguments", "code", "says"),
    [
        ("gald", "--figure local_afinity --image KEY --point 1,1", 2, "did you mean 'local_affinity'"),
        ("gald", "--figure local_affinity --point 1,1", 2, "--image KEY"),
        ("gald", "--figure local_affinity --image KEY", 2, "--point Y,X"),
        ("gald", "--figure local_affinity --image KEY --point 48,1", 2, "Y from 0 to 47"),
        ("gald", "--figure local_affinity --image KEY --point 4;1", 2, "write it as Y,X"),
        ("gald", "--figure local_affinity --image KEYY --point 1,1", 2, "did you mean 'KEY'"),
        ("gald", "--figure local_affinity --image KEY --point 1,1 --against x", 2, "would be ignored"),
        ("gald", "--figure error_map --image KEY --point 1,1", 2, "would be ignored"),
        ("gald", "--figure error_map --image KEY --image KEY", 2, "2 images"),
        ("gald", "--figure class_variance --image KEY", 2, "would be ignored"),
        ("gald", "--figure attention_maps --image KEY --point 1,1", 2, "choose a run of denoised_nl"),
        ("gald", "--figure ldv1_mask --image KEY", 2, "gald with head.ld = v1"),
        ("gald", "--figure class_variance", 2, "dgcw with head.context = dgcw"),
        ("gald", "--figure error_map --image KEY --split vall", 3, "did you mean 'val'"),
        ("gald", "--figure error_map --image KEY --shards /nonexistent", 3, "no such folder"),
        ("gald", "--figure error_map --image KEY --against /nonexistent", 4, "no such run"),
        ("gald", "--list --figure error_map", 2, "would be ignored with --list"),
        ("gald", "", 2, "--figure"),
        ("none", "--figure error_map --image KEY", 4, "no such run"),
        ("empty", "--figure error_map --image KEY", 4, "no evaluation yet"),
    ],
)
def test_a_mistake_is_one_line(
    run_of: Any, tiny_shards: Any, tmp_path: Path, capsys: Any, head: str, arguments: str, code: int, says: str
) -> None:
    run = run_of(head) if head in HEADS else tmp_path / head
    if head == "empty":
        run.mkdir()
    before = sorted(run.glob("**/*"))
    words = [part.replace("KEY", key(tiny_shards)) for part in arguments.split()]
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.rayseg, ["analyse", str(run), *words])
    out, err = capsys.readouterr()
    assert (ended.value.code, out, len(err.splitlines())) == (code, "", 1), err
    assert err.startswith("error: ")
    assert says.replace("'KEY'", f"'{key(tiny_shards)}'") in err
    assert sorted(run.glob("**/*")) == before


def test_other_classes_than_the_shards_are_one_line(run_of: Any, tmp_path: Path, capsys: Any) -> None:
    from rayseg.data import card as cards
    from rayseg.data import shards

    plain = cards.load("scenes").model_dump(mode="json", exclude_none=True)
    plain |= {"name": "other", "splits": {"train": {"count": 2}, "val": {"count": 2}}, "ignore_index": 12}
    plain["classes"].append({"name": "Extra", "color": [1, 2, 3]})
    plain["generated"] |= {"height": 48, "width": 64}
    shards.write(cards.from_dict(plain), None, tmp_path / "shards", workers=1)
    words = ["--figure", "error_map", "--image", "val_00000", "--shards", str(tmp_path / "shards")]
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.rayseg, ["analyse", str(run_of("gald")), *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert (ended.value.code, line.startswith("error: ")) == (4, True), line


@pytest.mark.parametrize("figure", ["local_affinity", "error_map"])
def test_a_model_of_nan_is_one_line(tiny_shards: Any, tmp_path: Path, capsys: Any, figure: str) -> None:
    """Weights that are not finite: nothing is drawn from them."""
    committed(tmp_path / "run", tiny_shards, "gald", scale=float("nan"))
    words = ["--figure", figure, "--image", key(tiny_shards)]
    words += ["--point", "3,3"] if figure == "local_affinity" else []
    with pytest.raises(SystemExit) as ended:
        cli.run(cli.rayseg, ["analyse", str(tmp_path / "run"), *words])
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 4
    assert "not finite" in line
    assert not (tmp_path / "run" / "analyses").exists()
