"""Weights as a GGUF file, by llama.cpp's own converter, and a server that reads it."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ecg_llm.chat import ApiModel
from ecg_llm.config import ApiModelConfig
from ecg_llm.contracts import StepError, UsageError

CONVERTERS = ("convert_hf_to_gguf.py", "convert-hf-to-gguf")
SERVER = "llama-server"
TYPES = {"float32": "f32", "bfloat16": "bf16"}
"""What the converter calls each dtype."""
SECONDS_TO_START = 300.0


def converter(given: Path | None = None) -> list[str]:
    """Return the start of the command line of llama.cpp's converter, given or on the PATH.

    Raises:
        UsageError: there is none.
    """
    if given and not given.is_file():
        raise UsageError(f"There is no converter at {given}; --converter names a file.")
    found = given or next(filter(None, map(shutil.which, CONVERTERS)), None)
    if found is None:
        raise UsageError(
            f"The form gguf needs {CONVERTERS[0]} of llama.cpp, which is not on the PATH: name its "
            f"file with --converter (it lies in the source of llama.cpp, beside the folders "
            f"gguf-py and conversion that it needs)."
        )
    path = str(Path(found).resolve())
    # Its own first line names the system's Python, which need not have torch.
    return [sys.executable, path] if path.endswith(".py") else [path]


def convert(command: list[str], folder: Path, file: Path, dtype: str) -> None:
    """Write the weights of a Hugging Face folder as one GGUF file.

    Raises:
        StepError: the converter failed; its last line says why.
    """
    options = ["--outfile", str(file), "--outtype", TYPES.get(dtype, "auto")]
    ended = subprocess.run(
        [*command, str(folder), *options], capture_output=True, text=True, check=False
    )
    if ended.returncode or not file.is_file():
        lines = (ended.stderr or ended.stdout).strip().splitlines()
        why = lines[-1].strip()[:300] if lines else f"exit code {ended.returncode}"
        raise StepError(
            f"llama.cpp's converter could not write {file.name} ({why}); is it of a version that "
            f"knows this model?"
        )


@contextmanager
def served(file: Path, context: int) -> Iterator[ApiModel | None]:
    """Give the model of this file as llama-server serves it here, or None where there is none.

    Raises:
        StepError: the server does not start with this file.
    """
    program = shutil.which(SERVER)
    if program is None:
        yield None
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "-c", str(context), "--jinja"]
    server = subprocess.Popen(
        [program, "-m", str(file), *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _await(server, port, file)
        settings = ApiModelConfig(
            kind="api", base_url=f"http://127.0.0.1:{port}/v1", model=file.stem, concurrency=1
        )
        yield ApiModel(settings)
    finally:
        server.terminate()
        server.wait()


def _await(server: "subprocess.Popen[bytes]", port: int, file: Path) -> None:
    """Wait until the server has loaded its model."""
    started = time.monotonic()
    while server.poll() is None and time.monotonic() - started < SECONDS_TO_START:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise StepError(
        f"{SERVER} does not start with {file.name}; run it yourself to see why: "
        f"{SERVER} -m {file.name}"
    )
