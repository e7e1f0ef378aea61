import json
import subprocess
import sys
from itertools import chain

import pytest
from support import ROOT

from ecg_llm.citing import Reply, abstains, checked, claims, keys
from ecg_llm.contracts import NO_ANSWER
from ecg_llm.embed import SentenceEmbedder, WatchedEmbedder
from ecg_llm.testing import passage

PR = passage(
    "# Intervals\n\nThe heart is a pump. The normal PR interval of adults lasts 120 to 200 ms. "
    "It is shorter in children.\n\n| Wave | Time |\n|---|---|\n| P | 100 ms |",
    section="Intervals",
)
SINUS = passage(
    "Sinus rhythm has these criteria:\n\n- upright P waves in lead II;\n- one P wave before every "
    "QRS complex;\n- a rate of 60 to 100 bpm;\n- a constant PR interval;\n- a constant P wave "
    "shape;\n- a PP interval that varies by less than 160 ms.",
    doc_id="e" * 16,
)
DRUG = passage("Amiodarone prolongs the QT interval but rarely causes torsades.", doc_id="f" * 16)
HEADING = passage("# Intervals", doc_id="a" * 16)
SHOWN = (PR, SINUS, DRUG, HEADING)


@pytest.fixture(scope="module")
def embedder():
    return SentenceEmbedder()


def check(embedder, answer, question="What is known?", shown=SHOWN):
    return checked([Reply(answer, question, shown)], embedder)[0]


def test_keys_stand_alone_in_lists_and_ranges():
    assert keys("A [1]. B [2, 3][1]. C [4-6]. D [120-200].", 5) == ([1, 2, 3, 4], [6, 120, 200])
    assert keys("A [1-3] and [0]", 3) == ([1, 2, 3], [0])
    assert keys("", 3) == ([], [])


def test_keys_belong_to_the_sentence_they_stand_in_or_behind():
    text = "The PR interval [3] is 120 to 200 ms. [1] The QT [2] varies. It is long. [1][4]"
    found = claims(text, 4)
    assert [claim.keys for claim in found] == [(3, 1), (2,), (1, 4)]
    assert [text[claim.start : claim.end] for claim in found] == [
        "The PR interval [3] is 120 to 200 ms. [1]",
        "The QT [2] varies.",
        "It is long. [1][4]",
    ]
    assert found[1].text == "The QT varies."


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A is long [1]. [2] B is short.", [(1,), (2,)]),
        ("[1] A is long. [2] B is short.", [(1,), (2,)]),
        (" [1] A is long. [2, 3] B is short. [2]", [(1,), (2, 3)]),
        ("A is long.\n[1] B is short.\n[2] C is wide.", [(), (1,), (2,)]),
        ("A is long. [1] B is short. [2]", [(1,), (2,)]),
        ("A is long [1]. [2] B is short [3].", [(1, 2), (3,)]),
        ("A is long. [1]\n\nB is short. [2]", [(1,), (2,)]),
    ],
)
def test_keys_before_a_sentence_belong_to_it(text, expected):
    found = claims(text, 3)
    assert [claim.keys for claim in found] == expected
    assert all(text[claim.start : claim.end].strip() for claim in found)


@pytest.mark.parametrize(
    "text",
    [
        "The lower limit is 60. [1] Above 100 it is tachycardia [2].",
        "The lower limit is 60 [1]. Above 100 it is tachycardia [2].",
        "The limit is that of Smith et al. [1] Others take 60 [2].",
        "The limit is that of Smith et al [1]. Others take 60. [2]",
    ],
)
def test_keys_beside_a_full_stop_end_a_claim_whatever_stands_before_it(text):
    assert [claim.keys for claim in claims(text, 2)] == [(1,), (2,)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  \n ",
        "Yes.",
        "In summary:",
        "What follows from that?",
        "# The PR interval",
        NO_ANSWER,
        f"  {NO_ANSWER.lower().rstrip('.')}",
        "[1] [2]",
        "...",
    ],
)
def test_what_says_nothing_is_no_claim(text):
    assert claims(text, 2) == []


def test_short_answers_are_claims():
    assert [claim.text for claim in claims("Amiodarone [1].", 1)] == ["Amiodarone."]
    assert [claim.text for claim in claims("Yes, 200 ms [1]", 1)] == ["200 ms"]
    assert len(claims("The signs are:\n- wide QRS complexes [1]\n- absent P waves [2]", 2)) == 2


def test_abstention_is_found_among_other_sentences():
    assert abstains(f"The PR interval is known. {NO_ANSWER} [1]")
    assert abstains(NO_ANSWER.upper())
    assert not abstains("The literature answers this.")
    assert len(claims(f"The PR interval varies [1]. {NO_ANSWER}", 1)) == 1


def test_a_claim_is_quoted_from_the_passage_by_exact_offsets(embedder):
    (found,) = check(embedder, "In adults, the PR interval normally takes 0.12 to 0.2 s [1].")
    (quote,) = found.quotes
    assert found.supported
    assert quote.text == "The normal PR interval of adults lasts 120 to 200 ms."
    assert PR.text[quote.start : quote.end] == quote.text
    assert (quote.key, quote.passage, found.problem) == (1, PR, "")


def test_a_short_claim_is_read_with_its_question(embedder):
    question = "How long is the normal PR interval of adults?"
    (found,) = check(embedder, "120 to 200 ms [1]", question)
    assert found.supported
    (other,) = check(embedder, "120 to 200 ms [3]", question)
    assert not other.supported


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        ("The normal PR interval of adults lasts 300 ms [1].", "not there: 300 ms"),
        ("The PR interval is longer in children [1].", "the other way round: longer"),
        ("Amiodarone does not prolong the QT interval [3].", "negated on one side"),
        ("Amiodarone prolongs the QT interval [2].", "not in the passages cited"),
        ("Amiodarone prolongs the QT interval [4].", "no passage cited"),
        ("Amiodarone prolongs the QT interval [9].", "no passage cited"),
        ("Amiodarone prolongs the QT interval.", "no passage cited"),
    ],
)
def test_what_is_not_borne_out_says_why(embedder, answer, problem):
    (found,) = check(embedder, answer)
    assert not found.supported
    assert problem in found.problem


def test_one_passage_that_bears_a_claim_out_is_enough(embedder):
    (found,) = check(embedder, "Amiodarone prolongs the QT interval [1, 3].")
    assert [quote.key for quote in found.quotes] == [1, 3]
    assert [quote.supports for quote in found.quotes] == [False, True]
    assert found.supported


def test_a_claim_may_sum_up_a_whole_list_or_a_row(embedder):
    whole = (
        "Sinus rhythm has upright P waves in lead II, one P wave before every QRS complex, a rate "
        "of 60 to 100 bpm, a constant PR interval, a constant P wave shape and a PP interval that "
        "varies by less than 160 ms [2]."
    )
    (found,) = check(embedder, whole)
    assert found.supported
    assert found.quotes[0].text.startswith("Sinus rhythm has these criteria:")
    assert found.quotes[0].text.endswith("160 ms.")
    (row,) = check(embedder, "The P wave takes 100 ms of time [1].")
    assert row.quotes[0].text.endswith("| P | 100 ms |")
    assert row.supported


def test_every_distinct_sentence_is_embedded_once_for_all_answers():
    class Counting(SentenceEmbedder):
        def __init__(self):
            super().__init__()
            self.calls = []

        def embed(self, texts):
            self.calls.append(list(texts))
            return super().embed(texts)

    counting = Counting()
    replies = [Reply("Amiodarone prolongs the QT interval [3].", "What?", SHOWN)] * 3
    found = checked(replies, counting)
    assert [[claim.supported for claim in one] for one in found] == [[True]] * 3
    ((texts),) = counting.calls
    assert sorted(texts) == sorted(["Amiodarone prolongs the QT interval.", DRUG.text])
    assert checked([], counting) == []
    assert checked([Reply("", "What?", ())], counting) == [[]]
    assert len(counting.calls) == 1, "nothing to embed, nothing loaded"


def test_blocks_of_passages_change_nothing_and_bound_what_is_embedded_at_once(
    embedder, monkeypatch
):
    safe = "All are safe in adults without heart failure."
    shown = [
        passage(f"Drug {number} prolongs the QT interval by {number} ms. {safe}", start=number)
        for number in range(100, 130)
    ]
    said = [
        f"Drug {n} prolongs the QT interval by {n + n % 2} ms [{n - 99}]. {safe[:-1]} [3, 5]."
        for n in range(100, 130)
    ]
    replies = [Reply(text, "What is known?", shown) for text in said]
    whole = checked(replies, embedder)
    reports = []
    monkeypatch.setattr("ecg_llm.citing.BLOCK", 4)
    monkeypatch.setattr("ecg_llm.citing.KEPT", 16)
    watched = WatchedEmbedder(embedder, lambda done, total: reports.append((done, total)))
    blocks = checked(replies, watched)
    assert len(reports) == 8
    assert max(total for _, total in reports) <= 40
    assert [claim.supported for found in whole for claim in found].count(False) == 15
    for one, other in zip(chain(*whole), chain(*blocks), strict=True):
        assert (one.claim, one.supported, one.problem) == (
            other.claim,
            other.supported,
            other.problem,
        )
        for quote, again in zip(one.quotes, other.quotes, strict=True):
            assert quote._replace(score=0) == again._replace(score=0)
            assert quote.score == pytest.approx(again.score, abs=5e-3)


def test_clinical_opposites_are_not_borne_out(embedder):
    lines = (ROOT / "tests" / "opposites.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]

    def held(column):
        replies = [
            Reply(f"{row[column].rstrip('.')} [1].", "What is known?", (passage(row["passage"]),))
            for row in rows
        ]
        return [found[0].supported for found in checked(replies, embedder)]

    assert held("spoilt").count(True) <= 3
    assert held("claim").count(False) <= 3


@pytest.mark.slow
def test_what_the_handbook_says_is_borne_out_and_what_is_spoilt_is_not(study):
    """On two chapters that no setting was chosen on."""
    run = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "citing.py"), str(study)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    head, _, *lines = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in run.stdout.splitlines()
    ]
    (row,) = [line for line in lines if line and line[0] == "handbook, held out"]
    found = {name: float(cell.split()[0]) for name, cell in zip(head[1:], row[1:], strict=True)}
    assert found["reference"] >= 0.7
    assert found["paraphrase"] >= 0.7
    assert min(found["number"], found["negated"], found["other passage"]) >= 0.9
    assert found["turned"] >= 0.6
    assert found["opposite"] >= 0.8
