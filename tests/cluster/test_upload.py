"""What travels with a job: every file that it needs, and nothing that is secret, large or somebody else's."""

import logging
import os
from pathlib import Path
from zipfile import ZipFile

import pytest
from ray._private.runtime_env.packaging import create_package

from rayseg.cluster.package import EXCLUDED, pack
from rayseg.errors import UsageError

ROOT = Path(__file__).parents[2]
CANARY = "canary-7f3a-that-must-stay-here"
SECRET = (
    *(".env", ".env.local", "prod.env", ".netrc", ".pypirc", ".npmrc", ".pgpass", ".git-credentials"),
    *(".aws/credentials", ".ssh/config", ".kube/config", ".docker/config.json", ".config/gcloud/token.txt"),
    *("server.pem", "server.key", "store.p12", "store.jks", "id_rsa", "id_ed25519", "id_ecdsa.old"),
    *("credentials.json", "my-service-account.json", "my_service_account_2.json"),
    *(".rayseg/cluster-token", "cluster-token", "mlflow-password", "auth_token"),
    *(".git/config", ".venv/lib/site.py", "jobs/__pycache__/x.pyc"),
    *("data/frame.png", "runs/a/log.txt", "shards/camvid/dataset.json", "weights.pth", "train-000000.tar", "mlflow.db"),
)
"""Each is planted at the folder's root and, where it is no folder of the root's own, three folders below."""
NEEDED = ("jobs/x.py", "platform/rayseg/data/card.py", "platform/rayseg/config.py", "datasets/camvid.toml", "notes.txt")


@pytest.fixture
def planted(tmp_path):
    """A folder with what a job needs and what it must not get."""
    folder = tmp_path / "work"
    for name in SECRET:
        for place in (folder, folder / "jobs" / "deep" / "er") if not name.startswith("data/") else (folder,):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text(CANARY)
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"needed {name}")
    return folder


def names(archive):
    return {name for name in ZipFile(archive).namelist() if not name.endswith("/")}


def test_no_secret_is_in_the_package(planted, tmp_path):
    pack(planted, tmp_path / "own.zip")
    assert names(tmp_path / "own.zip") == set(NEEDED)
    assert CANARY.encode() not in (tmp_path / "own.zip").read_bytes()  # which is not compressed: the next line tells
    assert b"needed jobs/x.py" in (tmp_path / "own.zip").read_bytes()


def test_rays_own_submit_leaves_them_here_too(planted, tmp_path):
    (planted / ".rayignore").write_text((ROOT / ".rayignore").read_text())
    quiet = logging.Logger("quiet", logging.ERROR)
    create_package(str(planted), tmp_path / "ray.zip", include_gitignore=True, excludes=[], logger=quiet)
    assert names(tmp_path / "ray.zip") == {*NEEDED, ".rayignore"}
    assert CANARY.encode() not in (tmp_path / "ray.zip").read_bytes()


def test_the_repositorys_list_is_the_packages():
    lines = (ROOT / ".rayignore").read_text().splitlines()
    assert [pattern for pattern in EXCLUDED if pattern not in lines] == []


def test_all_that_a_job_imports_travels(tmp_path):
    pack(ROOT, tmp_path / "repository.zip")
    found = names(tmp_path / "repository.zip")
    for top in ("platform/rayseg", "jobs", "datasets"):
        for folder, _, files in os.walk(ROOT / top):
            if "__pycache__" not in folder:
                wanted = {str(Path(folder, name).relative_to(ROOT)) for name in files}
                assert wanted <= found, sorted(wanted - found)
    assert not any(name.startswith((".git/", ".venv/", "tests/")) for name in found)


def test_private_key_under_a_harmless_name_stays(planted, tmp_path):
    (planted / "deploy.txt").write_text(f"-----BEGIN OPENSSH PRIVATE KEY-----\n{CANARY}\n")
    (planted / "public.txt").write_text("-----BEGIN PUBLIC KEY-----\n")
    said = []
    pack(planted, tmp_path / "own.zip", said.append)
    assert names(tmp_path / "own.zip") == {*NEEDED, "public.txt"}
    assert said == ["left out: deploy.txt (a private key)"]


def test_links_out_of_the_folder_and_loops_are_not_followed(planted, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret.txt").write_text(CANARY)
    (planted / "one").symlink_to(tmp_path / "elsewhere" / "secret.txt")
    (planted / "two").symlink_to(tmp_path / "elsewhere")
    (planted / "jobs" / "up").symlink_to(planted)
    (planted / "jobs" / "same.py").symlink_to(planted / "jobs" / "x.py")
    said = []
    pack(planted, tmp_path / "own.zip", said.append)
    assert names(tmp_path / "own.zip") == {*NEEDED, "jobs/same.py"}
    assert CANARY.encode() not in (tmp_path / "own.zip").read_bytes()
    assert {line.split(" (")[0] for line in said} == {"left out: one", "left out: two", "left out: jobs/up"}


def sparse(path, mib):
    with path.open("wb") as file:
        file.truncate(int(mib * 2**20))


def test_large_package_names_its_largest_files(planted, tmp_path):
    for name, mib in (("a.bin", 2), ("b.bin", 7), ("c.bin", 3), ("d.bin", 1)):
        sparse(planted / name, mib)
    said = []
    size = pack(planted, tmp_path / "own.zip", said.append)
    assert size == (tmp_path / "own.zip").stat().st_size
    assert len(said) == 1
    assert "b.bin 7.0 MiB, c.bin 3.0 MiB, a.bin 2.0 MiB" in said[0]


def test_small_package_says_nothing(planted, tmp_path):
    said = []
    assert pack(planted, tmp_path / "own.zip", said.append) == (tmp_path / "own.zip").stat().st_size
    assert said == []


def test_too_large_is_refused_by_name_and_before_it_is_written(planted, tmp_path):
    sparse(planted / "jobs" / "huge.bin", 300)
    sparse(planted / "small.bin", 1)
    with pytest.raises(UsageError, match=r"301 MiB zipped, the head takes 100; .* jobs/huge\.bin 300\.0 MiB, small"):
        pack(planted, tmp_path / "own.zip")
    assert not (tmp_path / "own.zip").exists()
