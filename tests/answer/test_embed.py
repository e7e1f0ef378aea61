import numpy as np
import pytest

from ecg_llm import embed
from ecg_llm.contracts import UsageError
from ecg_llm.embed import SentenceEmbedder
from ecg_llm.testing import check_embedder


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
