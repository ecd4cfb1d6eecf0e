"""The winner once more: its recipe as TOML, and a `rayseg train` line that was read back and gives the same run."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rayseg import config as configs
from rayseg import recipe as recipes
from rayseg.config import RunConfig
from rayseg.errors import RaysegError
from rayseg.recipe import Recipe
from rayseg.report.values import Rerun
from rayseg.schema import parse, to_dict

FILE = "winner.toml"


def rerun(run_dir: Path, config: RunConfig, *, recipe: str, dataset: str) -> Rerun:
    """Find the line: settings over the sweep's recipe where they say it all, else the recipe of the page itself."""
    toml = as_recipe(config, dataset, f"{run_dir.parents[1].name}, trial {run_dir.name}")
    again = f"{run_dir.parents[1].name}-{run_dir.name}-again"
    where = ["--shards", config.data.shards, "--run", again]
    evaluate = shlex.join(["rayseg", "evaluate", str(run_dir)])
    if (settings := over(recipe, config)) is not None:
        words = ["--recipe", recipe, *where, *(word for each in settings for word in ("--set", each))]
        return Rerun(toml, _line(words), evaluate)
    line = _line(["--recipe", FILE, *where])
    if same(tomllib.loads(toml)["run"], {}, config):
        return Rerun(toml, line, evaluate, with_file=True)
    why = "a setting of it is none, where a recipe can only leave it to its default: this line trains another run"
    return Rerun(toml, line, evaluate, with_file=True, why=why)


def _line(words: list[str]) -> str:
    return shlex.join(["rayseg", "train", *words])


def over(recipe: str, config: RunConfig) -> list[str] | None:
    """Write a run as `--set` texts over a recipe; None where these cannot say it, or the recipe is not there."""
    try:
        run = recipes.load(recipe).run
    except RaysegError:
        return None
    wanted = configs.flatten(to_dict(config))
    decisive = configs.identity(config)
    settings = {"head.name": config.head.name} if run.get("head", {}).get("name") != config.head.name else {}
    begun = _flat(configs.merged(run, settings), config)
    settings |= {name: wanted[name] for name in decisive if name not in begun or begun[name] != wanted[name]}
    texts = [f"{name}={value_text(value)}" for name, value in settings.items()]
    try:
        read = configs.parse_settings(texts)
    except RaysegError:
        return None
    return texts if same(run, read, config) else None


def _flat(run: Mapping[str, Any], config: RunConfig) -> dict[str, Any]:
    """Give all values that a recipe comes to; where it holds only with more settings, those that it writes."""
    try:
        whole = configs.from_dict(configs.merged(run, {"data.shards": config.data.shards}))
    except RaysegError:
        return configs.flatten(run)
    return configs.flatten(to_dict(whole))


def same(run: Mapping[str, Any], settings: Mapping[str, Any], config: RunConfig) -> bool:
    """Say whether a recipe with settings trains the same model as `config`."""
    try:
        made = configs.from_dict(configs.merged(run, {"data.shards": config.data.shards, **settings}))
    except RaysegError:
        return False
    return configs.identity(made) == configs.identity(config)


def as_recipe(config: RunConfig, dataset: str, about: str) -> str:
    """Write a whole run as a recipe, in TOML; what is none is left to its default, the shards to the command line."""
    run = to_dict(config)
    del run["data"]["shards"]
    lines = [f"about = {value_text(f'{about}, as it was trained')}", f"dataset = {value_text(dataset)}"]
    text = "\n".join([*lines, *_table("run", run)]) + "\n"
    parse(Recipe, tomllib.loads(text), FILE)
    return text


def _table(name: str, values: Mapping[str, Any]) -> list[str]:
    plain = {key: v for key, v in values.items() if v is not None and not isinstance(v, Mapping)}
    lines = ["", f"[{name}]", *(f"{_key(key)} = {value_text(v)}" for key, v in plain.items())] if plain else []
    for key, value in values.items():
        if isinstance(value, Mapping):
            lines += _table(f"{name}.{_key(key)}", value)
    return lines


def _key(name: str) -> str:
    return name if name.replace("_", "").replace("-", "").isascii() and name.isidentifier() else value_text(name)


def value_text(value: Any) -> str:
    """Write a value as TOML; None, which TOML has not, as the word `none`."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(value_text, value))}]"
    if value is None:
        return "none"
    if isinstance(value, float):
        return repr(value)
    return json.dumps(value).replace("\x7f", "\\u007f")
