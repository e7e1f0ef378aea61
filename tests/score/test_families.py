import pytest

from ecg_llm.config import Judge
from ecg_llm.contracts import UsageError
from ecg_llm.score.families import Kin, check, family, related


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
