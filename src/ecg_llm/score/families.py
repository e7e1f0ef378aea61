"""Whose kin a judge is: families of models by their names, and a judge that is among its own."""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ecg_llm.config import Judge
from ecg_llm.contracts import UsageError

NAMED_BY: Mapping[str, re.Pattern[str]] = {
    family: re.compile(pattern)
    for family, pattern in {
        # Not the programs that run others' models under the llama's name.
        "llama": r"(?<![^a-z]o)(?<!^o)llama(?!file|index|[._ -]?(?:cpp|factory))|vicuna|medalpaca|"
        r"meditron|openbiollm|med42|clinicalcamel|wizardlm(?![-_ ]?2)|"
        r"^(?!.*olmo).*(?<![a-z])tulu[-_ ]?v?[23]",
        # Not gpt2, gpt-neo, gpt-j or biogpt: others, with weights of their own.
        "gpt": r"chatgpt|(?<![a-z])gpt[-_ ]?(?:[345](?!all)|oss)|(?:^|/)o[134](?![a-z0-9])|"
        r"(?<![a-z])(?:davinci|babbage)-00\d",
        "claude": r"claude|(?<![a-z])(?:sonnet|opus(?!-mt)|haiku)(?![a-z])",
        # Gemma comes of Gemini's research and is distilled from its like.
        "gemini": r"gemini|gemma|(?<![a-z])palm-?2",
        "mistral": r"(?:mis|mix|minis|magis|devs|codes|pix|vox|maths)tral|wizardlm[-_ ]?2|"
        r"^(?!.*(?:stablelm|gemma)).*(?<![a-z])zephyr",
        "qwen": r"qwen|(?<![a-z])(?:qwq|qvq)(?![a-z])",
        "deepseek": r"deepseek",
        "phi": r"(?<![a-z])phi[-_ .]?\d|mediphi",
        "command": r"(?<![a-z])(?:command[-_](?:r|a|light|nightly)|aya)(?![a-z])|c4ai",
        "grok": r"(?<![a-z])grok(?![a-z])",
        "granite": r"granite",
        "olmo": r"(?<![a-z])olmo",
        "falcon": r"(?<![a-z])falcon(?![a-z])",
        "yi": r"(?<![a-z])yi[-_:.]?(?:\d|large|lightning|medium|coder|vl)",
        "glm": r"(?<![a-z])(?:chat)?glm(?![a-z])",
        "kimi": r"(?<![a-z])kimi(?![a-z])|moonshot",
        "nemotron": r"nemotron",
        "minimax": r"minimax",
        "nova": r"(?<![a-z])nova-(?:micro|lite|pro|premier)",
        "jamba": r"jamba",
        "exaone": r"exaone",
        "internlm": r"internlm",
        "baichuan": r"baichuan",
        "hunyuan": r"hunyuan",
        "ernie": r"(?<![a-z])ernie",
        "smollm": r"smollm",
        "apertus": r"apertus",
        "eurollm": r"eurollm",
    }.items()
}
"""Family -> what names it in the name of a model, in small letters.

A tuning belongs to the family of its base, and a distillate ("deepseek-r1-distill-llama") to two.
Whose text a model was trained on beyond that is seldom known, and does not count.
"""


class Kin(NamedTuple):
    """A model and the families that it belongs to; none: they are not known."""

    model: str
    families: frozenset[str]


def family(name: str, stated: str = "") -> frozenset[str]:
    """Return the families of a model by its name, id or folder; empty where it names none.

    A stated family stands instead: "gemma" for that of Gemma and Gemini, "llama, deepseek" for two;
    one that is not known here is a family of its own.
    """
    if not stated.strip():
        return frozenset(_named(name))
    words = [" ".join(word.split()).lower() for word in stated.split(",") if word.strip()]
    return frozenset(
        found
        for word in words
        for found in ([word] if word in NAMED_BY else _named(word) or [word])
    )


def _named(name: str) -> list[str]:
    return [family for family, named in NAMED_BY.items() if named.search(name.lower())]


def related(judge: Kin, others: Iterable[Kin]) -> list[Kin]:
    """Return those of the others that are of a family with the judge, or the judge itself.

    Models of one name are the same, whoever serves them and whatever revision or adapter they
    have.
    """
    return [other for other in others if judge.families & other.families or _same(judge, other)]


def _same(one: Kin, other: Kin) -> bool:
    return _bare(one.model) == _bare(other.model)


def _bare(model: str) -> str:
    return model.partition("@")[0].rpartition("/")[2].lower()


def check(
    judge_name: str,
    settings: Judge,
    judge: Kin,
    writers: Iterable[Kin],
    contestants: Iterable[Kin],
) -> list[str]:
    """Return warnings, one sentence each, about a judge that is among its own.

    Models favour their own answers (self-preference, Panickssery et al. 2024, arXiv 2404.13076)
    and those of models tuned on questions that their family wrote (preference leakage, Li et al.
    2025, arXiv 2502.01534).

    Args:
        judge_name: Name of the judge in study.yaml.
        settings: The judge's section of study.yaml.
        judge: The model that judges.
        writers: The models that wrote the judged questions.
        contestants: The models that answer.

    Raises:
        UsageError: the judge is related to a writer, and the study does not allow that.
    """
    writers, contestants = sorted(set(writers)), sorted(set(contestants))
    found = []
    if kin := related(judge, writers):
        fault = f"Judge {judge_name!r} ({judge.model}) is related to {_listed(kin)}"
        remedy = f"scores.judges.{judge_name}.related: allow"
        if settings.related == "refuse":
            raise UsageError(
                f"{fault}, which wrote the questions it is to judge, and would favour answers "
                f"tuned on them; name a judge of another family, or set {remedy}."
            )
        found.append(
            f"{fault}, which wrote the questions it judges: it may favour answers tuned on them "
            f"({remedy})."
        )
    kin = related(judge, contestants)
    if own := [contestant for contestant in kin if _same(judge, contestant)]:
        found.append(
            f"Judge {judge_name!r} ({judge.model}) grades its own answers, those of "
            f"{_listed(own)}: it may favour them."
        )
    if kin := [contestant for contestant in kin if contestant not in own]:
        found.append(
            f"Judge {judge_name!r} ({judge.model}) is related to {_listed(kin)}, whose answers it "
            "judges: it may favour its own."
        )
    others = [*writers, *(contestant for contestant in contestants if contestant.families)]
    if others and not judge.families:
        found.append(
            f"The family of judge {judge_name!r} ({judge.model}) is not known, so none can tell "
            f"whether it is related to {_listed(dict.fromkeys(others))}; name it in the family of "
            f"models.{settings.model}."
        )
    if unknown := [writer for writer in writers if not writer.families and writer.model]:
        found.append(
            f"The family of {_listed(unknown)}, which wrote questions, is not known, so none can "
            f"tell whether judge {judge_name!r} is related to it; name it in the family of its "
            "entry in models."
        )
    return found


def check_panel(judge_name: str, panel: Mapping[str, Kin]) -> list[str]:
    """Return warnings, one sentence each, about judges that are one model under several names.

    `panel` are the judges by name, in their order; this one is compared with those before it, so
    that each pair is told once.
    """
    judge, before = panel[judge_name], list(panel)[: list(panel).index(judge_name)]
    return [
        f"Judges {other!r} and {judge_name!r} are the same model ({judge.model}): their agreement "
        "says nothing."
        for other in before
        if _same(judge, panel[other])
    ]


def check_facts(model: Kin, writers: Iterable[Kin], contestants: Iterable[Kin]) -> list[str]:
    """Return warnings, one sentence each, about a model of key facts that is among its own.

    It marks single facts against the reference, which leaves it less room for favour than a judge.
    """
    whose = {
        "which wrote the questions": related(model, sorted(set(writers))),
        "whose answers it looks through": related(model, sorted(set(contestants))),
    }
    return [
        f"The model of key facts ({model.model}) is related to {_listed(kin)}, {which}: it may "
        "find more of the facts in what its own family wrote."
        for which, kin in whose.items()
        if kin
    ]


def _listed(models: Iterable[Kin]) -> str:
    """Return models with their families, for a sentence."""
    return " and ".join(
        f"{model} ({', '.join(sorted(families))})" if families else model
        for model, families in models
    )
