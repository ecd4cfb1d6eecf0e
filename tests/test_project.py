"""Guards on the tree itself: what must not exist, and what every file and job keeps to."""

import ast
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "platform").rglob("*.py")) + sorted((ROOT / "jobs").glob("*.py"))
JOBS = sorted(path for path in (ROOT / "jobs").glob("*.py") if not path.name.startswith("_"))
NO_NOUNS = {"utils", "util", "misc", "common", "helpers", "helper", "stuff", "tools", "base", "core", "manager"}


@pytest.mark.parametrize("folder", ["platform", "datasets"])
def test_folder_is_no_package(folder):
    """A `platform` package would hide the standard library's, a `datasets` package the one of that name."""
    assert not (ROOT / folder / "__init__.py").exists()


def test_standard_library_keeps_its_platform():
    code = "import platform, rayseg; print(platform.system())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == sys.platform.capitalize()


def test_files_are_named_for_nouns():
    assert not [path for path in SOURCES if path.stem in NO_NOUNS]


def test_jobs_shadow_no_dependency():
    """A job's folder is first on its own import path: jobs/ray.py would be what `import ray` finds."""
    taken = set(importlib.metadata.packages_distributions()) | set(sys.stdlib_module_names)
    assert not [path.name for path in (ROOT / "jobs").glob("*.py") if path.stem in taken]


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_job_can_be_submitted_by_its_path(path):
    """`ray job submit jobs/x.py` hands the path to a shell."""
    assert path.stat().st_mode & 0o111
    assert path.read_text().startswith("#!/usr/bin/env python3\n")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_first_line_says_what_the_file_is_for(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


BANNED = {
    r"\bpickle\.loads?\(": "pickle runs code",
    r"weights_only\s*=\s*False": "pickle runs code",
    r"allow_pickle\s*=\s*True": "pickle runs code",
    r"\byaml\.load\(": "yaml.load runs code",
    r"shell\s*=\s*True": "a shell runs what a config says",
    r"""["']ray["'],\s*["']stop["']""": "`ray stop` ends every Ray on the machine",
}


@pytest.mark.parametrize("pattern", BANNED)
def test_sources_keep_clear_of(pattern):
    found = [path.name for path in SOURCES if re.search(pattern, path.read_text())]
    assert not found, BANNED[pattern]


def test_constraints_pin_every_dependency_exactly_and_name_no_host():
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line) for line in lines)
    pinned = {re.sub(r"[-_.]+", "-", line.split("==")[0]).lower() for line in lines}
    wanted = importlib.metadata.requires("rayseg") or []
    names = {re.sub(r"[-_.]+", "-", re.match(r"[A-Za-z0-9._-]+", line)[0]).lower() for line in wanted}
    assert names <= pinned


def test_imports_flow_one_way():
    """The import contracts of pyproject.toml, so that `make test` fails where `make check` would."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
