"""A judge whose biases are known: it ranks by Plackett-Luce with a slot and a length effect."""

import json
import math
import random
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

SHOWN = re.compile(r"^Answer (\d+):\n(=== \w{12} ===)\n(.*?)\n\2$", re.DOTALL | re.MULTILINE)
"""An answer in the prompt of a ranking: its number, its fence, its text."""


def judge_reply(
    quality: Mapping[str, float], slot: float = 0, length: float = 0
) -> Callable[[Sequence[Mapping[str, str]], Any], str]:
    """Return the reply function of a FakeServer that ranks answers with planted biases.

    An answer's utility is its quality, `slot` for each slot further down, `length` for each
    doubling of its words, and Gumbel noise drawn from the prompt: the order is Plackett-Luce's.

    Args:
        quality: Text of each answer, without citation keys -> log-odds.
        slot: Log-odds of being placed first, a slot further down.
        length: Log-odds of being placed first, for twice the words.
    """

    def reply(messages: Sequence[Mapping[str, str]], body: Any) -> str:
        prompt = messages[0]["content"]
        noise = random.Random(prompt)
        utility = {
            number: quality[text]
            + slot * int(number)
            + length * math.log2(len(text.split()))
            - math.log(noise.expovariate(1))
            for number, _, text in SHOWN.findall(prompt)
        }
        best_first = sorted(utility, key=lambda number: -utility[number])
        return json.dumps({"reason": "As planted.", "ranking": " > ".join(best_first)})

    return reply
