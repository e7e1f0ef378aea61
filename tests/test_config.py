import pytest

from ecg_llm import config
from ecg_llm.contracts import UsageError

ARMS = {"models": {"m": {"kind": "extractive"}}, "arms": {arm: {"model": "m"} for arm in "abc"}}


@pytest.mark.parametrize(
    ("pairs", "problem"),
    [
        ([["a", "a"]], "compares a with itself"),
        ([["a", "b"], ["c", "a"], ["a", "b"]], "has a and b twice"),
        ([["a", "b"], ["b", "a"]], "has b and a twice"),
    ],
)
def test_a_pair_is_declared_once(pairs: list[list[str]], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        config.parse({**ARMS, "estimates": {"comparisons": pairs}})


def test_an_arm_may_be_compared_with_several() -> None:
    study = config.parse({**ARMS, "estimates": {"comparisons": [["a", "b"], ["c", "a"]]}})
    assert study.estimates.comparisons == (("a", "b"), ("c", "a"))
