import pytest

from ecg_llm.retrieve.terms import query_terms, terms


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fibrillations", "Fibrillation"),
        ("non\u2011ST-elevation", "non ST elevation"),
        ("Sjögren", "Sjogren"),
        ("1,000 patients", "1000 patient"),
        ("120ms", "120 ms"),
        ("pre\u00adexcitation", "preexcitation"),
        ("ﬁbrosis", "fibrosis"),
        ("**bold** _italic_", "bold italic"),
    ],
)
def test_two_ways_to_write_the_same_give_the_same_terms(one, other):
    assert terms(one) == terms(other) != ()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Präexzitation", "Praeexzitation"),
        ("große", "grosse"),
        ("Herzkammern", "Herzkammer"),
        ("0,12 s", "0.12 s"),
        ("1.000 Patienten", "1000 Patienten"),
    ],
)
def test_two_ways_to_write_the_same_in_german_give_the_same_terms(one, other):
    assert terms(one, "de") == terms(other, "de") != ()


def test_numbers_stay_whole_and_names_with_digits_give_themselves_and_their_parts():
    assert terms("0.12 s or 120 ms, p<0.05") == ("0.12", "s", "120", "ms", "p", "0.05")
    assert terms("12-lead") == ("12", "lead")
    assert {"v1", "v4"} <= set(terms("leads V1–V4"))
    assert {"il6", "il", "6"} == set(terms("IL-6")) == set(terms("IL6"))
    assert "120200" not in terms("120-200 ms")


def test_terms_stand_in_the_order_of_the_text_as_often_as_there():
    assert terms("The wave, a wave and the P wave.") == ("wave", "wave", "p", "wave")


def test_a_text_without_words_has_no_terms():
    for text in ("", " \n", "the of and", "♥ … — ?", "\x00", "\ud800", "()[]*"):
        assert terms(text) == ()


def test_an_unknown_language_is_read_as_english():
    assert terms("Breads are baked", "xx") == terms("Breads are baked", "en") == ("bread", "bake")


def test_a_query_in_either_language_meets_its_passage():
    german = "Die Dauer des PR-Intervalls beträgt 0,12 bis 0,20 s bei Erwachsenen."
    english = "The PR interval of adults lasts 0.12 to 0.20 s."
    for query in ("Wie lang ist das PR-Intervall?", "0,12", "0.12", "Intervalls der Erwachsenen"):
        assert set(query_terms(query)) & set(terms(german, "de")), query
    for query in ("How long are PR intervals?", "adult", "0,12", "0.12"):
        assert set(query_terms(query)) & set(terms(english, "en")), query


def test_a_query_says_each_term_once_and_no_term_holds_a_blank():
    found = query_terms("wave waves Wave, IL-6 " + "lead V1 " * 3000)
    assert len(found) == len(set(found)) < 12
    assert not any(not term or " " in term for term in found)
