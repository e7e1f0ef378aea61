"""The egress guard: what may not leave is refused, named and remembered.

Attempts are announced to the audit hook as the interpreter announces them, so that no packet
leaves even where the guard is broken; test_offline.py does the same with real sockets.
"""

import socket
import sys
import threading

import pytest

from ecg_llm import engine, privacy
from ecg_llm.contracts import EgressError


def dial(address: str) -> str:
    sys.audit("socket.connect", None, (address, 443))
    return "left"


def test_a_connection_out_is_refused_and_named() -> None:
    with privacy.guard([]) as guard:
        with pytest.raises(EgressError, match=r"192\.0\.2\.7"):
            dial("192.0.2.7")
        with pytest.raises(EgressError, match=r"model\.example"):
            sys.audit("socket.getaddrinfo", "model.example", 443, 0, 0, 0)
    assert guard.refused == {"192.0.2.7", "model.example"}
    assert guard.contacted == set()


def test_threads_are_guarded_too() -> None:
    caught: list[Exception] = []

    def leave() -> None:
        try:
            dial("192.0.2.8")
        except OSError as error:
            caught.append(error)

    with privacy.guard([]):
        thread = threading.Thread(target=leave)
        thread.start()
        thread.join()
    assert isinstance(caught[0], EgressError)


def test_worker_processes_are_guarded_too() -> None:
    with privacy.guard([]):
        outcome = next(engine.run(dial, ["192.0.2.9"]))
    assert outcome.failure == "error"
    assert "EgressError" in outcome.note
    assert "192.0.2.9" in outcome.note


def test_this_machine_and_allowed_hosts_pass() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, privacy.guard(["192.0.2.7"]) as guard:
        socket.create_connection(server.getsockname()).close()
        assert dial("192.0.2.7") == "left"
        assert dial("::1") == "left"
    assert guard.refused == set()


def test_compiled_code_is_admitted_as_the_hook_would() -> None:
    privacy.admit("model.example")
    with privacy.guard(["192.0.2.7"]) as guard:
        privacy.admit("192.0.2.7")
        privacy.admit("127.0.0.1")
        with pytest.raises(EgressError, match=r"model\.example"):
            privacy.admit("model.example")
    assert (guard.contacted, guard.refused) == ({"192.0.2.7"}, {"model.example"})


def test_the_guard_ends_with_its_block() -> None:
    with privacy.guard([]):
        pass
    assert dial("192.0.2.7") == "left"
