import time

import pytest
from support import CHAPTER

from ecg_llm.questions.writing.facts import fact_of
from ecg_llm.questions.writing.sentences import sentences
from ecg_llm.questions.writing.usage import Usage


def facts(text):
    usage = Usage([text])
    return [fact for s in sentences(text) if (fact := fact_of(s, usage))]


def asked(text):
    return [fact.question for fact in facts(text)]


def test_facts_become_the_questions_a_person_would_ask():
    found = asked(CHAPTER)
    for question in (
        "How is first-degree AV block defined?",
        "What is marked first-degree AV block?",
        "How is Mobitz type II block defined?",
        "What is a fusion beat?",
        "What is the rate of a ventricular escape rhythm?",
        "How do LBBB and RBBB differ?",
        "When should isoproterenol be avoided?",
        "Why is biventricular hypertrophy hard to recognize?",
        "How long does the P wave last?",
    ):
        assert question in found


@pytest.mark.parametrize(
    "sentence",
    [
        "This is defined as a delay of conduction in the AV node.",
        "It is a delay of conduction in the atrioventricular node.",
        "The authors is a group of people who wrote the whole text.",
        "The latter rhythm is a fast rhythm with wide QRS complexes.",
        "The valve is a thin leaf of tissue at the mouth of a chamber.",
        "Figure 3 shows a wide QRS complex with a notched R wave.",
        "Another cause is a drug that prolongs the QT interval of the heart.",
        "Atrial fibrillation is a common arrhythmia in older adults.",
        "Patients in this study is a group of adults with heart failure.",
        "However, the QRS complex is a wave of ventricular depolarization.",
        "Bundle branch block is a delay as shown in Table 2 of the guideline.",
        "AV blocks are often described by degrees and by their place.",
    ],
)
def test_sentences_that_lean_on_others_or_evaluate_give_no_question(sentence):
    assert asked(sentence) == []


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("The SA node, also called the pacemaker, is located in the wall of the right atrium.",
         "Where is the SA node located?"),
        ("Local changes in the membrane potential are called graded potentials.",
         "What are local changes in the membrane potential called?"),
        ("Edema, a swelling of tissue with interstitial fluid, is caused by many disorders.",
         "What is edema?"),
        ("There are two types of sleep apnea: obstructive sleep apnea and central sleep apnea.",
         "What are the two types of sleep apnea?"),
        ("Compared with veins, arteries have thick walls with much smooth muscle.",
         "How do arteries and veins differ?"),
        ("The main difference between systole and diastole is the direction of the wall's motion.",
         "What is the main difference between systole and diastole?"),
        ("When calcium binds to troponin, the binding sites of actin become free.",
         "What happens when calcium binds to troponin?"),
        ("Erythrocytes usually live only 120 days on average in the blood.",
         "How long do erythrocytes live?"),
        ("Albumin accounts for about 54 percent of the plasma protein, and the liver makes it.",
         "What percentage of the plasma protein does albumin account for?"),
        ("Meningitis can be caused by infection with bacteria or viruses.",
         "What can meningitis be caused by?"),
        ("Complete bundle branch block requires a QRS duration of at least 120 ms.",
         "What does complete bundle branch block require?"),
        ("LVH often prolongs the QRS duration and the R wave peak time.",
         "What does LVH prolong?"),
        ("Cancer is a disease in which cells divide without the control of the body.",
         "What is cancer?"),
        ("The aphasia of Broca's area is known as an expressive aphasia.",
         "What is the aphasia of Broca's area called?"),
        ("Endocrine glands are ductless glands that secrete hormones into the blood.",
         "What are endocrine glands?"),
        ("A voltage-gated channel is a channel that responds to changes of the membrane.",
         "What is a voltage-gated channel?"),
        ("The term hypoxemia refers to low levels of oxygen in arterial blood.",
         "What is meant by the term “hypoxemia”?"),
        ("Saltatory conduction is faster than continuous conduction.",
         "Which is faster: saltatory conduction or continuous conduction?"),
        ("The optic nerve extends from the retina through a canal and into the brain.",
         "From where to where does the optic nerve extend?"),
        ("The brain stem includes the midbrain, the pons, and the medulla.",
         "What does the brain stem include?"),
        ("Bei Hypokaliämie finden sich ST-Senkungen und hervortretende U-Wellen.",
         "Was findet sich bei Hypokaliämie?"),
        ("Vertauschte Armelektroden gelten als Ursache einer negativen P-Welle in Ableitung I.",
         "Als was gelten vertauschte Armelektroden?"),
    ],
)  # fmt: skip
def test_each_shape_of_sentence_has_its_question(sentence, question):
    assert asked(sentence) == [question]


@pytest.mark.parametrize(
    "sentence",
    [
        "Common blood tests indicating infarction include the level of troponin.",
        "Environmental triggers seem to play large roles in autoimmune disease.",
        "Acquired forms include lupus and reactions of the immune system to heparin.",
        "The outer segment contains the pigments and the stacks of the membrane.",
        "The surrounding tissues are dependent on the correct growth of the heart.",
        "Superior to the lateral sulcus are the parietal lobe and the frontal lobe.",
        "In comparison, parasympathetic stimulation releases acetylcholine from the nerve.",
        "The liver requires the fat-soluble vitamin K to produce many of them.",
        "The reflex explained above includes sensory input and motor output of the cord.",
        "The treatment of the disease consists of drugs and of rest in bed for weeks.",
        "Homeostasis is the balance within a tissue between the two systems.",
        "The cerebrum is covered by a layer of cells of the forebrainthe cerebral cortex.",
        "Nervous System Anosmia is the loss of the sense of smell after an injury.",
        "The score for every entry is the rank coefficient of the whole ranking.",
        "The patient's pulse pressure is the difference between two values of pressure.",
        "Respiratory volume is dependent on a variety of factors of the body.",
        "The production and secretion of PTH is regulated by a loop of feedback.",
        "The oculomotor nerve controls all the other muscles of the eye and the eyelid.",
        "The thalamus then sends the sensory information to the cerebral cortex of the brain.",
        "Typical AVNRT conducts forward over the slow pathway and backward over the fast one.",
        "Respiratory volume may be 500 ml in one person and 700 ml in another.",
        "The middle panel shows the membrane potential during the stimulation.",
        "Figurea shows the atrioventricular valves closed and the other valves open.",
        "The ophthalmologist recognizes a swelling of the nerve and of the retina.",
        "Almost 27 percent of Americans aged 65 and older have diabetes.",
        "Tissue transplantation is harder than blood transfusion because of two characteristics.",
        "The pituitary gland is divided into two distinct structures of the brain.",
        "Venous return is determined by the muscles, the blood volume, and the circulation.",
        "The vagus nerve is involved in responses to taste and to touch.",
        "Heart valve defects include prolapse, regurgitation, and stenosis.",
        "Hereditary conditions can lead to degeneration of the cerebellum.",
        "Rates of firing from the baroreceptors represent blood pressure and activity.",
        "The dendritic cell transports the virus to a lymph node.",
        "A lesion of the nerve would result in a loss of control, which is known as paresis.",
        "During adulthood, the thymus shrinks because the defense is already developed.",
        "Mature cells become activated by an antigen on the surface of a cell.",
        "The diencephalon includes the thalamus and the hypothalamus, and some other structures.",
        "What is found in it is inferior but somewhat posterior to the thalamus.",
        "Availability of digital stethoscopes provides a record of the heart sounds.",
    ],
)
def test_sentences_that_once_gave_bad_questions_give_none(sentence):
    around = "the forebrain and the cerebral cortex. nervous system, nervous system, anosmia."
    usage = Usage([sentence, around])
    assert [f.question for s in sentences(sentence) if (f := fact_of(s, usage))] == []


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("Sympathetic stimulation causes the release of norepinephrine at the nerves.", ""),
        ("The endothelium releases local chemicals that constrict the wall of the vessel.", ""),
        ("The superior colliculus receives input from the eyes and from the ears.", ""),
        ("Macrophages are found in the skin and in the lining of mucosal surfaces.", ""),
        ("ACTH triggers the release of the glucocorticoids.", "What does ACTH trigger?"),
        ("Atropine blocks receptors of acetylcholine in the heart and in the eye.",
         "What does atropine block?"),
        ("Coronary arteries supply blood to all layers of the myocardium.",
         "What do coronary arteries supply?"),
        ("The left superior colliculus receives input from the eyes and from the ears.",
         "What does the left superior colliculus receive?"),
        ("The iris constricts the pupil in response to bright light.",
         "What does the iris constrict?"),
        ("Macrophages are found in the alveoli of the lung.", "Where are macrophages found?"),
    ],
)  # fmt: skip
def test_what_has_many_right_answers_is_asked_only_of_what_is_certain(sentence, question):
    (fact,) = facts(sentence)
    assert fact.question == question
    assert fact.predicate  # a choice question may still be made of it


def test_german_sentences_give_german_questions():
    text = (
        "Der AV-Block dritten Grades ist durch vollständige Dissoziation von Vorhof- und "
        "Kammeraktion gekennzeichnet. Unter einem Schenkelblock versteht man eine verzögerte "
        "Erregung der Kammer. Der Lagetyp beschreibt die Richtung der größten Vektorprojektion. "
        "Die P-Welle ist der Ausdruck der Erregung beider Vorhöfe."
    )
    assert asked(text) == [
        "Wodurch ist der AV-Block dritten Grades gekennzeichnet?",
        "Was versteht man unter einem Schenkelblock?",
        "Was beschreibt der Lagetyp?",
        "Was ist die P-Welle?",
    ]


def test_praise_defines_nothing_in_german_either():
    praise = "Die Elektrokardiographie ist das wichtigste Verfahren zur Beurteilung des Rhythmus."
    assert asked(praise) == []
    assert asked(praise.replace("wichtigste ", "")) == ["Was ist die Elektrokardiographie?"]


def test_a_longer_name_that_the_corpus_has_only_once_is_not_asked_about():
    once = "Strange hydrophobic amino acids are found in the wall of the cell membrane."
    often = " The amino acids are acids. Amino acids are many. All amino acids are small."
    assert asked(once + often * 5_000) == []


def test_references_to_the_steps_of_a_figure_are_not_read():
    text = "A kinase starts a cascade of many enzymes in the cell (Step 6)."
    assert [s.text for s in sentences(text)] == [
        "A kinase starts a cascade of many enzymes in the cell."
    ]


def test_the_first_use_of_an_abbreviation_is_spelled_out_if_the_corpus_explains_it_in_one_way():
    usage = Usage(
        ["The capillary hydrostatic pressure (CHP) falls. A red cell count (RCC) is low."]
    )
    question = "What does the CHP do when the CHP falls?"
    assert usage.spelled_out(question) == (
        "What does the capillary hydrostatic pressure (CHP) do when the CHP falls?"
    )
    assert usage.spelled_out("What is the ECG?") == "What is the ECG?"
    twice = Usage(["The mean arterial pressure (MAP) fell.", "A main axis plot (MAP) helps."])
    assert twice.spelled_out("What is the MAP?") == "What is the MAP?"


def test_sentences_are_prose_and_stand_in_the_text():
    found = sentences(CHAPTER)
    assert all(sentence.raw in CHAPTER for sentence in found)
    assert any(s.text == "A list item is a thing in a list of things." for s in found)
    assert not any("table is" in s.text for s in found)
    cited = next(s for s in found if s.text.startswith("Ventricular fibrillation"))
    assert cited.raw.endswith("[12].")
    assert cited.text.endswith("QRS complexes.")


def test_abbreviations_and_initials_end_no_sentence_but_roman_leads_do():
    text = "Some drugs, e.g. Amiodarone, prolong QT. The axis is seen in lead I. Lead II is next."
    assert [s.text for s in sentences(text)] == [
        "Some drugs, e.g. Amiodarone, prolong QT.",
        "The axis is seen in lead I.",
        "Lead II is next.",
    ]


def test_long_and_strange_text_takes_no_time():
    hostile = "The " + "a " * 40 + "is because. " + "x" * 100_000 + ". " + "A is " * 20_000 + "."
    start = time.monotonic()
    facts(hostile + "\n\n" + "Word because " * 5_000)
    assert time.monotonic() - start < 5
