"""A study with a panel of judges behind servers: who may judge, what it takes, and kill -9."""

import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from planted import SHOWN
from support import make_study, run_cli

from ecg_llm.records import Answer, Judgement, KeyFacts, Question, Reliability, Score
from ecg_llm.steps import read_table
from ecg_llm.testing import FakeServer

pytestmark = pytest.mark.slow

STUDY = """
title: A judged study
questions:
  writer: llm
  model: server
  limit: 1
  split: {{train: 0.8, val: ["10-*.pdf"], test: ["12-*.pdf"], seen: 0.2}}
  kinds: [open]
  imports: [{{path: handbook, name: handbook, split: test_seen}}]
models:
  server: {{kind: api, base_url: "{url}", model: llama-3, concurrency: 2, price_out: 4}}
  other: {{kind: api, base_url: "{url}", model: llama-3, revision: short, concurrency: 2}}
arms:
  one: {{model: server}}
  two: {{model: other}}
  three: {{model: server, retrieve: true}}
answers: {{limit: 12, k: 2}}
scores:
  bertscore: false
  facts: {{model: server}}
  judges:
    strict: {{model: server, modes: [verdict, ranking]}}
estimates: {{resamples: 1000}}
"""
ALLOWED = ("--set", "scores.judges.strict.related=allow")


def reply(messages: list[dict[str, str]], body: dict[str, object]) -> str:
    """Answer, list, check and judge, by what the prompt asks for; every fifth verdict is prose."""
    text = messages[0]["content"]
    if "who ranks" in text:
        best = sorted(SHOWN.findall(text), key=lambda answer: -len(answer[2]))
        return json.dumps({"reason": "Length.", "ranking": " > ".join(n for n, *_ in best)})
    if "who grades" in text:
        if len(text) % 5 == 0 and len(messages) == 1:
            return "It is correct."
        found = {"reason": "It says so.", "evidence": "", "quote": ""}
        return "Well. " + json.dumps(found | {"verdict": "correct", "harm": "none"})
    if "prepares the marking" in text:
        reference = re.findall(r"(?m)^> (.+)", text.partition("by the examiners:")[2])
        fact = f"The reference states {' '.join(reference)[:200].rsplit(' ', 1)[0]}"
        return json.dumps({"facts": [fact]}) + " Done!"
    if "looks through" in text:
        return json.dumps({"1": "stated" if "[1]" not in text else "missing"})
    if "<<<TEXT" in text:
        return '{"questions": []}'
    return "B" if "B) " in text else f"It is as the reference says{' and more' * (len(text) % 7)}."


def prompts(server: FakeServer, words: str) -> list[str]:
    """Return the chats that hold these words and were not refused for their JSON mode."""
    asked = [r["messages"] for r in server.requests if "response_format" not in r]
    return [json.dumps(chat) for chat in asked if words in chat[0]["content"]]


def test_a_panel_from_refusal_to_report(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s")
    with FakeServer(reply, model="llama-3", rejects={"response_format"}) as server:
        (folder / "study.yaml").write_text(STUDY.format(url=server.base_url))

        refused = run_cli("run", "-C", str(folder))
        assert refused.returncode == 2
        assert "related: allow" in refused.stderr
        assert not server.requests, "a judge that may not judge is refused before anything is paid"
        assert "related" in run_cli("doctor", "-C", str(folder)).stdout

        early = run_cli("scores", "--preview", "-C", str(folder), *ALLOWED)
        assert early.returncode == 2
        assert "ecg-llm answers" in early.stderr

        assert run_cli("answers", "-C", str(folder), *ALLOWED).returncode == 0
        preview = run_cli("scores", "--preview", "--json", "-C", str(folder), *ALLOWED)
        loads = {
            (load["judge"], load["mode"]): load for load in json.loads(preview.stdout)["judges"]
        }
        assert not prompts(server, "who grades")

        # Some of the judging, then the power goes.
        command = [sys.executable, "-m", "ecg_llm.cli", "run", "-C", str(folder), *ALLOWED]
        server.delay = 0.02
        with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as run:
            while len(prompts(server, "who grades")) < 8:
                assert run.poll() is None, "the run ended before it could be killed"
                time.sleep(0.02)
            run.send_signal(signal.SIGKILL)
        server.delay = 0
        finished = run_cli("run", "-C", str(folder), *ALLOWED)
        assert finished.returncode == 0, finished.stderr
        assert "is related to" in finished.stderr
        asked = Counter(prompts(server, "who grades"))
        assert sum(asked.values()) - len(asked) <= 2, "only what was under way is asked twice"
        assert len(prompts(server, "prepares the marking")) <= loads["facts", "list"]["requests"]

    answers = read_table(folder / "answers.jsonl", Answer)
    opens = {
        row.question_id
        for row in read_table(folder / "questions.jsonl", Question)
        if row.kind == "open"
    }
    judged = read_table(folder / "judgements.jsonl", Judgement)
    of_mode = Counter(row.mode for row in judged)
    assert (
        of_mode["verdict"] == of_mode["facts"] == sum(row.question_id in opens for row in answers)
    )
    assert of_mode["ranking"] == loads["strict", "ranking"]["requests"]
    assert any(row.former == "It is correct." for row in judged)
    assert all(not row.reason for row in judged), "each was readable when asked again"
    assert len(read_table(folder / "facts.jsonl", KeyFacts)) == len(
        opens & {row.question_id for row in answers}
    )
    scores = read_table(folder / "scores.jsonl", Score)
    by_metric = Counter(row.metric for row in scores if row.status == "scored")
    assert by_metric["verdict"] == by_metric["ranking"] == by_metric["fact_recall"]
    found = {
        (row.instrument, row.measure): row
        for row in read_table(folder / "reliability.jsonl", Reliability)
    }
    assert found["strict", "asked_again"].value
    assert found["strict", "slot_effect"].value is not None
    page = (folder / "report" / "index.html").read_text("utf-8")
    assert "LLM judge" in page
    assert "is related to" in page

    # What was judged is kept, also where the model keeps no replies, if settings of it are new.
    (folder / "cache.sqlite").unlink()
    judge = ("run", "--to", "judgements", "-C", str(folder), *ALLOWED)
    with FakeServer(reply, model="llama-3", rejects={"response_format"}) as server:
        text = (folder / "study.yaml").read_text().replace("verdict, ranking]", "verdict]")
        (folder / "study.yaml").write_text(re.sub(r"http://\S+?/v1", server.base_url, text))
        assert run_cli(*judge).returncode == 0
        assert not server.requests
        (folder / "study.yaml").write_text(
            (folder / "study.yaml").read_text().replace("verdict]", "verdict], temperature: 0.5")
        )
        assert run_cli(*judge).returncode == 0
        assert set(prompts(server, "who grades")) == set(asked)
        assert not prompts(server, "prepares the marking")
    traces = {
        table: run_cli("show", table, "--trace", "-n", "1", "-C", str(folder)).stdout
        for table in ("judgements", "facts", "retrieval")
    }
    assert "judge     " in traces["judgements"]
    assert "answer    " in traces["judgements"]
    assert "fact      The reference" in traces["facts"]
    assert all("question  " in text for text in traces.values())
    without = run_cli("show", "reliability", "--trace", "-C", str(folder))
    assert (without.returncode, without.stdout) == (2, "")
    assert "have no trace" in without.stderr
    trace = run_cli("show", "scores", "--where", "metric=verdict", "--trace", "-C", str(folder))
    assert "Well. {" in trace.stdout, "the trace of a verdict holds the judge's reply"
