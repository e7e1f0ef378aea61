"""Steps: done means done, a kill loses nothing, and what decides the result decides the key."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from ecg_llm import steps, store
from ecg_llm.contracts import StepError, UsageError
from ecg_llm.records import Draft
from ecg_llm.steps import Step, Work


def draft(number: int, status: str = "ok") -> Draft:
    return Draft(draft_id=f"{number:03}", passage_ids=(), kind="open", status=status)  # type: ignore[arg-type]


def study(folder: Path, calls: list[int], count: int = 3, **settings: object) -> steps.Study:
    def make(work: Work) -> Iterator[Draft]:
        have = {row.draft_id for row in work.made(Draft)}
        for number in range(count):
            if f"{number:03}" not in have:
                calls.append(number)
                yield draft(number)

    return steps.bind(
        folder, [Step("drafts", make, "drafts.jsonl", Draft, parameters=dict(settings))]
    )


def test_a_step_up_to_date_is_not_done_again(tmp_path: Path) -> None:
    calls: list[int] = []
    made = study(tmp_path, calls)
    assert steps.states(made) == {"drafts": "absent"}
    assert steps.run(made, "drafts").rows == 3
    assert steps.run(made, "drafts").state == "done"
    assert calls == [0, 1, 2]
    assert steps.states(made) == {"drafts": "done"}
    assert not list((tmp_path / "partial").iterdir())


def test_a_parameter_that_decides_the_result_makes_the_step_stale(tmp_path: Path) -> None:
    calls: list[int] = []
    steps.run(study(tmp_path, calls, k=5), "drafts")
    changed = study(tmp_path, calls, k=6)
    assert steps.states(changed) == {"drafts": "stale"}
    steps.run(changed, "drafts")
    assert calls == [0, 1, 2] * 2


def test_a_failure_keeps_the_rows_made_and_resumes_after_them(tmp_path: Path) -> None:
    calls: list[int] = []

    def make(work: Work) -> Iterator[Draft]:
        have = len(work.done)
        for number in range(have, 4):
            calls.append(number)
            if number == 2 and not have:
                raise StepError("the server went away")
            yield draft(number)

    made = steps.bind(tmp_path, [Step("drafts", make, "drafts.jsonl", Draft)])
    with pytest.raises(StepError):
        steps.run(made, "drafts")
    assert steps.states(made) == {"drafts": "unfinished"}
    assert steps.run(made, "drafts").rows == 4
    assert calls == [0, 1, 2, 2, 3]


def test_error_rows_are_made_again_only_when_asked(tmp_path: Path) -> None:
    down = [True]

    def make(work: Work) -> Iterator[Draft]:
        have = {row.draft_id for row in work.made(Draft)}
        for number in range(3):
            if f"{number:03}" not in have:
                yield draft(number, "error" if number == 1 and down[0] else "ok")

    made = steps.bind(tmp_path, [Step("drafts", make, "drafts.jsonl", Draft)])
    steps.run(made, "drafts")
    down[0] = False
    assert steps.run(made, "drafts").state == "done"
    steps.run(made, "drafts", retry=True)
    assert [row.status for row in store.read(tmp_path / "drafts.jsonl", Draft)] == ["ok"] * 3


def test_an_edited_table_is_kept_and_makes_later_steps_stale(tmp_path: Path) -> None:
    calls: list[int] = []
    first = study(tmp_path, calls).steps["drafts"]
    second = Step("after", lambda work: [], "after.jsonl", Draft, inputs=("drafts",))
    made = steps.bind(tmp_path, [first, second])
    for name in made.steps:
        steps.run(made, name)
    rows = store.read(tmp_path / "drafts.jsonl", Draft)
    store.write(tmp_path / "drafts.jsonl", rows[:2])
    assert steps.states(made) == {"drafts": "edited", "after": "stale"}
    steps.run(made, "drafts")
    assert len(store.read(tmp_path / "drafts.jsonl", Draft)) == 2
    changed = study(tmp_path, calls, k=2)
    steps.run(changed, "drafts")
    (kept,) = tmp_path.glob("drafts.edited-*.jsonl")
    assert len(store.read(kept, Draft)) == 2


def test_steps_of_similar_names_keep_their_own_partial_rows(tmp_path: Path) -> None:
    calls: list[int] = []
    plain = study(tmp_path, calls).steps["drafts"]
    other = tmp_path / "partial" / "drafts-of-a-second-0123456789abcdef.jsonl"
    other.parent.mkdir()
    other.write_text("")
    steps.run(steps.bind(tmp_path, [plain]), "drafts")
    assert other.exists()


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from ecg_llm import steps
    from ecg_llm.records import Draft
    from ecg_llm.steps import Step

    def make(work):
        have = {row.draft_id for row in work.made(Draft)}
        for number in range(50):
            if f"{number:03}" not in have:
                if number == 20 and sys.argv[2] == "die":
                    with open(next(Path(sys.argv[1]).glob("partial/*.jsonl")), "ab") as file:
                        file.write(b'{"draft_id": "torn')
                    os.kill(os.getpid(), signal.SIGKILL)
                yield Draft(draft_id=f"{number:03}", passage_ids=(), kind="open")

    step = Step("drafts", make, "drafts.jsonl", Draft)
    steps.run(steps.bind(Path(sys.argv[1]), [step]), "drafts")
"""


def test_kill_9_in_the_middle_gives_the_same_bytes(tmp_path: Path) -> None:
    def go(folder: Path, how: str) -> int:
        folder.mkdir(exist_ok=True)
        code = textwrap.dedent(KILLED)
        return subprocess.run([sys.executable, "-c", code, str(folder), how]).returncode

    assert go(tmp_path / "a", "die") == -signal.SIGKILL
    assert go(tmp_path / "a", "live") == 0
    assert go(tmp_path / "b", "live") == 0
    assert (tmp_path / "a/drafts.jsonl").read_bytes() == (tmp_path / "b/drafts.jsonl").read_bytes()
    manifest = json.loads((tmp_path / "a/manifests/drafts.json").read_text())
    assert manifest["rows"] == 50


def test_a_second_process_is_kept_out(tmp_path: Path) -> None:
    with steps.locked(tmp_path):
        child = os.fork()
        if child == 0:
            try:
                with steps.locked(tmp_path):
                    os._exit(0)
            except UsageError:
                os._exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_files_of_one_name_from_two_places_both_decide(tmp_path: Path) -> None:
    folder = tmp_path / "study"
    files = (tmp_path / "a" / "dev.jsonl", tmp_path / "b" / "dev.jsonl")
    for file in files:
        file.parent.mkdir()
        file.write_text("one")
    made = steps.bind(folder, [Step("drafts", lambda work: [], "drafts.jsonl", Draft, files=files)])
    keys = [steps.key(made, "drafts")]
    for file in files:
        file.write_text("two")
        keys.append(steps.key(made, "drafts"))
    assert len(set(keys)) == 3
