import pytest

from ecg_llm import pipeline
from ecg_llm.config import Judge, Study
from ecg_llm.contracts import UsageError
from ecg_llm.score.families import Kin, check, check_facts, check_panel, family, related


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("meta-llama/Meta-Llama-3.1-8B-Instruct@main", "llama"),
        ("llama3.1:8b", "llama"),
        ("Llama-3.3-70B-Instruct-AWQ", "llama"),
        ("codellama-34b", "llama"),
        ("lmsys/vicuna-13b-v1.5", "llama"),
        ("epfl-llm/meditron-70b", "llama"),
        ("aaditya/Llama3-OpenBioLLM-8B", "llama"),
        ("m42-health/med42-70b", "llama"),
        ("gpt-4o-mini", "gpt"),
        ("openai/gpt-oss-20b", "gpt"),
        ("gpt-3.5-turbo", "gpt"),
        ("chatgpt-4o-latest", "gpt"),
        ("o1", "gpt"),
        ("o3-mini", "gpt"),
        ("openai/o4-mini@2025", "gpt"),
        ("claude-3-7-sonnet-20250219", "claude"),
        ("anthropic.claude-v2", "claude"),
        ("gemini-2.5-pro", "gemini"),
        ("google/gemma-3-27b-it", "gemini"),
        ("medgemma-4b-it", "gemini"),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", "mistral"),
        ("ministral-8b", "mistral"),
        ("Magistral-Small", "mistral"),
        ("BioMistral/BioMistral-7B", "mistral"),
        ("Qwen/Qwen2.5-7B-Instruct", "qwen"),
        ("qwq-32b", "qwen"),
        ("ollama/qwen3:8b", "qwen"),
        ("deepseek-reasoner", "deepseek"),
        ("deepseek/deepseek-r1:free", "deepseek"),
        ("DeepSeek-R1-Distill-Llama-8B", "deepseek llama"),
        ("deepseek-r1-distill-qwen-32b", "deepseek qwen"),
        ("microsoft/phi-4", "phi"),
        ("phi3:mini", "phi"),
        ("command-r-plus", "command"),
        ("CohereForAI/aya-expanse-8b", "command"),
        ("grok-4", "grok"),
        ("granite-3.3-8b-instruct", "granite"),
        ("allenai/OLMo-2-1124-7B", "olmo"),
        ("tiiuae/falcon-7b", "falcon"),
        ("01-ai/Yi-34B-Chat", "yi"),
        ("zai-org/GLM-4.5", "glm"),
        ("moonshotai/Kimi-K2", "kimi"),
        ("nvidia/Llama-3.1-Nemotron-70B", "llama nemotron"),
        ("OpenMeditron/Qwen2.5-Meditron3", "llama qwen"),
        ("DAMO-NLP-SG/VideoLLaMA2-7B", "llama"),
        ("WizardLM-13B-V1.2", "llama"),
        ("microsoft/WizardLM-2-8x22B", "mistral"),
        ("HuggingFaceH4/zephyr-7b-beta", "mistral"),
        ("zephyr-7b-gemma-v0.1", "gemini"),
        ("stablelm-2-zephyr-1_6b", ""),
        ("tulu3:8b", "llama"),
        ("allenai/tulu-2-dpo-70b", "llama"),
        ("OLMo-7B-tulu-2", "olmo"),
        ("tulu", ""),
        ("sonnet-3.7", "claude"),
        ("opus", "claude"),
        ("haiku@2024", "claude"),
        ("davinci-002", "gpt"),
        ("text-davinci-003", "gpt"),
        ("gpt4all-j", ""),
        ("Helsinki-NLP/opus-mt-en-de", ""),
        ("ollama", ""),
        ("hub/ollama-llama3", "llama"),
        # Programs and gateways are no models, and words in words are no names.
        ("ollama/something", ""),
        ("llama.cpp", ""),
        ("llama-cpp/own-model", ""),
        ("llamafile", ""),
        ("LLaMA-Factory/out", ""),
        ("groq/own-model", ""),
        ("gpt2", ""),
        ("distilgpt2", ""),
        ("EleutherAI/gpt-neo-2.7B", ""),
        ("microsoft/biogpt", ""),
        ("FreedomIntelligence/HuatuoGPT-o1-8B", ""),
        ("phi-deidentifier", ""),
        ("commander", ""),
        ("my-model@0123456789abcdef", ""),
        ("extractive-4", ""),
        ("handbook", ""),
        ("nano-base@1", ""),
        ("", ""),
    ],
)
def test_the_family_is_told_from_the_name(name, families):
    assert family(name) == set(families.split())


def test_a_stated_family_stands_instead_of_the_name():
    assert family("llama-gateway", "claude") == {"claude"}
    assert family("x", "Gemma") == family("medgemma") == {"gemini"}
    assert family("x", "llama, DeepSeek") == {"llama", "deepseek"}
    assert family("x", " In-house ") == {"in-house"}
    assert family("gpt-4o", "  ") == {"gpt"}


def kin(name, stated=""):
    return Kin(name, family(name, stated))


def test_kin_are_of_one_family_or_one_name():
    others = [kin("llama3.1:8b"), kin("claude-3"), kin("own@2"), kin("hub/own"), kin("another")]
    assert related(kin("meta/Llama-2"), others) == [others[0]]
    assert related(kin("Own@1+adapter"), others) == [others[2], others[3]]
    assert related(kin("deepseek-r1-distill-llama"), others) == [others[0]]
    assert related(kin("mistral"), others) == [], "two unknown families are not one"


REFUSE = Judge(model="big")
ALLOW = Judge(model="big", related="allow")


def test_a_judge_of_the_writers_family_is_refused_unless_allowed():
    writers = [kin("Llama-3.1-70B"), kin("claude-3")]
    judge = kin("llama3.3:70b@x")
    with pytest.raises(UsageError) as refused:
        check("panel", REFUSE, judge, writers, [])
    for part in (
        "'panel'",
        "llama3.3:70b@x",
        "Llama-3.1-70B",
        "scores.judges.panel.related: allow",
    ):
        assert part in str(refused.value)
    assert "claude" not in str(refused.value)
    (warning,) = check("panel", ALLOW, judge, writers, [])
    assert "Llama-3.1-70B (llama), which wrote the questions" in warning
    assert check("panel", REFUSE, kin("mistral-large"), writers, []) == []


def test_a_judge_that_wrote_the_questions_itself_is_refused_whatever_it_is():
    with pytest.raises(UsageError, match="related to own@2"):
        check("panel", REFUSE, kin("own@1"), [kin("own@2")], [])


def test_a_judge_among_the_contestants_family_is_warned_of():
    contestants = [kin("Llama-3.1-8B+tuned"), kin("Llama-3.1-8B"), kin("qwen3")]
    (warning,) = check("panel", REFUSE, kin("llama-4"), [], contestants)
    assert "Llama-3.1-8B (llama) and Llama-3.1-8B+tuned (llama), whose answers it" in warning
    assert "qwen" not in warning
    assert warning.count(". ") == 0, "one sentence"


def test_a_judge_that_is_a_contestant_grades_its_own_answers():
    contestants = [kin("hub/llama-4"), kin("llama-3"), kin("qwen3")]
    own, other = check("panel", REFUSE, kin("llama-4@x"), [], contestants)
    assert own == (
        "Judge 'panel' (llama-4@x) grades its own answers, those of hub/llama-4 (llama): it may "
        "favour them."
    )
    assert "related to llama-3 (llama), whose answers it" in other


def test_judges_that_are_one_model_are_no_panel_and_each_pair_is_told_once():
    panel = {"a": kin("llama-4"), "b": kin("llama-3"), "c": kin("hub/Llama-4@2")}
    assert check_panel("a", panel) == check_panel("b", panel) == []
    assert check_panel("c", panel) == [
        "Judges 'a' and 'c' are the same model (hub/Llama-4@2): their agreement says nothing."
    ]


def test_a_model_of_key_facts_among_its_own_is_warned_of_and_not_refused():
    others = [kin("llama3.1:8b"), kin("Llama-4"), kin("qwen3")]
    (warning,) = check_facts(kin("meta-llama/Llama-2"), others[:2], [])
    assert "Llama-4 (llama) and llama3.1:8b (llama), which wrote the questions" in warning
    (warning,) = check_facts(kin("qwen2.5"), others[:2], others)
    assert "qwen3 (qwen), whose answers it looks through" in warning
    assert len(check_facts(kin("own@1"), [kin("own@2")], [kin("own@3")])) == 2
    assert check_facts(kin("own"), others, others) == []


def test_a_family_that_is_not_known_is_said():
    (warning,) = check("panel", REFUSE, kin("own-model"), [kin("gpt-4o")], [kin("gpt-4o")])
    assert "own-model" in warning
    assert warning.count("gpt-4o") == 1
    assert "models.big" in warning
    (warning,) = check("panel", REFUSE, kin("gpt-4o"), [kin("own-writer")], [])
    assert "own-writer" in warning
    assert check("panel", REFUSE, kin("x", "house"), [kin("y", "other")], []) == []
    nano, extractive = kin("base"), kin("extracts")
    assert check("panel", REFUSE, kin("own-model"), [], [nano, extractive]) == []
    (warning,) = check("panel", REFUSE, kin("own-model"), [], [nano, kin("qwen3")])
    assert "related to qwen3 (qwen); name it" in warning


def test_a_study_warns_of_a_model_of_key_facts_among_its_own():
    model = {"kind": "api", "base_url": "http://localhost:1/v1"}
    study = Study.model_validate(
        {
            "title": "t",
            "questions": {"writer": "llm", "model": "w"},
            "models": {
                "w": model | {"model": "llama-3"},
                "q": model | {"model": "qwen3"},
                "f": model | {"model": "llama-4"},
            },
            "arms": {"a": {"model": "q"}},
            "scores": {"facts": {"model": "f"}, "judges": {"j": {"model": "w"}}},
        }
    )
    (warning,) = pipeline.kinship(study, pipeline.FACTS)
    assert "(llama-4) is related to llama-3 (llama), which wrote the questions" in warning
    pipeline.check_scores(study, {"facts", "judgements/facts"})
    with pytest.raises(UsageError, match="Judge 'j'"):
        pipeline.check_scores(study, {"facts", "judgements/j"})


def test_a_study_warns_of_two_judges_that_are_one_model():
    model = {"kind": "api", "base_url": "http://localhost:1/v1", "model": "llama-3"}
    study = Study.model_validate(
        {
            "title": "t",
            "models": {"m": model, "n": model | {"revision": "2"}, "q": model | {"model": "qwen3"}},
            "arms": {"a": {"model": "q"}},
            "scores": {"judges": {"one": {"model": "m"}, "two": {"model": "n"}}},
        }
    )
    assert pipeline.kinship(study, "one") == []
    (warning,) = pipeline.kinship(study, "two")
    assert "'one' and 'two' are the same model" in warning
