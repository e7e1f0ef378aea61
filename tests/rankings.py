"""Rankings drawn from a judge whose strengths and biases are known."""

import numpy as np

from ecg_llm.contracts import Block


def drawn(
    seed,
    questions=40,
    documents=40,
    arms=5,
    size=4,
    orders=5,
    strengths=None,
    slot=0.0,
    length=0.0,
    spread=0.0,
    by_document=0.0,
    ties=0.0,
    judge="judge",
):
    """Blocks and question_id -> document; documents differ in their number of questions.

    The utility of an answer is its arm's strength, normal deviations of the answer and of the arm
    in the document, slot x place + length x log2(words), and Gumbel noise; `ties` is the grid that
    utilities are rounded to.
    """
    rng = np.random.default_rng(seed)
    strengths = np.linspace(-1, 1, arms) if strengths is None else np.asarray(strengths)
    document = rng.choice(documents, questions, p=rng.dirichlet(np.full(documents, 2.0)))
    document[:documents] = np.arange(documents)[:questions]
    of_document = rng.normal(size=(documents, arms)) * by_document
    blocks = []
    for q in range(questions):
        quality = strengths + of_document[document[q]] + rng.normal(size=arms) * spread
        words = np.maximum(np.exp(rng.normal(4, 0.5, arms)), 1).astype(int)
        size = min(size, arms)
        rounds = -(-orders * arms // size)
        cycle = np.concatenate([rng.permutation(arms) for _ in range(-(-rounds * size // arms))])
        for start in range(0, rounds * size, size):
            shown = cycle[start : start + size]
            if len(set(shown)) < size:
                shown = rng.choice(arms, size, replace=False)
            shown = rng.permutation(shown)
            utility = quality[shown] + slot * np.arange(size) + length * np.log2(words[shown])
            utility += rng.gumbel(size=size)
            if ties:
                utility = np.round(utility / ties)
            blocks.append(
                Block(
                    f"q{q:04}",
                    judge,
                    tuple(f"arm{arm:02}" for arm in shown),
                    tuple(int(1 + (utility > mine).sum()) for mine in utility),
                    tuple(int(count) for count in words[shown]),
                )
            )
    return blocks, {f"q{q:04}": f"doc{document[q]:03}" for q in range(questions)}
