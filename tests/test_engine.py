"""Worker processes: nothing an item does is lost or takes the run down."""

import os
import time

from ecg_llm import engine


def work(item: str) -> str:
    if item == "hang":
        time.sleep(60)
    if item == "die":
        os._exit(9)
    if item == "raise":
        raise ValueError("no such thing")
    if item == "grow":
        held = bytearray(400 << 20)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(60)
    return item.upper()


def test_every_item_comes_back_whatever_it_does() -> None:
    items = ["a", "hang", "b", "die", "raise", "grow", "c"]
    seen = []
    outcomes = {
        outcome.item: outcome
        for outcome in engine.run(
            work,
            items,
            workers=2,
            timeout=3,
            memory_mb=300,
            progress=lambda done, total: seen.append((done, total)),
        )
    }
    assert {item: outcome.failure for item, outcome in outcomes.items()} == {
        "a": "",
        "b": "",
        "c": "",
        "hang": "timeout",
        "die": "crashed",
        "raise": "error",
        "grow": "memory",
    }
    assert outcomes["b"].value == "B"
    assert "no such thing" in outcomes["raise"].note
    assert seen[-1] == (7, 7)


def test_no_items_start_no_worker() -> None:
    assert list(engine.run(work, [])) == []
