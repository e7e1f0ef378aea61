import pytest

from ecg_llm.questions.checking.readability import (
    Counts,
    amstad,
    counted,
    flesch,
    reading_ease,
    syllables,
)

ENGLISH = """
heart 1 rhythm 2 atrium 3 ventricle 3 cardiac 3 tachycardia 5 bradycardia 5 arrhythmia 4
fibrillation 4 flutter 2 ischemia 4 infarction 3 electrocardiogram 7 depolarization 6
repolarization 6 pacemaker 3 defibrillator 5 valve 1 stenosis 3 regurgitation 5 hypertrophy 4
hypertension 4 potassium 4 hypokalemia 6 myocardial 5 pericarditis 5 syncope 3 artery 3 vein 1
aorta 3 coronary 4 bundle 2 branch 1 node 1 sinus 2 wave 1 interval 3 complex 2 segment 2
elevation 4 axis 2 amplitude 3 duration 3 premature 3 junctional 3 escape 2 diagnosis 4 patient 2
disease 2 treated 2 caused 1 digoxin 3 amiodarone 5 electrode 3 cardiomyopathy 7 physiology 5
nucleus 3 muscle 2 sodium 3 conduction 3
"""
FURTHER = """
prolonged 2 blood 1 widened 2 phases 2 pulses 2 measured 2 measurement 3 likely 2 severe 2
therapeutic 4 angina 3 thrombosis 3 dyspnea 3 edema 3 oxygen 3 nerve 1 receptor 3 anterior 4
lateral 3 echocardiography 7 auscultation 4 murmur 2 catheter 3 ablation 3 anticoagulant 6
heparin 3 warfarin 3 lidocaine 3 adenosine 4 verapamil 4 troponin 3 creatinine 4 embolism 4
cyanosis 4 palpitations 4 aneurysm 4 mitral 2 tricuspid 3 systolic 3 diastolic 4 pulmonary 4
venous 2 capillaries 4 endocardium 5 automaticity 6 refractory 4 excitability 6 asystole 4
preexcitation 5 reentry 3 hyperthyroidism 6 diagnosed 3 diseases 3 diuretic 4 beats 1 voltage 2
voltages 3 changes 2 recorded 3 widening 3 abnormality 5 associated 5 quinidine 3 leads 1 waves 1
muscles 2 values 2 region 2 partial 2 questions 2 tissue 2 variable 4 radial 3 ratio 3 cells 1
"""
GERMAN = """
Herz 1 Rhythmus 2 Vorhof 2 Kammer 2 Vorhofflimmern 4 Herzinfarkt 3 Blutdruck 2 Tachykardie 4
Bradykardie 4 Arrhythmie 3 Ischämie 3 Erregung 3 Reizleitung 3 Elektrokardiogramm 7 Ableitung 3
Schenkelblock 3 Sinusknoten 4 Schrittmacher 3 Klappe 2 Stenose 3 Insuffizienz 5 Hypertrophie 4
Kalium 3 Natrium 3 Aorta 3 Ventrikel 3 Muskel 2 Patient 3 Diagnose 4 Therapie 3 Myokard 3 Zeichen 2
Eiweiß 2 Blut 1 Lunge 2 Niere 2 Behandlung 3 häufig 2 steigt 1 Säure 2 Synkope 3 Perikarditis 5
Depolarisation 7 Strecke 2 Hebung 2 Senkung 2 Achse 2 links 1 Ursache 3 Herzfrequenz 3 Fläche 2
Neugeborene 5 Augen 2 Arterie 4 Arterien 4 Dauer 2 Linien 3 Bereich 2 Frequenz 2 Koronararterie 7
"""


@pytest.mark.parametrize(
    ("text", "language"), [(ENGLISH, "en"), (FURTHER, "en"), (GERMAN, "de")]
)  # fmt: skip
def test_syllables_of_medical_words_are_counted_right(text, language):
    fields = text.split()
    words = dict(zip(fields[::2], map(int, fields[1::2]), strict=True))
    assert len(words) >= 60
    wrong = [word for word, count in words.items() if syllables(word, language) != count]
    assert len(wrong) <= len(words) // 20, wrong


@pytest.mark.parametrize(
    ("text", "language", "count"),
    [
        ("ECG", "en", 3),
        ("ECGs", "en", 3),
        ("WPW", "en", 7),
        ("P", "en", 1),
        ("V1", "en", 2),
        ("EKG", "de", 3),
        ("0", "en", 2),
        ("12", "en", 1),
        ("27", "en", 4),
        ("120", "en", 5),
        ("1918", "en", 4),
        ("1,000", "en", 3),
        ("0.12", "en", 5),
        ("100000000", "en", 17),
        ("21", "de", 4),
        ("0,12", "de", 5),
        ("1.000", "de", 3),
        ("12-lead", "en", 2),
        ("ß", "de", 1),
        ("", "en", 1),
    ],
)
def test_numbers_and_abbreviations_are_read_aloud(text, language, count):
    assert syllables(text, language) == count


@pytest.mark.parametrize(
    ("text", "language", "counts"),
    [
        ("The cat sat on the mat.", "en", (1, 6, 6)),
        ("The heart has four chambers. Two of them pump blood.", "en", (2, 10, 11)),
        ("What does a P wave show? It shows that the atria depolarize.", "en", (2, 12, 17)),
        ("Give 0.5 mg, e.g. to a patient with a slow pulse.", "en", (1, 11, 16)),
        ("Dr. Smith read the 12-lead ECG.", "en", (1, 6, 9)),
        ("No full stop\n\nNew paragraph", "en", (2, 5, 7)),
        ("Is QT long?! Yes...", "en", (2, 4, 5)),
        ("It's the patient's heart.", "en", (1, 4, 5)),
        ("(See below.) Then treat.", "en", (2, 4, 5)),
        ("Das Herz schlägt. Es hat vier Höhlen.", "de", (2, 7, 8)),
        ("Die Aorta entspringt der linken Kammer, z. B. beim Menschen.", "de", (1, 10, 16)),
        ("Was zeigt die P-Welle? Die Erregung der Vorhöfe.", "de", (2, 8, 14)),
        ("", "en", (0, 0, 0)),
        ("...?!", "en", (0, 0, 0)),
    ],
)
def test_counts_agree_with_counting_by_hand(text, language, counts):
    assert counted(text, language) == Counts(*counts)


@pytest.mark.parametrize(
    ("text", "ease"),
    [
        # Examples of the English Wikipedia's article on the Flesch reading ease.
        ("The cat sat on the mat.", 116.145),
        ("This sentence, taken as a reading passage unto itself, is being used to prove a point.",
         68.98),
        ("The Australian platypus is seemingly a hybrid of a mammal and reptilian creature.",
         37.455),
    ],
)  # fmt: skip
def test_published_examples_are_met(text, ease):
    assert reading_ease([text], "en") == pytest.approx(ease, abs=0.01)


def test_the_formulas_are_those_of_flesch_and_amstad():
    counts = Counts(sentences=5, words=100, syllables=150)
    assert flesch(counts) == pytest.approx(206.835 - 1.015 * 20 - 0.846 * 150)
    assert amstad(counts) == pytest.approx(180 - 20 - 58.5 * 1.5)


def test_texts_are_taken_as_one_and_other_languages_are_not_guessed():
    short, long = "Why?", "Which electrocardiographic abnormality characterizes hyperkalemia?"
    together = reading_ease([short, long], "en")
    total = Counts(2, 6, counted(short).syllables + counted(long).syllables)
    assert together == pytest.approx(flesch(total))
    assert reading_ease([long], "fr") is None
    assert reading_ease([], "en") is None
    assert reading_ease(["?"], "de") is None
