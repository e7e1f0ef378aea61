"""What a question must not say: point at what its reader cannot see, or ask about no medicine."""

import re
from collections.abc import Iterable

WORKS = "stud(?:y|ies)|trial|paper|article|review|report|work|survey|meta-analysis"
PERSONS = (
    r"patient\w*|m[ae]n|wom[ae]n|male|female|boy|girl|child(?:ren)?|adults?|infant|newborn|neonate"
    r"|athlete|person|people|case|\w+[- ]old|mann|frau|kind|junge|mädchen|\w+[- ]?jährige\w*"
)

POINTS_OUTSIDE = re.compile(
    rf"\b(?:(?:this|these|the (?:present|current|cited|above|presented|described|reported))"
    rf" (?:{WORKS})\b"
    r"|that (?:study|trial|paper|article|meta-analysis)\b"
    r"|(?:in|of|by|from|to) the (?:stud(?:y|ies)|authors?|article|text|excerpt)\b"
    r"(?! of (?:anatomy|medicine|choice|disease))"
    r"|the (?:study|authors?|excerpt)\b(?!['’]?s? (?:of|group))"
    r"|(?:in|from|by|does|to) (?:the|this) (?:text )?passage\b"
    r"(?! (?:of|from|through|into|between|leading))"
    r"|this (?:chapter|section|text|document|guideline|figure|table|handbook|book|diagram|graph)\b"
    r"|(?:the|in|see) (?:figure|fig\.|table|box|panel|chapter|section|equation)s? ?\d"
    r"|the (?:figure|table|chapter|graph|diagram|image|picture|photograph|tracing|ecg|list|box)s?"
    r" (?:above|below|shown|provided|depicted)"
    r"|the (?:accompanying|attached|following|provided|given) "
    r"(?:figure|table|graph|diagram|image|picture|photograph|tracing|text)"
    r"|(?:what|does|do|in|from|by) the (?:figure|diagram|illustration|photograph|table)s?"
    r"(?: (?:show|depict|illustrate|demonstrate|list|indicate)\w*|[,?.])"
    r"|(?:figure|fig\.|table|abbildung|abb\.|tabelle|tab\.) ?\d+"
    r"|(?:mentioned|described|listed|shown|discussed|outlined|depicted)"
    r" (?:above|below|here|earlier|in the (?:text|chapter|section|case|vignette|figure|table))\b"
    r"|(?:above|below|previously|afore|before)[- ]?(?:mentioned|described)"
    r"|the above\b"
    r"|according to (?:the|this) (?:text|passage|article|authors?|chapter|document|guidelines?"
    r"|table|figure|section|book|handbook)\b"
    r"|based on the (?:text|passage|article|chapter|information (?:given|provided)|table|figure)\b"
    r"|(?:dieser|diese|dieses|diesem|der vorliegenden|die vorliegende) "
    r"(?:studie|arbeit|artikel|kapitel|abschnitt|text|abbildung|tabelle|untersuchung|leitlinie)\b"
    r"|(?:laut|gemäß|im|aus dem|nach dem) (?:dem )?(?:text|artikel|kapitel|abschnitt)\b"
    r"|(?:in|laut|nach|gemäß) der (?:studie|abbildung|tabelle|untersuchung)\b"
    r"|(?:zeigt|die|der) (?:obige|folgende|nebenstehende)\w* (?:abbildung|tabelle|grafik)\b"
    r"|(?:den|der|die) autoren|(?:oben|unten) (?:genannt|erwähnt|gezeigt|beschrieben|stehend)\w*)",
    re.IGNORECASE,
)
INTRODUCES_WORK = re.compile(
    rf"\b(?:an?|one|two|several|another) (?:[\w-]+ ){{0,6}}(?:{WORKS}|experiment|investigators?"
    r"|researchers?|scientists?|physicians?|cohort|journal|epidemiologists?)\b"
    r"|\b(?:researchers|investigators|scientists|subjects|participants)\b",
    re.IGNORECASE,
)
"""A study made up in the question itself may be spoken of after that."""
POINTS_AT_WORK = re.compile(
    rf"(?:this|these|that|of the|in the|from the|by the|to the|the) (?:{WORKS}|authors?)",
    re.IGNORECASE,
)
POINTS_AT_PATIENT = re.compile(
    r"\b(?:(?:this|these|those) (?:patients?|m[ae]n|wom[ae]n|child|infant|cases?|cohort)"
    r"|that (?:patient|man|woman|child|infant|case)\b"
    r"|the patients? (?:described|presented|mentioned|shown|above|in (?:the|this) (?:case|text))"
    r"|the (?:described|presented|aforementioned|above) (?:patients?|case)"
    r"|dieser?n? patient\w*|diesem patient\w*"
    r"|(?:der|die|den|dem) (?:beschriebene|vorgestellte|genannte)\w* (?:patient\w*|fall))\b",
    re.IGNORECASE,
)
INTRODUCES_PATIENT = re.compile(
    rf"(?:\b(?:an?|one|two|three|some|eine?|einem|einer|einen)\b"
    rf"(?:[^.?!]|\.\d)*\b(?:{PERSONS})\b"
    r"|\b\d+(?:\.\d)?[- ]?(?:year|month|week|day)s?[- ]old\b|\d+[- ]?jährig)",
    re.IGNORECASE,
)
ABOUT_TEXT = (
    r"who (?:wrote|edited|published|funded|sponsored)"
    r"|(?:which|what) (?:journal|publisher|edition|page|chapter)"
    r"|corresponding author|first author|published|publication (?:date|year)|doi|isbn|copyright"
    r"|licen[cs]e (?:of|for) th|creative commons|acknowledge?ments?|conflicts? of interest"
    r"|(?:source of )?funding|how many (?:references|pages|figures|tables|authors|chapters)"
    r"|(?:title|subject|purpose|structure|outline|aim|scope) of th(?:e|is) "
    r"(?:text|book|chapter|article|section|paper|journal|handbook)"
    r"|in (?:what|which) year (?:was|were|did)\b"
    r"|welche(?:s|r|n)? (?:zeitschrift|verlag|auflage|kapitel|seite)|wer (?:schrieb|verfasste)"
    r"|in welchem jahr|literaturverzeichnis|interessenkonflikt\w*|wer (?:finanzierte|förderte)"
)
ABOUT_STUDY = (
    r"what (?:was|were) the (?:sample size|p[- ]value|(?:hazard|odds|risk) ratio"
    r"|(?:mean|median|average) (?:age|follow-up)|follow-up (?:time|period|duration)"
    r"|(?:inclusion|exclusion) criteri(?:a|on)|primary (?:end ?point|outcome)"
    r"|study (?:design|period)"
    r"|number of (?:patients|participants|subjects|recordings|records|centres|centers))"
    r"|how many (?:\w+ ){0,2}(?:patients|participants|subjects|volunteers|individuals|recordings"
    r"|records|centres|centers|trials|studies) (?:were|was|participated|took part|underwent|had"
    r"|completed)"
    r"|(?:inclusion|exclusion) criteria (?:of|for) the"
    r"|(?:which|what) statistical (?:test|method|analysis|software)"
    r"|wie viele (?:\w+ ){0,2}(?:patient\w*|proband\w*|teilnehmer\w*|studien) (?:wurden|nahmen"
    r"|hatten)|welche(?:r|s|n)? statistische\w*|wie (?:groß|hoch) war die (?:stichprobe|fallzahl)"
)
ABOUT_SOFTWARE = (
    r"matlab|spss|github|physionet|leaderboard|source code|open[- ]source|toolbox"
    r"|(?:which|what|welche) (?:\w+ )?(?:software|programming language|python|programmiersprache)"
    r"|(?:software|computer) (?:package|program|library|version)"
    r"|graphics? card|gpus?|cross[- ]validation|training (?:set|data)|test set"
    r"|f1[- ]?(?:score|measure)"
    r"|(?:convolutional|recurrent|deep|artificial) neural networks?|deep learning"
    r"|machine[- ]learning|support vector|random forest|(?:gradient|ada)[- ]?boost\w*"
    r"|(?:challenge|competition)(?:'s|s)? (?:19|20)\d\d|(?:19|20)\d\d (?:\w+ ){0,2}challenge"
    r"|cinc challenge|computing in cardiology"
    r"|(?:challenge|competition) (?:entr(?:y|ies|ants?)|organi[sz]ers?|winners?|submissions?|data)"
)
NO_MEDICINE = re.compile(rf"\b(?:{ABOUT_TEXT}|{ABOUT_STUDY}|{ABOUT_SOFTWARE})\b", re.IGNORECASE)
REFERS_TO_OPTIONS = re.compile(
    r"\b(?:all|none|both|neither|any|some|two|each) (?:of )?(?:the |these |those )?"
    r"(?:above|options?|answers?|other options|choices|preceding|statements)\b"
    r"|\b(?:all|none|both) of (?:these|them)\.?$"
    r"|^(?:both |either |neither )?\(?[a-d]\)?,? (?:and|or|nor) \(?[a-d]\)?\.?$"
    r"|\b(?:alle|keine|beide)[sr]? (?:der |dieser )?(?:genannten|oben\w*|antworten|aussagen)",
    re.IGNORECASE,
)


def not_self_contained(question: str, answers: Iterable[str] = ()) -> str:
    """Return the words that point at a text, study, figure or patient not shown, or "".

    A patient or a study that the question itself introduces is shown.
    """
    for found in POINTS_OUTSIDE.finditer(question):
        introduced = POINTS_AT_WORK.match(found.group()) and INTRODUCES_WORK.search(
            question[: found.start()]
        )
        shown = re.search("below|following", found.group(), re.IGNORECASE) and question[
            found.end() :
        ].lstrip().startswith(":")
        if not introduced and not shown:
            return found.group()
    for answer in answers:
        if outside := POINTS_OUTSIDE.search(answer):
            if POINTS_AT_WORK.match(outside.group()) and INTRODUCES_WORK.search(question):
                continue
            return outside.group()
    pointer = POINTS_AT_PATIENT.search(question)
    if pointer and not INTRODUCES_PATIENT.search(question[: pointer.start()]):
        return pointer.group()
    return ""


def not_medical(question: str) -> str:
    """Return the words by which the question asks about a text, a study or software, or ""."""
    found = NO_MEDICINE.search(question)
    return found.group() if found else ""


def refers_to_options(option: str) -> bool:
    """Return whether an option speaks of the other options, as "all of the above" does."""
    return bool(REFERS_TO_OPTIONS.search(option))
