import pytest

from ecg_llm import config
from ecg_llm.contracts import UsageError

BASE = {
    "models": {
        "llama": {"kind": "local", "id": "x", "quantization": "nf4"},
        "nano": {"kind": "nano"},
    },
    "adapters": {"tuned": {"model": "llama", "preset": "recommended"}},
}


def study(**more: object) -> config.Study:
    return config.parse({**BASE, **more})


def test_what_stands_beside_a_preset_goes_first() -> None:
    settings = study(
        adapters={"tuned": {"model": "llama", "preset": "paper", "rank": 8, "mix": {"choice": 0.1}}}
    ).adapters["tuned"]
    assert (settings.rank, settings.alpha, settings.method) == (8, 128, "qlora")
    assert "lm_head" in settings.targets
    mix = (
        study(adapters={"t": {"model": "llama", "preset": "recommended", "mix": {"joined": 0.5}}})
        .adapters["t"]
        .mix
    )
    assert (mix.passages, mix.joined) == (0.3, 0.5)


def test_a_sweep_is_the_papers_grid_in_five_lines() -> None:
    lines = [{"rank": 64, "alpha": 16}, {"rank": 256, "alpha": [128, 256, 512]}]
    found = study(sweeps={"grid": {"adapter": "tuned", "settings": lines}})
    assert sorted(found.swept) == [
        "tuned-rank256-alpha128",
        "tuned-rank256-alpha256",
        "tuned-rank256-alpha512",
        "tuned-rank64-alpha16",
    ]
    one = found.trained["tuned-rank256-alpha512"]
    assert (one.rank, one.alpha, one.learning_rate) == (256, 512, 1e-4)
    assert list(found.adapters) == ["tuned"]


def test_a_sweep_varies_a_setting_of_a_section_and_lists_of_layers() -> None:
    adapter = {"model": "llama", "preset": "recommended", "mix": {"passages": 0.6}}
    lines = [{"mix.choice": [0.1, 0.5]}, {"targets": ["q_proj", "v_proj"]}]
    found = study(
        adapters={"tuned": adapter}, sweeps={"s": {"adapter": "tuned", "settings": lines}}
    ).trained
    assert (found["tuned-choice0.1"].mix.choice, found["tuned-choice0.1"].mix.passages) == (
        0.1,
        0.6,
    )
    assert found["tuned-targetsq_proj_v_proj"].targets == ("q_proj", "v_proj")


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"sweeps": {"s": {"adapter": "tund", "settings": [{"rank": 1}]}}}, "did you mean"),
        (
            {"sweeps": {"s": {"adapter": "tuned", "settings": [{"rnk": 1}]}}},
            "sweeps.s: unknown key rnk",
        ),
        ({"sweeps": {"s": {"adapter": "tuned", "settings": [{"rank": 0}]}}}, "sweeps.s: rank"),
        (
            {"sweeps": {"s": {"adapter": "tuned", "settings": [{"preset": "paper"}]}}},
            "preset cannot",
        ),
        ({"sweeps": {"s": {"adapter": "tuned", "settings": [{}]}}}, "needs a setting"),
        ({"sweeps": {"s": {"adapter": "tuned", "settings": [{"rank": []}]}}}, "needs a setting"),
        ({"sweeps": {"s": {"adapter": "tuned", "settings": [{"rank.x": 3}]}}}, "no section"),
        (
            {
                "sweeps": {
                    "s": {"adapter": "tuned", "settings": [{"epochs": 1}, {"pretrain.epochs": 1}]}
                }
            },
            "two variants would be named tuned-epochs1",
        ),
        (
            {
                "sweeps": {"s": {"adapter": "tuned", "settings": [{"rank": 8}]}},
                "adapters": {**BASE["adapters"], "tuned-rank8": {"model": "nano"}},
            },
            "another adapter named tuned-rank8",
        ),
        ({"adapters": {"tuned": {"model": "llama", "method": "lora"}}}, "make the two agree"),
        ({"adapters": {"..": {"model": "nano"}}}, "begin with a letter"),
        ({"adapters": {"tuned.partial": {"model": "nano"}}}, "do not end with .partial"),
        ({"adapters": {"nano": {"model": "nano"}}}, "a model has this name"),
        ({"adapters": {"tuned": {"model": "nano", "targets": []}}}, "targets"),
        ({"adapters": {"tuned": {"model": "nano", "epochs": float("inf")}}}, "epochs"),
        ({"seed": -1}, "seed"),
        ({"adapters": {"tuned": {"model": "llama", "preset": "papr"}}}, "adapters.tuned.preset"),
    ],
)
def test_what_cannot_be_meant_is_a_sentence(wrong: dict[str, object], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        study(**wrong)


def test_an_arm_may_use_a_variant_of_a_sweep() -> None:
    sweeps = {"s": {"adapter": "tuned", "settings": [{"rank": 8}]}}
    arms = {"small": {"model": "llama", "adapter": "tuned-rank8"}}
    assert study(sweeps=sweeps, arms=arms).arms["small"].adapter == "tuned-rank8"


@pytest.mark.parametrize("preset", ["nano", "small-gpu", "recommended", "paper", "demo"])
def test_every_preset_of_a_study_is_valid(preset: str) -> None:
    import yaml

    from ecg_llm.commands.init import preset_text

    made = config.parse(yaml.safe_load(preset_text(preset)), preset)
    assert made.adapters
