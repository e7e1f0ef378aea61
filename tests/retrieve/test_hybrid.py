import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ecg_llm import config
from ecg_llm.contracts import Retriever, StepError, UsageError
from ecg_llm.embed import CrossEncoderReranker, SentenceEmbedder, model_source
from ecg_llm.retrieve.hybrid import PROBE, HybridIndex, standardised
from ecg_llm.retrieve.lexicon import Lexicon
from ecg_llm.testing import passage

TEXTS = (
    "The normal adult PR interval is 120 to 200 ms.",
    "Atrial fibrillation has irregularly irregular RR intervals and no P waves.",
    "An R/S ratio > 1 in lead V1 suggests right ventricular hypertrophy.",
    "Hyperkalemia causes tall, narrow T waves.",
    "The delta wave is a slurred onset of the QRS complex in pre-excitation.",
    "Pericarditis elevates the ST segment in most leads and depresses the PR segment.",
    "Bread is baked from flour, water and yeast.",
)
PASSAGES = [passage(text, start=1000 * n) for n, text in enumerate(TEXTS)]
HIDDEN = passage("The PR interval is a secret.", start=9000).model_copy(update={"hidden": True})
HOSTILE = [
    "P-R", "R/S > 1", '"PR interval"', '"', "text: heart", "heart AND", "NOT heart OR", "(((", "",
    "???", "the of and", "a" * 3000, "PR^2~1 *", "\x00 PR", "Füße ♥", "\ud800", "[x TO y]", "\\",
    "'; DROP TABLE passages; --", "wave " * 3000,
]  # fmt: skip


NOTHING = Lexicon.load("", Path())
ECG = Lexicon.load("ecg", Path())


class Words:
    """Counts words into 32 places: an embedder whose digits anyone can follow."""

    def __init__(self, name="words@1"):
        self.name = name
        self.seen = []

    def embed(self, texts):
        self.seen.extend(text for text in texts if text != PROBE)
        vectors = np.full((len(texts), 32), 1e-3, np.float32)
        for row, text in zip(vectors, texts, strict=True):
            for word in text.lower().split():
                row[hashlib.sha256(word.encode()).digest()[0] % 32] += 1
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)

    def count_tokens(self, texts):
        return [len(text.split()) for text in texts]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    made = HybridIndex(tmp_path_factory.mktemp("study"), SentenceEmbedder(), config.Index(), ECG)
    made.build([*PASSAGES, HIDDEN], {})
    return made


def texts_of(hits):
    held = {row.passage_id: row.text for row in [*PASSAGES, HIDDEN]}
    return [held[hit.passage_id] for hit in hits]


def words_index(folder, rows=PASSAGES, embedder=None, reranker=None, **settings):
    made = HybridIndex(folder, embedder or Words(), config.Index(**settings), NOTHING, reranker)
    made.build(rows, {})
    return made


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("How long is the PR interval?", 0),
        ("irregular rhythm without P waves", 1),
        ("R/S > 1", 2),
        ("What does a high potassium level do to the T wave?", 3),
    ],
)
def test_the_passage_that_answers_comes_first(index, query, place):
    assert isinstance(index, Retriever)
    (hits,) = index.search([query], 3)
    assert len(hits) == 3
    assert texts_of(hits)[0] == TEXTS[place]
    assert hits[0].score > hits[1].score > hits[2].score


def test_one_list_a_query_in_order_however_many_are_asked_together(index):
    queries = ["PR interval", "delta wave", "baking bread"]
    together = index.search(queries, 1)
    assert [texts_of(hits)[0] for hits in together] == [TEXTS[0], TEXTS[4], TEXTS[6]]
    assert [index.search([query], 1)[0][0].passage_id for query in queries] == [
        hits[0].passage_id for hits in together
    ]
    assert index.search([], 3) == []
    assert index.search(queries, 0) == [[], [], []]


def test_hidden_passages_are_never_found(index):
    assert HIDDEN.text not in texts_of(index.search(["The PR interval is a secret."], 50)[0])
    assert len(index.search(["PR"], 50)[0]) == len(PASSAGES)


@pytest.mark.parametrize("weight", [0, 0.8])
def test_no_characters_of_a_query_are_syntax(tmp_path, weight):
    index = words_index(tmp_path, dense_weight=weight)
    for query in HOSTILE:
        (hits,) = index.search([query], 3)
        assert all(np.isfinite(hit.score) for hit in hits)
    (hits,) = index.search(["hyperkalemia AND zebra"], 3)
    assert (texts_of(hits)[:1] == [TEXTS[3]]) or weight, "AND does not demand the zebra"
    (hits,) = index.search(['NOT "hyperkalemia"'], 3)
    assert TEXTS[3] in texts_of(hits), "NOT excludes nothing"


def test_words_are_stemmed_and_unknown_words_find_nothing_by_text_alone(tmp_path):
    index = words_index(tmp_path, dense_weight=0)
    assert texts_of(index.search(["baking breads"], 3)[0]) == [TEXTS[6]]
    assert index.search(["zebra"], 3) == [[]]


def test_a_second_build_embeds_nothing_and_changes_nothing(tmp_path):
    first = words_index(tmp_path)
    again = Words()
    second = words_index(tmp_path, embedder=again)
    assert again.seen == []
    assert second.search(["PR wave"], 9) == first.search(["PR wave"], 9)


def test_an_open_index_goes_on_while_another_process_rebuilds_it(tmp_path):
    serving = words_index(tmp_path, PASSAGES[:6])
    assert TEXTS[6] not in texts_of(serving.search(["bread"], 9)[0])
    words_index(tmp_path)
    assert TEXTS[6] in texts_of(serving.search(["bread"], 9)[0])


def test_a_changed_corpus_costs_only_its_changes_and_ends_as_a_fresh_build_does(tmp_path):
    words_index(tmp_path, PASSAGES[:5])
    embedder = Words()
    seen = []
    grown = HybridIndex(tmp_path, embedder, config.Index(), NOTHING)
    changed = PASSAGES[3].model_copy(update={"text": "Hypokalemia causes U waves."})
    rows = [*PASSAGES[1:3], changed, *PASSAGES[4:]]
    counts = grown.build(rows, {}, lambda done, total: seen.append((done, total)))
    assert (counts.passages, counts.embedded, counts.removed) == (6, 3, 1)
    assert sorted(embedder.seen) == sorted([changed.text, *TEXTS[5:]])
    assert (seen[0], seen[-1]) == ((3, 6), (6, 6))
    fresh = words_index(tmp_path / "fresh", rows)
    for query in ("PR interval", "waves in hypokalemia", "bread"):
        assert grown.search([query], 9) == fresh.search([query], 9)


def test_text_of_a_vanished_passage_leaves_the_disk(tmp_path):
    def held(word):
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        return any(word in path.read_bytes() for path in files)

    words_index(tmp_path)
    assert held(b"yeast")
    words_index(tmp_path, PASSAGES[:6])
    assert not held(b"yeast")


def test_another_embedder_has_an_index_of_its_own(tmp_path):
    words_index(tmp_path)
    other = Words("words@2")
    with pytest.raises(StepError, match=r"no finished index.*ecg-llm index"):
        HybridIndex(tmp_path, other, config.Index(), NOTHING).search(["PR"], 1)
    words_index(tmp_path, embedder=other)
    assert sorted(text for text in other.seen if text in TEXTS) == sorted(TEXTS)
    with pytest.raises(StepError):
        HybridIndex(tmp_path, Words(), config.Index(), NOTHING).search(["PR"], 1)


def test_an_index_without_passages_finds_nothing(tmp_path):
    assert words_index(tmp_path, [HIDDEN]).search(["PR", "x"], 5) == [[], []]


def test_an_index_that_was_never_built_says_what_to_do(tmp_path):
    with pytest.raises(StepError, match="ecg-llm index"):
        HybridIndex(tmp_path / "absent", Words(), config.Index(), NOTHING).search(["PR"], 5)
    assert not (tmp_path / "absent").exists()


def test_passages_may_carry_any_id_and_the_folder_any_name(tmp_path):
    rows = [
        row.model_copy(update={"passage_id": f'it\'s {n} "x"'}) for n, row in enumerate(PASSAGES)
    ]
    folder = tmp_path / "my study #1 100%?" / "index"
    words_index(folder, rows)
    (hits,) = words_index(folder, rows[:1]).search(["PR interval"], 5)
    assert [hit.passage_id for hit in hits] == [rows[0].passage_id]


class LongestFirst:
    name = "longest@1"

    def __init__(self):
        self.calls = []

    def rerank(self, query, texts):
        self.calls.append((query, list(texts)))
        return [float(len(text)) for text in texts]


def test_a_reranker_sees_the_candidates_and_its_order_is_what_search_returns(tmp_path):
    words_index(tmp_path)
    planted = LongestFirst()
    index = words_index(tmp_path, reranker=planted)
    (hits,) = index.search(["PR interval"], 3)
    wanted = sorted(TEXTS, key=len, reverse=True)[:3]
    assert texts_of(hits) == wanted
    assert [hit.score for hit in hits] == [len(text) for text in wanted]
    assert [query for query, _ in planted.calls] == ["PR interval"]
    assert sorted(planted.calls[0][1]) == sorted(TEXTS)


def test_a_cross_encoder_folder_reranks(tmp_path, capfd):
    """A cross-encoder of random weights: what it says is noise, but search must follow it."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    torch.manual_seed(1)
    shape = BertConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        num_labels=1, initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(shape).save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(model_source("minilm")).save_pretrained(tmp_path / "model")
    capfd.readouterr()
    words_index(tmp_path)
    reranker = CrossEncoderReranker(str(tmp_path / "model"))
    (hits,) = words_index(tmp_path, reranker=reranker).search(["PR interval"], 7)
    scores = reranker.rerank("PR interval", TEXTS)
    wanted = sorted(zip(TEXTS, scores, strict=True), key=lambda pair: -pair[1])
    assert texts_of(hits) == [text for text, _ in wanted]
    assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted], abs=1e-4)
    assert capfd.readouterr() == ("", ""), "no bars, no warnings"


def test_a_reranker_that_is_no_model_is_a_sentence(tmp_path):
    words_index(tmp_path)
    (tmp_path / "folder").mkdir()
    reranker = CrossEncoderReranker(str(tmp_path / "folder"))
    with pytest.raises(UsageError, match=r"index\.reranker"):
        words_index(tmp_path, reranker=reranker).search(["PR"], 1)


def test_scores_are_standardised_by_the_best_of_their_side():
    assert standardised(np.array([1.0, 2.0, 3.0])) == pytest.approx([-1.2247, 0, 1.2247], abs=1e-4)
    assert standardised(np.array([2.0, 2.0])).tolist() == [0, 0]
    many = np.concatenate([np.zeros(500), np.arange(100.0)])
    assert standardised(many)[-100:].mean() == pytest.approx(0, abs=1e-9)


class Planted(Words):
    """Gives each text the vector that it was planted with."""

    def __init__(self, vectors):
        super().__init__()
        self.vectors = vectors

    def embed(self, texts):
        rows = np.array([self.vectors.get(text, [1] + 11 * [0]) for text in texts], np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_a_passage_that_resembles_all_others_does_not_come_up_for_everything(tmp_path):
    own = np.eye(12)
    crowd = {f"crowd {n}": own[0] + 0.3 * own[1] + 0.26 * own[n + 2] for n in range(8)}
    vectors = {"query": own[0], "alone": own[0] + 0.42 * own[11], **crowd}
    rows = [passage(text, start=100 * n) for n, text in enumerate([*crowd, "alone"])]

    def first(crowding):
        folder = tmp_path / str(crowding)
        settings = {"dense_weight": 1, "crowding": crowding, "feedback": 0}
        index = words_index(folder, rows, Planted(vectors), **settings)
        (hits,) = index.search(["query"], 1)
        return {row.passage_id: row.text for row in rows}[hits[0].passage_id]

    assert first(0).startswith("crowd")
    assert first(1) == "alone"


def test_the_best_passage_brings_up_what_is_like_it(tmp_path):
    rows = [
        passage("torsades follows a long qt", start=0),
        passage("torsades twists around the baseline", start=100),
        passage("polymorphic beats twists around the baseline", start=200),
        passage("bread is baked", start=300),
        passage("a long walk", start=400),
    ]
    query = ["torsades twists around"]
    alone = words_index(tmp_path / "a", rows, dense_weight=1, crowding=0, feedback=0)
    again = words_index(tmp_path / "b", rows, dense_weight=1, crowding=0, feedback=0.9)
    score = {
        name: {hit.passage_id: hit.score for hit in index.search(query, 5)[0]}
        for name, index in (("alone", alone), ("again", again))
    }
    alike = rows[2].passage_id
    assert score["again"][alike] > score["alone"][alike]


def test_abbreviations_synonyms_and_german_names_find_the_same_passage(tmp_path):
    rows = [
        passage("Atrial fibrillation has no P waves.", start=0),
        passage("Ventricular tachycardia is a wide complex rhythm.", start=100),
        passage("Left bundle branch block widens the QRS complex.", start=200),
        passage("Vorhofflimmern ist die häufigste Rhythmusstörung.", doc_id="g" * 16),
    ]
    for lexicon, found in ((ECG, 3), (NOTHING, 0)):
        index = HybridIndex(tmp_path / str(found), Words(), config.Index(dense_weight=0), lexicon)
        index.build(rows, {"g" * 16: "de"})
        firsts = [index.search([query], 1)[0] for query in ("AF?", "VT?", "LSB?")]
        assert sum(bool(hits) for hits in firsts) == found
    index = HybridIndex(tmp_path / "3", Words(), config.Index(dense_weight=0), ECG)
    german = index.search(["Welche Zeichen hat das Vorhofflimmern?"], 4)[0]
    assert {hit.passage_id for hit in german} == {rows[0].passage_id, rows[3].passage_id}


def test_headings_are_searched_with_their_passage(tmp_path):
    rows = [
        passage("The rate is 250 to 350 a minute.", section="Atrial flutter > ECG", start=0),
        passage("The rate is 250 to 350 a minute.", section="Neonatal sinus rhythm", start=100),
    ]
    index = words_index(tmp_path, rows)
    (hits,) = index.search(["rate in flutter"], 2)
    assert hits[0].passage_id == rows[0].passage_id
    planted = LongestFirst()
    words_index(tmp_path, rows, reranker=planted).search(["rate in flutter"], 2)
    assert "Atrial flutter > ECG\nThe rate is 250 to 350 a minute." in planted.calls[0][1]


def test_a_query_of_ten_thousand_words_is_a_query(index):
    (hits,) = index.search([" ".join(f"word{n}" for n in range(10_000)) + " delta wave"], 3)
    assert len(hits) == 3


def test_a_query_in_a_language_that_nobody_knows_gets_the_nearest(index):
    (hits,) = index.search(["心房細動とは何ですか"], 3)
    assert len(hits) == 3


def test_equal_passages_come_in_the_order_of_their_ids_whatever_the_order_of_building(tmp_path):
    rows = [passage("The same text.", start=n) for n in range(40)]
    random.Random(1).shuffle(rows)
    (hits,) = words_index(tmp_path, rows).search(["the same"], 40)
    assert [hit.passage_id for hit in hits] == sorted(row.passage_id for row in rows)


SEARCH = """
import json, sys
from pathlib import Path
from ecg_llm import config
from ecg_llm.retrieve.hybrid import HybridIndex
from ecg_llm.retrieve.lexicon import Lexicon
from ecg_llm.embed import SentenceEmbedder
folder = Path(sys.argv[1])
lexicon = Lexicon.load("ecg", folder)
index = HybridIndex(folder, SentenceEmbedder(), config.Index(), lexicon)
print(json.dumps(index.search(json.loads(sys.argv[2]), 7)))
"""


@pytest.mark.slow
def test_two_processes_find_the_same_to_the_last_digit(index):
    queries = ["PR interval", "tall T waves", "bread"]
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", SEARCH, str(index.folder), json.dumps(queries)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(run.stdout) == [
        [list(hit) for hit in hits] for hits in index.search(queries, 7)
    ]
    assert run.stderr == ""


@pytest.mark.slow
def test_a_textbook_answers_questions_about_the_heart(tmp_path):
    path = Path(__file__).parents[2].parent / "shared" / "truth"
    file = path / "openstax_anatomy_book_300p.groundtruth.md"
    if not file.is_file():
        pytest.skip("needs ../shared, which this machine does not have")
    rows = [
        passage(text, start=n)
        for n, text in enumerate(file.read_text(encoding="utf-8").split("\n\n"))
        if len(text) > 200 and any(word in text.lower() for word in ("atri", "p wave"))
    ]
    index = HybridIndex(tmp_path, SentenceEmbedder(), config.Index(), ECG)
    index.build(rows, {})
    held = {row.passage_id: row.text.lower() for row in rows}
    for query, word in (
        ("Which cells set the pace of the heart?", "sinoatrial"),
        ("What does the P wave of the ECG show?", "p wave"),
        ("Which valve lies between the left atrium and the left ventricle?", "mitral"),
    ):
        (hits,) = index.search([query], 5)
        assert any(word in held[hit.passage_id] for hit in hits), query
