import pytest
from support import SHARED

from ecg_llm.config import ImportedSet
from ecg_llm.questions.checking.readability import counted, reading_ease
from ecg_llm.questions.checking.sets import table
from ecg_llm.questions.exchange.importing import read_set
from ecg_llm.records import Question


def question(number, **columns):
    plain = {
        "question_id": f"q{number}", "set": "written", "split": "test", "kind": "open",
        "question": "What is the P wave?", "reference": "Atrial depolarization.",
    }  # fmt: skip
    return Question(**(plain | columns))


def test_each_set_split_and_tag_has_a_line():
    rows = [
        question(1, type="fact", difficulty="easy"),
        question(2, tags=("special", "old"), type="fact", difficulty="hard"),
        question(3, split="train"),
        question(4, status="dropped", reason="too_short", question="Why?"),
        question(5, set="exam", kind="choice", options=("no", "yes, always"), answer="B",
                 reference="A long explanation of the answer."),
        question(6, language="de", question="Was zeigt die P-Welle an?", reference="Erregung"),
    ]  # fmt: skip
    lines = {line.name: line for line in table(rows)}
    assert sorted(lines) == list(lines)
    assert set(lines) == {"exam/test", "old/test", "special/test", "written/test", "written/train"}
    written = lines["written/test"]
    assert (written.kept, written.dropped, written.open, written.choice) == (3, 1, 3, 0)
    assert written.types == {"": 1, "fact": 2}
    assert written.difficulties == {"": 1, "easy": 1, "hard": 1}
    assert written.languages == {"de": 1, "en": 2}
    assert (written.question_words, written.answer_words) == (5, 2)
    assert (written.letters, written.longest_key_z) == ({}, 0)
    assert lines["special/test"].kept == 1
    exam = lines["exam/test"]
    assert (exam.letters, exam.answer_words) == ({"B": 1}, 2)
    assert exam.longest_key_z == pytest.approx(1)


def test_reading_ease_is_that_of_the_questions_weighted_by_words():
    english = ["What is it?", "Which electrocardiographic abnormality characterizes hyperkalemia?"]
    german = "Was zeigt die P-Welle im Elektrokardiogramm an?"
    rows = [question(i, question=text, context="Easy. " * 50) for i, text in enumerate(english)]
    (line,) = table(rows)
    assert line.reading_ease == pytest.approx(reading_ease(english, "en"))
    rows += [question(8, question=german, language="de"), question(9, language="fr")]
    (line,) = table(rows)
    words = [sum(counted(text).words for text in english), counted(german, "de").words]
    eases = [reading_ease(english, "en"), reading_ease([german], "de")]
    assert line.reading_ease == pytest.approx(
        sum(w * e for w, e in zip(words, eases, strict=True)) / sum(words)
    )


def test_a_set_of_which_nothing_is_kept_still_has_a_line():
    (line,) = table([question(1, status="dropped", reason="bad_row", question="", reference="")])
    assert (line.kept, line.dropped, line.reading_ease, line.question_words) == (0, 1, None, 0)
    assert table([]) == []


@pytest.mark.slow
def test_the_shared_questions_are_tabled():
    path = SHARED / "questions" / "all_mcq.jsonl"
    if not path.is_file():
        pytest.skip("needs ../shared, which this machine does not have")
    (line,) = table(read_set(path, ImportedSet(path=path.name), [], 1))
    assert (line.kept, line.dropped, line.choice) == (4147, 36, 4147)
    assert sum(line.letters.values()) == 4147
    assert line.question_words == 13
    assert 20 < (line.reading_ease or 0) < 50
