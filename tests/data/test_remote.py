"""Remote shards: what a URL may say, what comes over https and s3, and the cache that two processes share."""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import os
import shutil
import ssl
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tiny_sets import make_card, make_files

from rayseg import config
from rayseg.data import cache, open_shards, remote, shards, transport
from rayseg.data.cache import GIB, ShardCache
from rayseg.data.manifest import ShardFile
from rayseg.data.reader import ShardSet
from rayseg.errors import ClusterError, DataError, UsageError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty train pairs in eight shards."""
    base = tmp_path_factory.mktemp("remote")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD_SAMPLES", 5)
        shards.write(make_card(), make_files(base / "raw", 40, 5), base / "www" / "set")
    return base / "www" / "set"


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder and counts what was asked for.

    By a file's name: `wrong` gives other bytes, `moved` sends elsewhere, `answers` refuses with a code, `broken` ends
    the connection in the middle so many times, `slow` sends a half and then nothing.
    """

    daemon_threads = True

    def __init__(self, root: Path) -> None:
        self.asked: list[str] = []
        self.wrong: dict[str, list[bytes]] = {}
        self.moved: dict[str, str] = {}
        self.answers: dict[str, list[int]] = {}
        self.broken: dict[str, int] = {}
        self.slow: set[str] = set()
        self.awake = threading.Event()
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(root)))


class Handler(http.server.SimpleHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked.append(name)
        if self.server.wrong.get(name):
            body = self.server.wrong[name].pop(0)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)
        elif self.server.answers.get(name):
            self.send_error(self.server.answers[name].pop(0))
        elif self.server.broken.get(name) or name in self.server.slow:
            body = Path(self.translate_path(self.path)).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            if name in self.server.slow:
                self.server.awake.wait(60)
            else:
                self.server.broken[name] -= 1
        elif name in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[name])
            self.end_headers()
        else:
            super().do_GET()

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that has signed itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number())
    made = made.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    made = made.add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
    made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    base = tmp_path_factory.mktemp("tls")
    paths = base / "cert.pem", base / "key.pem"
    paths[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    paths[1].write_bytes(key.private_bytes(*form))
    return paths


@pytest.fixture
def plain(folder: Path) -> Iterator[Server]:
    """A server without TLS."""
    with Server(folder.parent) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server(folder: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server with TLS whose certificate is trusted."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    transport._opener.cache_clear()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    with Server(folder.parent) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()
    transport._opener.cache_clear()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "WAITS_S", (0.01, 0.01))


def url_of(server: Server, scheme: str = "https") -> str:
    return f"{scheme}://127.0.0.1:{server.server_address[1]}/set"


def options(tmp_path: Path, **changes: Any) -> remote.Config:
    return remote.Config(cache_dir=str(tmp_path / "cache"), **changes)


def pixels(opened: ShardSet) -> list[tuple[str, bytes, bytes]]:
    return [(key, image.tobytes(), mask.tobytes()) for key, image, mask in opened]


# --- what comes -----------------------------------------------------------------------------------------------------


def test_https_gives_what_the_folder_gives_and_each_shard_once(server: Server, folder: Path, tmp_path: Path) -> None:
    wanted = pixels(open_shards(folder, "train"))
    opened = open_shards(url_of(server), "train", options(tmp_path))
    assert server.asked == ["dataset.json", "index.parquet"], "no shard is fetched before it is read"
    assert pixels(opened) == wanted
    assert pixels(open_shards(url_of(server) + "/", "train", options(tmp_path))) == wanted
    tars = [name for name in server.asked if name.endswith(".tar")]
    assert sorted(tars) == [f"train-{i:06d}.tar" for i in range(8)]
    kept = list((tmp_path / "cache").iterdir())
    assert {path.stat().st_mode & 0o777 for path in kept if path.suffix == ".tar"} == {0o600}
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700


def test_an_untrusted_certificate_is_refused(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    transport._opener.cache_clear()
    with pytest.raises(ClusterError, match=r"cannot fetch it: .*certificate"):
        open_shards(url_of(server), "train", options(tmp_path))


def test_s3_gives_what_the_folder_gives(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    from moto.server import ThreadedMotoServer
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    bucket = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    bucket.start()
    try:
        host = "{}:{}".format(*bucket.get_host_and_port())
        away = fs.S3FileSystem(endpoint_override=host, scheme="http", allow_bucket_creation=True)
        away.create_dir("data")
        fs.copy_files(str(folder), "data/set", destination_filesystem=away)
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}")
        with pytest.raises(DataError, match=r"without TLS .*allow_url_schemes"):
            open_shards("s3://data/set", "train", options(tmp_path))
        allowed = options(tmp_path, allow_url_schemes=("http",))
        assert pixels(open_shards("s3://data/set", "train", allowed)) == pixels(open_shards(folder, "train"))
        with pytest.raises(DataError, match=r"no dataset.json in it \(s3://data/nothing\)"):
            open_shards("s3://data/nothing", "train", allowed)
    finally:
        bucket.stop()


def test_a_run_may_name_a_url(server: Server, tmp_path: Path) -> None:
    plain = {"data.shards": url_of(server), "data.remote.cache_dir": str(tmp_path / "c"), "data.remote.cache_gib": 0.5}
    base = {"head": {"name": "fcn"}, "augment": {"crop_px": [8, 8]}, "train": {"steps": 1, "batch": 2, "eval_every": 1}}
    data = config.from_dict(config.merged(base, plain)).data
    assert len(open_shards(data.shards, data.val_split, data.remote)) == 5


# --- what must not ----------------------------------------------------------------------------------------------------

REFUSED = [
    "pipe:touch pwned",
    "pipe:touch pwned |",
    " pipe:touch pwned",
    "PIPE:touch pwned",
    "http://127.0.0.1/set",
    "scp://host/set",
    "sftp://host/set",
    "ais://bucket/set",
    "hf://datasets/set",
    "ftp://host/set",
    "data:text/plain,x",
    "s3:bucket/set",
    "s3:/bucket/set",
    "https:///set",
    "https://user:password@host/set",
    "https://host/set?token=1",
    "https://host/set#part",
    "https://host/a/../../set",
    "https://host/{a,b}",
    "https://host/set-*",
    "https://host/a%2e%2e/b",
    "s3://bucket/a b",
    "s3://bucket/a\x00b",
    "https://-host/set",
    "pipe://touch pwned",
]


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("as_path", [False, True])
def test_what_is_no_place_for_shards(path: str, as_path: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GOPEN_REWRITE", "/=pipe:touch pwned;")
    monkeypatch.setenv("USE_AIS_FOR", "https:s3")
    with pytest.raises(DataError, match=r"not read from|not taken"):
        open_shards(Path(path) if as_path else path, "train", options(tmp_path))
    assert not list(tmp_path.iterdir())


SECRET = "s3cr-t"
WITH_SECRETS = [
    f"https://user:{SECRET}@host/set",
    f"https:user:{SECRET}@host/set",
    f"https://user:a/{SECRET}@host/set",
    f"https://user:a?{SECRET}@host/set",
    f"https://host/set?token={SECRET}",
    f"https://host/set#{SECRET}",
    f"http://user:{SECRET}@host/set",
    f"s3:key:{SECRET}@bucket/set",
    f"ftp://host/set?a=b&token={SECRET}",
    f"pipe:curl -H token:{SECRET} host",
]


@pytest.mark.parametrize("path", WITH_SECRETS)
def test_no_message_holds_a_secret(path: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=path.split(":")[0]) as caught:
        open_shards(path, "train", options(tmp_path))
    assert SECRET not in str(caught.value)
    assert SECRET not in repr(caught.value)


def test_an_endpoint_is_said_without_its_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:9")
    with pytest.raises(DataError, match="without TLS") as caught:
        open_shards("s3://bucket/set", "train", options(tmp_path))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("url", ["gs://my_bucket/set", "s3://a.b-c/d=1/e+f", "https://host:8443/~me/set"])
def test_what_buckets_and_hosts_are_called(url: str) -> None:
    assert str(transport.parse(url + "/")) == url


@pytest.mark.parametrize("path", ["{pipe:touch pwned}", "{000..009}.tar", "-", "a{pipe:touch pwned,b}"])
def test_braces_are_names(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="no such folder here"):
        open_shards(path, "train")
    assert not list(tmp_path.iterdir())


def test_a_file_url_is_its_path(folder: Path) -> None:
    assert len(open_shards(f"file://{folder}", "train")) == 40


def test_a_manifest_names_no_other_place(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "set"))
    text = (copy / "dataset.json").read_text()
    for name in ("pipe:touch pwned", "../train-000000.tar", "https://host/train-000000.tar", "{a,b}-000000.tar"):
        (copy / "dataset.json").write_text(text.replace("train-000000.tar", name))
        with pytest.raises(DataError, match="shards"):
            open_shards(copy, "train")


def test_http_has_to_be_allowed(plain: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not read from 'http:'"):
        open_shards(url_of(plain, "http"), "train", options(tmp_path))
    assert not plain.asked
    allowed = options(tmp_path, allow_url_schemes=("http",))
    assert len(pixels(open_shards(url_of(plain, "http"), "train", allowed))) == 40


def test_a_redirect_to_http_is_not_followed(server: Server, plain: Server, tmp_path: Path) -> None:
    server.moved["dataset.json"] = url_of(plain, "http") + "/dataset.json"
    with pytest.raises(ClusterError, match="unknown url type: http"):
        open_shards(url_of(server), "train", options(tmp_path))
    server.moved["dataset.json"] = "file:///etc/passwd"
    with pytest.raises(ClusterError, match="cannot fetch it"):
        open_shards(url_of(server), "train", options(tmp_path))
    assert not plain.asked


# --- damage -----------------------------------------------------------------------------------------------------------


def test_a_shard_of_other_bytes_is_fetched_again_and_then_refused(server: Server, folder: Path, tmp_path: Path) -> None:
    whole = (folder / "train-000000.tar").read_bytes()
    flipped = bytearray(whole)
    flipped[700] ^= 1
    wrong = {
        rf"{len(whole) - 10} of its {len(whole)} bytes came": whole[:-10],
        rf"more than its {len(whole)} bytes came": whole + b"x",
        "not those that were written": bytes(flipped),
        r"\b6 of its": b"<html>",
        r"\b0 of its": b"",
    }
    opened = open_shards(url_of(server), "train", options(tmp_path))
    for says, body in wrong.items():
        server.wrong["train-000000.tar"] = [body] * 3
        with pytest.raises(DataError, match=rf"the fetched shard is wrong: .*{says}.*set/train-000000.tar"):
            opened.read(0)
        assert not list((tmp_path / "cache").glob("*.tar"))
        assert not list((tmp_path / "cache").glob("*.part"))
    server.wrong["train-000000.tar"] = [bytes(flipped)] * 2
    assert opened.read(0).key == "a000", "the third attempt is right"


def test_what_is_missing_is_said_at_once(server: Server, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no dataset.json in it"):
        open_shards(url_of(server) + "/none", "train", options(tmp_path))
    opened = open_shards(url_of(server), "train", options(tmp_path))
    server.moved["train-000001.tar"] = "/nowhere"
    with pytest.raises(DataError, match=r"the shard is missing .*train-000001.tar"):
        opened.read(7)
    assert server.asked.count("train-000001.tar") == 1


def test_storage_that_is_away_is_said(tmp_path: Path, free_port: int) -> None:
    with pytest.raises(ClusterError, match=r"cannot fetch it: .*refused"):
        open_shards(f"https://127.0.0.1:{free_port}/set", "train", options(tmp_path))


def test_a_cached_shard_that_the_disk_changed_is_fetched_again(server: Server, tmp_path: Path) -> None:
    opened = open_shards(url_of(server), "train", options(tmp_path))
    before = opened.read(3)
    for path in (tmp_path / "cache").glob("*.tar"):
        data = bytearray(path.read_bytes())
        data[int(opened.index.image_offset[3]) + 60] ^= 1
        path.write_bytes(data)
    np.testing.assert_array_equal(opened.read(3).image, before.image)
    assert server.asked.count("train-000000.tar") == 2


SHARD = "train-000000.tar"


@pytest.mark.parametrize("name", ["dataset.json", "index.parquet", SHARD])
def test_a_connection_that_breaks_is_the_networks_fault(server: Server, tmp_path: Path, name: str) -> None:
    """The bytes that came are no damaged shard: `skip` would count it, and the folder is sound."""
    server.broken[name] = 3
    with pytest.raises(ClusterError, match=rf"the connection broke, \d+ bytes before the end .*/{name}"):
        open_shards(url_of(server), "train", options(tmp_path)).read(0)
    assert server.asked.count(name) == 3
    server.broken[name] = 2
    assert open_shards(url_of(server), "train", options(tmp_path)).read(0).key == "a000"


@pytest.mark.parametrize("code", [500, 503, 403])
def test_a_server_that_refuses_is_asked_three_times(server: Server, tmp_path: Path, code: int) -> None:
    opened = open_shards(url_of(server), "train", options(tmp_path))
    server.answers[SHARD] = [code] * 3
    with pytest.raises(ClusterError, match=rf"the server answers {code} .*/{SHARD}"):
        opened.read(0)
    assert not list((tmp_path / "cache").glob("*.*"))
    server.answers[SHARD] = [code] * 2
    assert opened.read(0).key == "a000"


def test_a_server_that_falls_silent_is_given_up(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = open_shards(url_of(server), "train", options(tmp_path))
    monkeypatch.setattr(transport, "TIMEOUT_S", 0.2)
    server.slow.add(SHARD)
    with pytest.raises(ClusterError, match=rf"timed out .*/{SHARD}"):
        opened.read(0)
    server.awake.set()
    assert not list((tmp_path / "cache").glob("*.*"))


def test_a_server_that_dies_is_said(
    folder: Path, certificate: tuple[Path, Path], server: Server, tmp_path: Path
) -> None:
    opened = open_shards(url_of(server), "train", options(tmp_path))
    server.shutdown()
    server.server_close()
    with pytest.raises(ClusterError, match=r"cannot fetch it: .*refused"):
        opened.read(0)


# --- the cache --------------------------------------------------------------------------------------------------------


def made(size: int, seed: int) -> tuple[ShardFile, bytes]:
    import hashlib

    data = np.random.default_rng(seed).bytes(size)
    return ShardFile(size=size, sha256=hashlib.sha256(data).hexdigest()), data


def get(kept: ShardCache, file: ShardFile, data: bytes, fetched: list[str] | None = None) -> bytes:
    """Read a shard through the cache; note what was fetched."""

    def fetch() -> Iterator[bytes]:
        if fetched is not None:
            fetched.append(file.sha256)
        for start in range(0, len(data), 1000):
            yield data[start : start + 1000]

    descriptor = kept.open(file, fetch)
    try:
        return os.pread(descriptor, len(data) + 1, 0)
    finally:
        os.close(descriptor)


def test_the_cache_keeps_to_its_bound_and_drops_what_was_used_longest_ago(tmp_path: Path) -> None:
    kept, files, fetched = ShardCache(tmp_path, 3500), [made(1000, i) for i in range(6)], list[str]()
    for number in (0, 1, 2, 0, 3, 0, 4, 0, 2, 5, 0):
        file, data = files[number]
        assert get(kept, file, data, fetched) == data
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 3500
        time.sleep(0.002)
    order = [next(i for i, (file, _) in enumerate(files) if file.sha256 == name) for name in fetched]
    assert order == [0, 1, 2, 3, 4, 2, 5], "0 was used all the time and never left"


def test_what_a_killed_process_left_makes_room(tmp_path: Path) -> None:
    kept, (file, data), (other, _) = ShardCache(tmp_path, 1500), made(1000, 0), made(1000, 1)
    (tmp_path / f"{other.sha256}.part").write_bytes(bytes(1000))
    assert get(kept, file, data) == data
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == [f"{file.sha256}.tar"]
    (tmp_path / f"{other.sha256}.part").write_bytes(b"half")
    assert get(kept, other, made(1000, 1)[1]) == made(1000, 1)[1]


def test_a_full_disk_is_said(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    opened = open_shards(url_of(server), "train", options(tmp_path))
    monkeypatch.setattr(cache.os, "pwrite", full)
    with pytest.raises(ClusterError, match="no room for a shard"):
        opened.read(0)
    monkeypatch.undo()
    assert not list((tmp_path / "cache").glob("*.*"))


def test_a_cache_that_cannot_be_written_is_no_fault_of_the_network(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    opened = open_shards(url_of(server), "train", options(tmp_path))
    with pytest.raises(ClusterError, match=r"cannot keep a shard: .*/cache.*data.remote.cache_dir"):
        opened.read(0)
    assert SHARD not in server.asked


def test_a_disk_that_takes_a_part_at_a_time_gets_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, (file, data) = os.pwrite, made(5000, 0)
    monkeypatch.setattr(cache.os, "pwrite", lambda descriptor, part, at: write(descriptor, part[:300], at))
    assert get(ShardCache(tmp_path, 10**6), file, data) == data


def test_what_two_killed_processes_left_does_not_lock_a_smaller_cache(tmp_path: Path) -> None:
    """Both shards are wanted at once, and their halves together are more than it may hold now."""
    kept, files, found = ShardCache(tmp_path, 1500), [made(1000, i) for i in range(2)], list[bool]()
    for file, _ in files:
        (tmp_path / f"{file.sha256}.part").write_bytes(bytes(1000))
    gate = threading.Barrier(2)

    def want(file: ShardFile, data: bytes) -> None:
        gate.wait(60)
        found.append(get(kept, file, data) == data)

    threads = [threading.Thread(target=want, args=each, daemon=True) for each in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert found == [True, True]


def test_a_cache_smaller_than_the_work_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"cache_gib"):
        open_shards(url_of(server), "train", options(tmp_path, cache_gib=1000 / GIB))
    size = max(file.size for file in open_shards(url_of(server), "train", options(tmp_path))._store._shards.values())
    three = open_shards(url_of(server), "train", options(tmp_path, cache_gib=3.5 * size / GIB))
    for wrong in (None, 4, 99):
        with pytest.raises(UsageError, match=r"data.mixed_shards to 3 or less"):
            three.check_order(wrong)
    three.check_order(3)
    open_shards(url_of(server), "train", options(tmp_path)).check_order(None)


def _reads(folder: Path, seed: int, log: Path, barrier: Any) -> None:
    """Read all shards some times over in a random order, and note every fetch and every wrong byte."""
    kept, files, fetched = ShardCache(folder, 3500), [made(1000, i) for i in range(6)], list[str]()
    rng, wrong, most = np.random.default_rng(seed), 0, 0
    barrier.wait(60)
    for number in rng.integers(0, 6, 150):
        file, data = files[number]
        wrong += get(kept, file, data, fetched) != data
        most = max(most, kept.size())
    log.write_text(f"{wrong} {most} {len(fetched)}")


def test_processes_and_threads_share_it_without_a_race(tmp_path: Path) -> None:
    kept = tmp_path / "cache"
    context = multiprocessing.get_context("fork" if not threading.active_count() > 1 else "spawn")
    barrier = context.Barrier(2)
    logs = [tmp_path / str(i) for i in range(2)]
    workers = [context.Process(target=_reads, args=(kept, i, logs[i], barrier)) for i in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    for log in logs:
        wrong, most, fetched = map(int, log.read_text().split())
        assert wrong == 0
        assert most <= 3500
        assert fetched < 150


def test_a_shard_that_came_between_the_look_and_the_lock_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept, (file, data), fetched, look = ShardCache(tmp_path, 10**6), made(5000, 0), list[str](), ShardCache._opened
    get(kept, file, data)
    late = iter([True])

    def looked(self: ShardCache, shard: ShardFile) -> int:
        if next(late, False):
            raise FileNotFoundError
        return look(self, shard)

    monkeypatch.setattr(ShardCache, "_opened", looked)
    assert get(kept, file, data, fetched) == data
    assert not fetched
    assert not list(tmp_path.glob("*.part"))


def test_one_process_fetches_what_many_want_at_once(tmp_path: Path) -> None:
    (file, data), fetched, found = made(50000, 0), list[str](), list[bool]()
    kept, gate = ShardCache(tmp_path, 10**6), threading.Barrier(8)

    def want() -> None:
        gate.wait(60)
        found.append(get(kept, file, data, fetched) == data)

    threads = [threading.Thread(target=want) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 8
    assert len(fetched) == 1
