import json
import math
import time
from collections import Counter
from pathlib import Path

import pytest

from ecg_llm.contracts import UsageError
from ecg_llm.retrieve.lexicon import (
    FORM_WEIGHT,
    NAME_WEIGHT,
    Lexicon,
    expansion_terms,
    parse,
)
from ecg_llm.retrieve.terms import query_terms, terms

HERE = Path(__file__).parent
SMALL = """
sources: {book: A book of hearts}
any_case: [LBBB]
exclusions: [MI flutter]
concepts:
  - name: left bundle branch block
    abbreviations: [LBBB]
    german: [Linksschenkelblock]
    source: book
  - name: myocardial infarction
    abbreviations: [MI]
  - name: pulmonary embolism
    ambiguous: [PE]
  - name: pericardial effusion
    ambiguous: [PE]
"""


@pytest.fixture(scope="module")
def ecg():
    return Lexicon.load("ecg", Path())


def others(lexicon, query):
    """What each concept found in a query adds."""
    return {expansion.found: set(expansion.other) for expansion in lexicon.expand(query)}


def found(lexicon, query):
    return [expansion.found for expansion in lexicon.expand(query)]


def name_of(lexicon, form):
    """The English name of what a form is found as."""
    (expansion,) = lexicon.expand(form)
    return form if expansion.named else expansion.other[0]


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("AF", "atrial fibrillation"),
        ("VHF", "atrial fibrillation"),
        ("Vorhofflimmerns", "atrial fibrillation"),
        ("AFL", "atrial flutter"),
        ("LSB", "left bundle branch block"),
        ("Rechtsschenkelblock", "right bundle branch block"),
        ("VES", "premature ventricular complex"),
        ("PVCs", "premature ventricular complex"),
        ("SVES", "premature atrial complex"),
        ("VT", "ventricular tachycardia"),
        ("SVT", "supraventricular tachycardia"),
        ("Kammerflimmern", "ventricular fibrillation"),
        ("heart block", "AV block"),
        ("AV-Blockierungen", "AV block"),
        ("complete heart block", "third-degree AV block"),
        ("AV-Block III°", "third-degree AV block"),
        ("AV-Block 2. Grades Typ Wenckebach", "Mobitz type I block"),
        (
            "Non-ST-Segment-Elevation MIs",
            "non-ST-elevation myocardial infarction",
        ),
        ("stemi", "ST-elevation myocardial infarction"),
        ("QTc", "corrected QT interval"),
        ("PQ-Zeit", "PR interval"),
        ("KHK", "coronary artery disease"),
        ("EKG", "electrocardiogram"),
        ("TdP", "torsades de pointes"),
    ],
)
def test_a_form_in_either_language_leads_to_the_english_name(ecg, form, name):
    assert name_of(ecg, form) == name


def test_the_english_name_leads_to_abbreviations_and_german(ecg):
    (expansion,) = ecg.expand("Who gets atrial fibrillation?")
    assert expansion.found == "atrial fibrillation"
    assert expansion.named
    assert {"AF", "Vorhofflimmern", "VHF"} <= set(expansion.other)
    assert "atrial fibrillation" not in expansion.other
    (plural,) = ecg.expand("Premature ventricular complexes?")
    assert plural.named
    (other,) = ecg.expand("Extrasystolen der Kammer, also Kammerextrasystolen")[1:]
    assert not other.named
    assert other.other[0] == "premature ventricular complex"


@pytest.mark.parametrize(
    "query",
    [
        "Wolff-Parkinson-White", "wolff parkinson white syndrome",
        "WOLFF‑PARKINSON‑WHITE SYNDROMES",
        "WPW", "wpw", "the WPW's", "WPW-Syndrom",
    ],
)  # fmt: skip
def test_case_hyphens_plural_and_possessive_do_not_matter(ecg, query):
    (expansion,) = ecg.expand(query)
    assert {"Wolff-Parkinson-White syndrome", "WPW"} & set(expansion.other)


@pytest.mark.parametrize(
    "query",
    [
        "Präexzitation", "Praeexzitation", "pre-excitation", "preexcitation", "pre excitation",
        "AV-Blöcke", "AV-Bloecke",
    ],
)  # fmt: skip
def test_umlauts_and_joined_words_do_not_matter(ecg, query):
    assert found(ecg, query) == [query]


@pytest.mark.parametrize(
    "query",
    [
        "as I was told, mi casa", "MILD disease", "a mat at pac", "PE, AS, AP, HF, LAD or SR",
        "What leads to it?", "the blocker", "ICD-10 codes", "", "   ", "???", "\ud800",
    ],
)  # fmt: skip
def test_ordinary_words_and_ambiguous_abbreviations_are_not_found(ecg, query):
    assert ecg.expand(query) == ()


def test_an_ambiguous_abbreviation_is_added_where_its_meaning_is_named(ecg):
    assert "PE" in others(ecg, "signs of pulmonary embolism")["pulmonary embolism"]
    assert "LAD" in others(ecg, "left axis deviation")["left axis deviation"]


def test_related_rhythms_stay_apart(ecg):
    apart = {
        "atrial fibrillation": "atrial flutter", "ventricular tachycardia": "VF", "SVT": "VT",
        "AVNRT": "AVRT", "Mobitz II": "Wenckebach", "LBBB": "RBBB", "hyperkalemia": "hypokalemia",
        "ST elevation": "ST depression", "STEMI": "NSTEMI", "VES": "SVES", "LAFB": "LPFB",
    }  # fmt: skip
    for one, other in apart.items():
        assert name_of(ecg, one) != name_of(ecg, other)
        assert not set(ecg.expand(one)[0].other) & {other, *ecg.expand(other)[0].other}


def test_the_longest_form_is_found_and_what_the_query_holds_is_not_added(ecg):
    query = "Does a non-sustained VT (NSVT) with LBBB need an ICD? LBBB!"
    assert found(ecg, query) == ["non-sustained VT", "LBBB", "ICD"]
    assert "NSVT" not in others(ecg, query)["non-sustained VT"]


def test_ten_thousand_words_take_no_time(ecg):
    ecg.expand("warm")
    words = "does a left ventricular non-ST-elevation AV block of w{}"
    query = " ".join(words.format(n) for n in range(1000))
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        assert ecg.expand(query)
        seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.25  # a fifth of it where nothing else runs


def test_every_bundled_concept_is_sourced_and_says_more_than_its_name(ecg):
    for concept in ecg.concepts:
        assert concept.source, concept.name
        assert len(concept.forms) > 1, concept.name
    assert set(ecg.sources) == {key for concept in ecg.concepts for key in concept.source}


def test_every_bundled_form_is_found_as_its_concept_but_an_ambiguous_one(ecg):
    for concept in ecg.concepts:
        for form in (*concept.names, *concept.short):
            (expansion,) = ecg.expand(f"of {form}?")
            assert set(expansion.other) < set(concept.forms), form
        for form in (concept.name, *concept.synonyms):
            if form[-1] not in "hsxycTI12":
                assert found(ecg, f"{form}s") == [f"{form}s"]
        for form in concept.ambiguous:
            assert not ecg.expand(form), form


def test_a_file_of_the_study(tmp_path):
    (tmp_path / "words.yaml").write_text(SMALL, encoding="utf-8")
    lexicon = Lexicon.load("words.yaml", tmp_path)
    assert others(lexicon, "lbbb with MI") == {
        "lbbb": {"left bundle branch block", "Linksschenkelblock"},
        "MI": {"myocardial infarction"},
    }
    assert found(lexicon, "mi flutter, MI flutter and PE") == []
    assert lexicon.sources == {"book": "A book of hearts"}


def test_no_lexicon_adds_nothing(tmp_path):
    assert Lexicon.load("", tmp_path).expand("AF with LBBB") == ()


def test_values_are_words_even_where_yaml_knows_better():
    lexicon = parse(
        "concepts:\n  - {name: nitric oxide, abbreviations: [NO]}\n"
        "  - {name: lead, synonyms: [on, 0x1F]}\n  - {name: null, synonyms: ['~x', 12]}\n",
        "words",
    )
    assert [concept.forms for concept in lexicon.concepts] == [
        ("nitric oxide", "NO"), ("lead", "on", "0x1F"), ("null", "~x", "12")
    ]  # fmt: skip


def test_the_version_changes_with_what_is_found_only():
    version = parse(SMALL, "words").version
    assert parse(SMALL.replace("A book", "The book") + "# note\n", "other").version == version
    for old, new in (
        ("[MI]", "[AMI]"), ("any_case: [LBBB]", "any_case: []"), ("MI flutter", "MI x"),
        ("ambiguous: [PE]", "ambiguous: [P.E.]"),
    ):  # fmt: skip
        assert parse(SMALL.replace(old, new), "words").version != version
    assert Lexicon().version != version


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "words.yaml is empty"),
        ("concepts: [", "words.yaml, line 1 is not valid YAML"),
        ("a: b: c", "line 1 is not valid YAML"),
        ("- " * 600, "nested too deeply"),
        ("- AF\n", "line 1 must hold keys and values"),
        ("sources: {}\n", "must list `concepts`"),
        ("concepts: AF\n", "line 1 must list `concepts`"),
        ("concept: []\n", "line 1 has the unknown key 'concept'; did you mean \"concepts\"?"),
        ("concepts:\n  - AF\n", "line 2 must hold keys and values"),
        ("concepts:\n  - synonyms: [a]\n", "line 2 has a concept without a name"),
        ("concepts:\n  - name: a\n    synonims: [b]\n", 'line 3 has the unknown key \'synonims\''),
        ("concepts:\n  - name: a\n    german: b\n    german: c\n", "line 4 has the key 'german' a"),
        ("concepts:\n  - name: a\n    german: [{b: c}]\n", "line 3 must hold a word here"),
        ("concepts:\n  - name: '°'\n", "line 2 must hold a word here"),
        ("concepts:\n  - name:\n", "line 2 must hold a word here"),
        ("concepts:\n  - {name: a, source: book}\n", "gives 'a' the unknown source 'book'"),
        ("concepts:\n  - {name: a, synonyms: [a]}\n", "has 'a' twice in the concept 'a'"),
        (
            "concepts:\n  - {name: wave, german: [Welle]}\n  - {name: sea, synonyms: [Waves]}\n",
            "has 'Waves' in both 'wave' and 'sea'",
        ),
        (
            "concepts:\n  - {name: a, abbreviations: [PE]}\n  - {name: b, ambiguous: [PE]}\n",
            "has 'PE' in both 'a' and 'the ambiguous forms'",
        ),
        ("exclusions: [ice]\nconcepts:\n  - {name: ice}\n", "in both 'the exclusions' and 'ice'"),
        ("any_case: [AF]\nconcepts:\n  - {name: a}\n", "lists 'AF' in any_case"),
    ],
)  # fmt: skip
def test_a_wrong_file_gets_one_sentence(tmp_path, text, says):
    (tmp_path / "words.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(UsageError) as error:
        Lexicon.load("words.yaml", tmp_path)
    message = str(error.value)
    assert says in message
    assert "\n" not in message
    assert message.endswith((".", "?"))


def test_a_file_that_cannot_be_read_gets_one_sentence(tmp_path):
    (tmp_path / "latin.yaml").write_bytes("concepts: [Übel]".encode("latin-1"))
    for place in ("absent.yaml", "latin.yaml", "."):
        with pytest.raises(UsageError, match=r"index\.lexicon: .* cannot be read"):
            Lexicon.load(place, tmp_path)


def test_terms_of_the_name_weigh_more_than_those_of_other_forms(ecg):
    added = expansion_terms(ecg.expand("Therapie bei VHF"))
    assert added["atrial"] == added["fibril"] == NAME_WEIGHT
    assert added["vorhofflimm"] <= FORM_WEIGHT
    assert added["af"] == pytest.approx(FORM_WEIGHT)
    assert expansion_terms(()) == {}


def test_questions_in_german_and_in_abbreviations_find_the_passage():
    lines = (HERE / "lexicon_questions.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) >= 40
    lexicon = Lexicon.load("ecg", Path())
    passages = list(dict.fromkeys(row["evidence"] for row in rows))
    counted = [Counter(terms(text)) for text in passages]
    within = Counter(term for counts in counted for term in counts)

    def right(row, weights):
        scores = [
            sum(w * math.log(len(passages) / within[t]) for t, w in weights.items() if counts[t])
            for counts in counted
        ]
        best = max(range(len(passages)), key=lambda place: scores[place])
        return scores[best] > 0 and passages[best] == row["evidence"]

    plain = sum(right(row, dict.fromkeys(query_terms(row["question"]), 1.0)) for row in rows)
    widened = sum(
        right(row, expansion_terms(lexicon.expand(row["question"]))
              | dict.fromkeys(query_terms(row["question"]), 1.0))
        for row in rows
    )  # fmt: skip
    assert widened >= plain + len(rows) // 5, (plain, widened)
