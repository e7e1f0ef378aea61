import base64
import socket

import numpy as np
import pytest

from ecg_llm import embed, endpoints, privacy
from ecg_llm.config import ApiModelConfig, Index, Study
from ecg_llm.contracts import EgressError, ServerError, StepError, UsageError
from ecg_llm.embed import CrossEncoderReranker, SentenceEmbedder, embedder_of, reranker_of
from ecg_llm.endpoints import ApiEmbedder, ApiReranker
from ecg_llm.testing import FakeServer, check_embedder, check_reranker, letters


@pytest.fixture(scope="module")
def embedder():
    return SentenceEmbedder()


def test_packaged_model_fulfils_the_contract(embedder):
    check_embedder(embedder)


def test_vectors_have_unit_length_whatever_the_text(embedder):
    texts = ["ECG", "", "word " * 2000, "Vorhofflimmern ♥", "broken \ud800 text"]
    assert np.allclose(np.linalg.norm(embedder.embed(texts), axis=1), 1, atol=1e-6)


def test_rows_stand_in_the_order_of_the_texts(embedder):
    texts = [f"patient {n} " + "had chest pain " * (n % 5) for n in range(40)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts[::10]])
    assert (together @ alone.T).argmax(axis=0).tolist() == list(range(0, 40, 10))
    assert np.array_equal(together, embedder.embed(texts))


def test_no_texts_give_an_empty_matrix_of_the_right_width(embedder):
    assert embedder.embed([]).shape == (0, 384)
    assert embedder.count_tokens([]) == []


def test_meaning_decides_the_similarity(embedder):
    query = embedder.embed_queries(["irregular heartbeat without P waves"])[0]
    near, far = embedder.embed(["Atrial fibrillation lacks P waves.", "Bread is baked in an oven."])
    assert query @ near > 0.5 > query @ far


def test_tokens_are_counted_without_special_ones_and_without_a_limit(embedder, capfd):
    assert embedder.count_tokens(["", "heart", "heart rate"]) == [0, 1, 2]
    assert embedder.count_tokens(["heart " * 5000]) == [5000]
    assert capfd.readouterr() == ("", "")


def test_name_tells_model_version_and_number_format(embedder, monkeypatch):
    assert embedder.name in {"minilm@0.1.0-bfloat16", "minilm@0.1.0-float32"}
    for dtype in ("bfloat16", "float32"):
        monkeypatch.setattr(embed, "_dtype", lambda dtype=dtype: dtype)
        assert SentenceEmbedder().name == f"minilm@0.1.0-{dtype}"


def test_name_of_a_folder_changes_with_its_files(tmp_path):
    for name, weights in (("one", "1"), ("two", "2")):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "weights").write_text(weights)
    one, two = (SentenceEmbedder(str(tmp_path / n / "model")).name for n in ("one", "two"))
    assert one.startswith("model@")
    assert one != two


@pytest.mark.parametrize("use", ["embed", "embed_queries", "count_tokens"])
def test_a_folder_that_is_no_model_is_a_sentence(tmp_path, use):
    (tmp_path / "notes.txt").write_text("not a model")
    with pytest.raises(UsageError, match="cannot be loaded as a sentence-transformers model"):
        getattr(SentenceEmbedder(str(tmp_path)), use)(["text"])


def test_torn_tokenizer_is_a_sentence(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be loaded"):
        SentenceEmbedder(str(tmp_path)).count_tokens(["text"])


def test_a_text_has_one_vector_in_whatever_company(embedder):
    texts = [f"lead V{n} shows " + "a wide QRS complex " * n for n in range(0, 40, 3)]
    together = embedder.embed(texts)
    alone = np.concatenate([embedder.embed([text]) for text in texts])
    backwards = embedder.embed(texts[::-1])[::-1]
    assert (together * alone).sum(axis=1).min() > 0.9995
    assert (together * backwards).sum(axis=1).min() > 0.9995


def test_batches_hold_texts_of_one_length_within_the_tokens():
    lengths = [0, 5, 300, 40, 41, 5, 0, 2]
    batches = list(embed._batches(lengths, 100))
    assert sorted(place for batch in batches for place in batch) == list(range(8))
    assert batches[0] == [2]
    assert all(
        len(batch) == 1 or max(lengths[place] for place in batch) * len(batch) <= 100
        for batch in batches
    )


def settings(server, **changes):
    return ApiModelConfig(
        kind="api", base_url=server.base_url, model="fake", revision="r1"
    ).model_copy(update=changes)


def words(texts):
    return [len(text.split()) for text in texts]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The length of the back-off is never the thing under test."""
    import openai._base_client as client

    monkeypatch.setattr(client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(endpoints, "PAUSE", 0.01)


def test_a_server_keeps_the_contract_of_an_embedder():
    with FakeServer() as server:
        embedder = ApiEmbedder(settings(server), words)
        check_embedder(embedder)
        assert embedder.name == "fake@r1"
        assert embedder.embed([]).shape == (0, 16)


def test_rows_of_a_server_stand_in_the_order_of_the_texts_in_batches_at_once():
    texts = [f"{'abcdefgh'[n % 8] * (n // 8 + 1)} ecg" for n in range(150)]
    with FakeServer(delay=0.2) as server:
        rows = ApiEmbedder(settings(server, concurrency=3), words).embed(texts)
        assert sorted(len(body["input"]) for body in server.requests) == [22, 64, 64]
    wanted = np.array(letters(texts))
    assert np.allclose(rows, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)


def test_vectors_in_base64_are_those_in_numbers():
    def packed(texts):
        return [base64.b64encode(np.array(v, "<f4").tobytes()).decode() for v in letters(texts)]

    texts = ["atrial", "flutter"]
    with FakeServer(vectors=packed) as server, FakeServer() as plain:
        rows = ApiEmbedder(settings(server), words).embed(texts)
        assert np.array_equal(rows, ApiEmbedder(settings(plain), words).embed(texts))


@pytest.mark.parametrize("status", [400, 413, 422])
def test_batches_too_large_for_the_server_are_halved(status):
    texts = [f"text {'abc'[n % 3] * n}" for n in range(100)]
    with (
        FakeServer(fault=lambda number, body: status if len(body["input"]) > 10 else "") as server,
        FakeServer() as patient,
    ):
        rows = ApiEmbedder(settings(server), words).embed(texts)
        assert np.array_equal(rows, ApiEmbedder(settings(patient), words).embed(texts))


def test_a_text_too_long_for_the_server_is_embedded_by_its_beginning():
    def limit(number, body):
        return 400 if max(map(len, body["input"])) > 100 else ""

    long = "a" * 100 + "b" * 700
    with FakeServer(fault=limit) as server:
        embedder = ApiEmbedder(settings(server), words)
        rows = embedder.embed(["short", long, "other"])
        assert np.array_equal(rows[1], embedder.embed(["a" * 100])[0])
        assert np.array_equal(rows[[0, 2]], embedder.embed(["short", "other"]))


def test_texts_that_servers_refuse_are_sent_as_something_else():
    with FakeServer() as server:
        rows = ApiEmbedder(settings(server), words).embed(["", " \n", "broken \ud800"])
        assert server.requests[0]["input"] == [".", ".", "broken ?"]
        assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("vectors", "told"),
    [
        (lambda texts: letters(texts)[1:], "2 items for 3 texts"),
        (lambda texts: [*letters(texts), [1.0] * 16], "4 vectors"),
        (lambda texts: [[1.0] * (2 + (n == 0)) for n in range(len(texts))], "not all alike"),
        (lambda texts: [[float("nan"), 1.0]] * len(texts), "not finite"),
        (lambda texts: [[0.0, 0.0]] * len(texts), "zero"),
        (lambda texts: ["no base64!"] * len(texts), "3 items for 3 texts"),
        (lambda texts: [None] * len(texts), "3 items for 3 texts"),
        (lambda texts: [[]] * len(texts), "not all alike"),
        (lambda texts: [[[1.0]]] * len(texts), "3 items for 3 texts"),
    ],
)
def test_an_answer_that_is_no_vectors_is_a_sentence(vectors, told):
    with FakeServer(vectors=vectors) as server:
        with pytest.raises(StepError, match=told) as caught:
            ApiEmbedder(settings(server), words).embed(["a", "b", "c"])
        assert server.base_url in str(caught.value)


def test_a_dimension_that_changes_is_a_sentence():
    with FakeServer(vectors=lambda texts: [[1.0] * len(texts)] * len(texts)) as server:
        embedder = ApiEmbedder(settings(server), words)
        embedder.embed(["a"])
        with pytest.raises(StepError, match="of 1 and of 2 numbers"):
            embedder.embed(["a", "b"])
        with pytest.raises(StepError, match="of 6 and of 64 numbers"):
            ApiEmbedder(settings(server), words).embed(["a"] * 70)


def rerank(server, **changes):
    return ApiReranker(settings(server, **changes)).rerank("P waves", ["no P waves", "QRS"])


def embed_two(server, **changes):
    return ApiEmbedder(settings(server, **changes), words).embed(["P waves", "QRS"])


@pytest.mark.parametrize("use", [embed_two, rerank])
def test_failures_of_a_server_are_sentences(use, monkeypatch):
    monkeypatch.setenv("SOME_KEY", "right")
    with FakeServer(key="right", fail_first=2, fail_status=503) as server:
        assert len(use(server, key_env="SOME_KEY")) == 2  # after two retries
        with pytest.raises(ServerError, match="refused the key"):
            use(server)
        with pytest.raises(ServerError, match="'other'; check the model's name"):
            use(server, key_env="SOME_KEY", model="other")
        with pytest.raises(ServerError, match="base_url"):
            use(server, key_env="SOME_KEY", base_url=server.base_url + "/wrong")
        monkeypatch.delenv("SOME_KEY")
        with pytest.raises(UsageError, match="SOME_KEY"):
            use(server, key_env="SOME_KEY")
    with FakeServer(fail_first=100, fail_status=500) as server:
        with pytest.raises(ServerError, match="failing on purpose"):
            use(server)
        assert len(server.requests) == 4
    with FakeServer(fault=lambda number, body: 400) as server:  # not a model for this
        with pytest.raises(ServerError, match="is a model for that"):
            use(server)
        assert len(server.requests) < 12
    with FakeServer(fault=lambda number, body: "broken" if number < 3 else "") as server:
        assert len(use(server)) == 2
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with FakeServer() as server, pytest.raises(ServerError, match="No server answers"):
        use(server, base_url=address)
    with (
        FakeServer() as server,
        privacy.guard([]),
        pytest.raises(EgressError, match=r"192\.0\.2\.7"),
    ):
        use(server, base_url="http://192.0.2.7:9/v1")


def test_a_server_keeps_the_contract_of_a_reranker_and_scores_stand_with_their_texts():
    texts = ["QRS", "P waves are absent", "P wave"]
    with FakeServer() as server:
        reranker = ApiReranker(settings(server))
        check_reranker(reranker)
        assert reranker.name == "fake@r1"
        assert reranker.rerank("P waves absent", texts) == [0, 3, 1]
        assert server.requests[-1] == {
            "model": "fake", "query": "P waves absent", "documents": texts, "top_n": 3,
        }  # fmt: skip


def test_what_a_reranker_finds_too_much_is_asked_in_parts_and_by_its_beginning():
    def limit(number, body):
        many, longest = len(body["documents"]) > 8, max(map(len, body["documents"]))
        return 400 if many or len(body["query"]) + longest > 1500 else ""

    texts = [f"lead V{n}" for n in range(50)] + ["lead V3 " + "x" * 5000]
    with FakeServer(fault=limit) as server:
        scores = ApiReranker(settings(server)).rerank("lead V3 " + "why " * 10_000, texts)
        assert scores == [2.0 if n in (3, 50) else 1.0 for n in range(51)]
        assert len(server.requests) < 60


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (lambda query, texts: [0.5], "1 results for 2 passages"),
        (lambda query, texts: [0.5, float("nan")], "not finite"),
    ],
)
def test_an_answer_without_every_score_is_a_sentence(scores, told):
    with FakeServer(relevance=scores) as server, pytest.raises(StepError, match=told):
        rerank(server)


def test_a_study_names_its_embedder_and_reranker_or_a_server_for_them():
    with FakeServer() as server:
        study = Study(
            models={"server": settings(server), "extracts": {"kind": "extractive"}},
            index=Index(embedder="server", reranker="server"),
        )
        embedder, reranker = embedder_of(study), reranker_of(study)
        check_embedder(embedder)
        assert embedder.count_tokens(["tachycardia"]) == SentenceEmbedder().count_tokens(
            ["tachycardia"]
        )
        assert reranker is not None
        check_reranker(reranker)
        assert len(server.requests) == 2
    assert isinstance(embedder_of(Study()), SentenceEmbedder)
    assert reranker_of(Study()) is None
    local = reranker_of(Study(index=Index(reranker="some/model")))
    assert isinstance(local, CrossEncoderReranker)
    for role, make in (("embedder", embedder_of), ("reranker", reranker_of)):
        wrong = study.model_copy(update={"index": Index(**{role: "extracts"})})
        with pytest.raises(UsageError, match=rf"index\.{role}: models\.extracts is of kind"):
            make(wrong)


def cross_encoder(folder, labels=1, bias=0.0):
    """Save a small cross-encoder; `bias` is added to every score."""
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = AutoTokenizer.from_pretrained(embed.model_source("minilm"))
    shape = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=labels,
    )  # fmt: skip
    model = BertForSequenceClassification(shape)
    model.classifier.bias.data.fill_(bias)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return CrossEncoderReranker(str(folder))


@pytest.mark.parametrize(
    ("broken", "told"),
    [({"labels": 3}, "3 numbers a passage"), ({"bias": float("nan")}, "not finite")],
)
def test_a_cross_encoder_that_gives_no_scores_is_a_sentence(tmp_path, broken, told):
    reranker = cross_encoder(tmp_path / "cross", **broken)
    for texts in (["one"], ["one", "two", "three"]):
        with pytest.raises(UsageError, match=rf"index\.reranker: .* gives .*{told}"):
            reranker.rerank("query", texts)


def test_a_cross_encoder_keeps_the_contract_and_is_named_by_its_files(tmp_path):
    reranker = cross_encoder(tmp_path / "cross")
    check_reranker(reranker)
    name = reranker.name
    assert name.startswith("cross@")
    (tmp_path / "cross" / "README.md").write_text("another")
    assert CrossEncoderReranker(str(tmp_path / "cross")).name != name
    with pytest.raises(UsageError, match=r"index\.reranker: .* cannot be loaded"):
        CrossEncoderReranker(str(tmp_path)).rerank("a", ["b"])


def test_a_query_has_the_same_digits_in_whatever_company(embedder):
    queries = ["PR interval", "What is the delta wave in pre-excitation?", "U wave " * 40]
    together = embedder.embed_queries(queries)
    for row, query in zip(together, queries, strict=True):
        assert np.array_equal(row, embedder.embed_queries([query])[0])
    assert embedder.embed_queries([]).shape == (0, 384)
