"""The egress guard: connections to hosts that this study does not allow are refused and named.

The guard is an audit hook (PEP 578), so it sees every socket that Python code opens, in every
thread and library. Compiled code that opens sockets of its own is not seen: who uses such code
asks `admit` first. For the Hugging Face libraries the guard also sets their offline switches, and
docs/how-to/privacy.md tells how to run the whole program without a route.
"""

import ipaddress
import os
import socket
import sys
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from ecg_llm.contracts import EgressError

VARIABLE = "ECG_LLM_ALLOWED_HOSTS"
"""Hands the allowed hosts to worker processes."""
OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
QUIET = ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")


@dataclass
class Guard:
    """Hosts allowed, and what was tried while the guard was on."""

    allowed: frozenset[str]
    contacted: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    _addresses: set[str] = field(default_factory=set)
    _own: threading.local = field(default_factory=threading.local)

    def check(self, host: str, *, name: bool) -> None:
        """Let this host pass or raise EgressError; `name`: it is about to be resolved."""
        if getattr(self._own, "resolving", False) or _is_local(host):
            return
        if host in self.allowed or host in self._addresses:
            if name:
                self._resolve(host)
                self.contacted.add(host)
            return
        self.refused.add(host)
        raise EgressError(
            f"A connection to {host} was refused: this study may not reach it; "
            f"if it should, add the host to privacy.allow in study.yaml."
        )

    def _resolve(self, host: str) -> None:
        self._own.resolving = True
        try:
            self._addresses |= {str(found[4][0]) for found in socket.getaddrinfo(host, None)}
        except OSError:
            pass  # the caller's own look-up will say so
        finally:
            self._own.resolving = False


_active: list[Guard] = []
_installed = threading.Event()


def _hook(event: str, arguments: tuple[object, ...]) -> None:
    if not _active or not event.startswith("socket."):
        return
    if event in ("socket.getaddrinfo", "socket.gethostbyname"):
        host = arguments[0]
        if isinstance(host, bytes):
            host = host.decode("ascii", "replace")
        if isinstance(host, str) and host:
            _active[-1].check(host, name=True)
    elif event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple):
            _active[-1].check(str(address[0]), name=False)


@contextmanager
def guard(allowed: Collection[str]) -> Iterator[Guard]:
    """Refuse every connection but those to this machine and to the `allowed` hosts."""
    if not _installed.is_set():
        _installed.set()
        sys.addaudithook(_hook)
    made = Guard(frozenset(allowed))
    before = {name: os.environ.get(name) for name in (VARIABLE, *OFFLINE, *QUIET)}
    os.environ[VARIABLE] = ",".join(sorted(made.allowed))
    os.environ |= dict.fromkeys(QUIET, "1")
    if not any(host.endswith("huggingface.co") for host in made.allowed):
        os.environ |= dict.fromkeys(OFFLINE, "1")
    _active.append(made)
    try:
        yield made
    finally:
        _active.remove(made)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def guard_worker() -> None:
    """Put a worker process under its parent's guard, for as long as it lives."""
    allowed = os.environ.get(VARIABLE)
    if allowed is not None and not _active:
        sys.addaudithook(_hook)
        _active.append(Guard(frozenset(host for host in allowed.split(",") if host)))


def admit(host: str) -> None:
    """Let compiled code connect to this host, or raise EgressError; noted as every contact is."""
    if _active:
        _active[-1].check(host, name=True)


def allows(domain: str) -> bool:
    """Return whether a host of this domain may be reached; without a guard any may."""
    return not _active or any(host.endswith(domain) for host in _active[-1].allowed)


def host_of(url: str) -> str:
    """Return the host of a URL."""
    return urlsplit(url).hostname or url


def _is_local(host: str) -> bool:
    if host in ("localhost", ""):
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
