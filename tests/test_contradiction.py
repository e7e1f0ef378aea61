import json

import pytest
from support import ROOT

from ecg_llm.contradiction import Quantity, contradiction, leads, quantities

SAME = [
    ("The PR interval lasts 0.12 to 0.20 s.", "The PR interval is 120–200 ms."),
    ("Die PQ-Zeit beträgt 0,2 s.", "Die PQ-Zeit beträgt 200 ms."),
    ("The rate is 60 beats per minute.", "A rate of 60 bpm or 60/min."),
    ("Two P waves are blocked.", "2 P waves are blocked."),
    ("1,200 patients were seen.", "Of 1200 patients most were men."),
    ("The wave is upright in V2.", "The wave is upright in V1 to V4."),
    ("The QRS complex is wide.", "A wide QRS complex follows a narrow P wave."),
    ("ST elevation in II and III.", "ST elevation in II and III, ST depression in aVL."),
    ("P waves are absent.", "There are no P waves."),
    ("VT is not excluded by stable pressure.", "Stable pressure does not exclude VT."),
    ("Die QT-Zeit ist nicht verlängert.", "Die QT-Zeit ist nicht verlängert, die PQ-Zeit kurz."),
    ("Mobitz II block is infranodal.", "Mobitz type 2 block is infranodal."),
    ("Types 1 and 2 are inherited.", "Type I and type II are inherited."),
    ("In AV-Block II. Grades fallen Schläge aus.", "Beim AV-Block 2. Grades fallen Schläge aus."),
    ("The axis lies beyond minus 30 degrees.", "The axis lies beyond \N{MINUS SIGN}30°."),
    ("It lasts 120 ms.", "It lasts 90 -120 ms."),
    ("P is upright in lead I.", "P is upright in I, II and aVF."),
    ("P is upright in lead I.", "P is upright in leads II and I."),
    ("Troponin I is high.", "High troponin was found."),
    ("Der Hinterwandinfarkt betrifft II und III.", "Inferior: Hinterwandinfarkt, II und III."),
    ("Proximal lesions are severe.", "Proximal lesions are severe, distal lesions are mild."),
]
OTHERWISE = [
    ("The PR interval lasts 0.3 s.", "The PR interval is 120–200 ms.", "300 ms"),
    ("It lasts 20 s.", "It lasts 20 minutes.", "20000 ms"),
    ("The wave is upright in V6.", "The wave is upright in V1 to V4.", "V6"),
    ("The QT interval is shortened.", "The QT interval is prolonged.", "shortened"),
    ("ST depression in II and III.", "ST elevation in II and III.", "depression"),
    ("ST depression in II, III.", "ST elevation in II, III, ST depression in aVL.", "depression"),
    ("The left bundle branch is blocked.", "The right bundle branch is blocked.", "left"),
    ("Die QT-Zeit ist verkürzt.", "Die QT-Zeit ist verlängert.", "verkürzt"),
    ("A rate above 100 bpm.", "A rate below 100 bpm.", "above"),
    ("It does not prolong the QT interval.", "It prolongs the QT interval.", "negated"),
    ("It prolongs the QT interval.", "It does not prolong the QT interval.", "negated"),
    ("Nodal rhythm without P waves.", "Nodal rhythm with retrograde P waves.", "negated"),
    ("Die QT-Zeit ist nicht verlängert.", "Die QT-Zeit ist verlängert.", "negated"),
    ("The axis is +30 to -90 degrees.", "The axis is -30 to +90 degrees.", "-90 degrees, 30"),
    ("P is upright in lead I.", "P is upright in lead V1.", "I"),
    ("Mobitz II block is common.", "AV block is common.", "not there: 2"),
    ("Motor nerves slow.", "Sensory nerves slow.", "motor"),
]


@pytest.mark.parametrize(("claim", "text"), SAME)
def test_the_same_in_other_words_is_no_contradiction(claim, text):
    assert contradiction(claim, text) == ""


def test_clinical_opposites_are_told_apart():
    lines = (ROOT / "tests" / "opposites.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    lost = [row["claim"] for row in rows if contradiction(row["claim"], row["passage"])]
    passed = [row["spoilt"] for row in rows if not contradiction(row["spoilt"], row["passage"])]
    assert len(rows) == 100
    assert len(lost) <= 3, lost
    assert len(passed) <= 3, passed


@pytest.mark.parametrize(("claim", "text", "named"), OTHERWISE)
def test_what_is_said_otherwise_is_named(claim, text, named):
    assert named in contradiction(claim, text)


def test_what_the_question_gives_needs_no_support():
    claim, text = "At 25 mm/s three squares last 600 ms.", "Three squares last 600 ms."
    assert contradiction(claim, text) == "not there: 25 mm"
    assert contradiction(claim, text, "How long are three squares at 25 mm/s?") == ""


@pytest.mark.parametrize("text", ["", "1.2.3 and m6A", "-", "9" * 400, "²³", "½ mm", "٣ ms"])
def test_odd_numbers_crash_nothing(text):
    assert isinstance(contradiction(text, "x"), str)
    assert isinstance(contradiction("x", text), str)


def test_quantities_and_leads():
    assert quantities("0.1 mV, 1 cm and 25-30 %") == {
        Quantity(0.1, "mV"), Quantity(10, "mm"), Quantity(25, "%"), Quantity(30, "%"),
    }  # fmt: skip
    assert quantities("-0.2 mV, minus 5 mm, 30–90° (–30), +5 to -5 Hz, PR-7") == {
        Quantity(-0.2, "mV"), Quantity(-5, "mm"), Quantity(30, "degrees"), Quantity(90, "degrees"),
        Quantity(-30, ""), Quantity(5, "Hz"), Quantity(-5, "Hz"), Quantity(7, ""),
    }  # fmt: skip
    assert quantities("Mobitz 2, type 1, II. Grades") == set()
    assert leads("lead I, Ableitung I") == {"I"}
    assert leads("I and aVL") == {"I", "aVL"}
    assert leads("I think that troponin I is high in type I and class II.") == set()
    assert leads("V1 to V3, aVR, II and V4R") == {"V1", "V2", "V3", "aVR", "II", "V4R"}
