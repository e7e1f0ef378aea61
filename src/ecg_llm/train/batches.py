"""Which examples make a step, how a step is cut into micro-batches, and the loss on replies."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypedDict

from ecg_llm import local

if TYPE_CHECKING:
    import torch

SEARCHED = 4096
"""Examples times micro-batches of a step up to which the best cut is searched for."""
IGNORED = -100
"""Label of a token that carries no loss."""


class Item(TypedDict):
    """The tokens of an example, and its labels: the same tokens, IGNORED where there is no loss."""

    input_ids: list[int]
    labels: list[int]


def steps(examples: int, batch: int, epochs: float, seed: int) -> list[list[int]]:
    """Return the examples of every optimizer step, by place.

    Each epoch is a new random order, and steps run over its end. They are as few as can be with at
    most `batch` examples each, and of equal size but for one example: the last is no remainder.
    """
    total = max(1, round(examples * epochs))
    order: list[int] = []
    random_state = random.Random(seed)
    while len(order) < total:
        order += random_state.sample(range(examples), examples)
    count = -(-total // batch)
    ends = [total * (i + 1) // count for i in range(count)]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def micro_batches(
    step: Sequence[int], lengths: Sequence[int], count: int, *, packed: bool
) -> list[list[int]]:
    """Return the examples of a step in `count` micro-batches; some may be empty.

    Padded ones hold neighbours in length and are cut where least is padded; packed ones hold about
    the same number of tokens. The gradient of the step is the same whatever the cut, since the
    loss is divided by the tokens of the whole step.
    """
    order = sorted(step, key=lambda place: (-lengths[place], place))
    if not packed:
        ends = _least_padded([lengths[place] for place in order], count)
        return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]
    rows: list[list[int]] = [[] for _ in range(count)]
    tokens = [0] * count
    for place in order:
        least = tokens.index(min(tokens))
        rows[least].append(place)
        tokens[least] += lengths[place]
    return rows


def _least_padded(lengths: Sequence[int], count: int) -> list[int]:
    """Return where to end `count` runs of falling lengths so that least is padded.

    No run takes more memory than the first of equal ones would: that is what was planned for. For
    very many examples the runs are equal, since the search would take longer than it saves.
    """
    examples = len(lengths)
    equal = [examples * (i + 1) // count for i in range(count)]
    if count >= examples or examples * count > SEARCHED:
        return equal
    largest = -(-examples // count) * lengths[0]
    # best[n]: the fewest tokens in which the first n examples fit, in as many runs as so far.
    best: list[float] = [0.0, *[float("inf")] * examples]
    starts: list[list[int]] = []
    for _ in range(count):
        found = [float("inf")] * (examples + 1)
        start_of = [0] * (examples + 1)
        for end in range(1, examples + 1):
            for start in range(end):
                tokens = (end - start) * lengths[start]
                if tokens <= largest and best[start] + tokens < found[end]:
                    found[end], start_of[end] = best[start] + tokens, start
        best = found
        starts.append(start_of)
    ends = [examples]
    for start_of in reversed(starts[1:]):
        ends.append(start_of[ends[-1]])
    return ends[::-1]


@dataclass(frozen=True)
class Collator:
    """Examples to the inputs of a causal model, with labels moved to the logits they belong to.

    Packed examples stand in one row of shape (1, tokens), each with positions from 0, which is
    what keeps attention inside an example. Padded ones are aligned at their ends, shape (examples,
    longest). If the model takes `logits_to_keep`, logits are computed only where there is loss: on
    vocabularies of 100,000 and more they are the largest tensors of a training step.
    """

    pad: int
    packed: bool
    keeps_logits: bool

    def __call__(self, items: Sequence[Item]) -> dict[str, Any]:
        """Return input_ids, position_ids, labels, and attention_mask where there is padding.

        An item without a token to learn gives a batch whose loss is zero.
        """
        return self._in_one_row(items) if self.packed else self._side_by_side(items)

    def _in_one_row(self, items: Sequence[Item]) -> dict[str, Any]:
        import torch

        ids = [token for item in items for token in item["input_ids"]]
        positions = [place for item in items for place in range(len(item["input_ids"]))]
        following = [label for item in items for label in (*item["labels"][1:], IGNORED)]
        made = {
            "input_ids": torch.tensor([ids]),
            "position_ids": torch.tensor([positions]),
            # With a cache, which most configurations ask for, transformers ignores new starts.
            "use_cache": False,
        }
        if not self.keeps_logits:
            return {**made, "labels": torch.tensor([following])}
        kept = [i for i, label in enumerate(following) if label != IGNORED] or [0]
        labels = torch.tensor([[following[i] for i in kept]])
        return {**made, "logits_to_keep": torch.tensor(kept), "labels": labels}

    def _side_by_side(self, items: Sequence[Item]) -> dict[str, Any]:
        import torch

        width = max(len(item["input_ids"]) for item in items)
        shape = (len(items), width)
        ids = torch.full(shape, self.pad)
        mask = torch.zeros(shape, dtype=torch.long)
        positions = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for row, item in enumerate(items):
            length = len(item["input_ids"])
            ids[row, width - length :] = torch.tensor(item["input_ids"])
            mask[row, width - length :] = 1
            positions[row, width - length :] = torch.arange(length)
            labels[row, width - length : width - 1] = torch.tensor(item["labels"][1:])
        made = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        if not self.keeps_logits:
            return {**made, "labels": labels}
        lost = (labels != IGNORED).any(0).nonzero()
        kept = width - int(lost[0]) if len(lost) else 1
        return {**made, "logits_to_keep": kept, "labels": labels[:, -kept:]}


def loss(
    outputs: Any, labels: "torch.Tensor", num_items_in_batch: "torch.Tensor | int | None" = None
) -> "torch.Tensor":
    """Return the cross-entropy of a collated micro-batch, in nats.

    Summed over its tokens and divided by `num_items_in_batch`, the tokens with loss of the whole
    step, as transformers' Trainer gives it; without it, by the tokens of this batch.
    """
    import torch

    logits = outputs["logits"].float().flatten(0, 1)
    total = torch.nn.functional.cross_entropy(
        logits, labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )
    count = num_items_in_batch if num_items_in_batch is not None else (labels != IGNORED).sum()
    return total / count


def keeps_apart(model: Any, items: Sequence[Item]) -> bool:
    """Return whether this model reads packed examples as it reads each alone.

    An architecture that ignores where positions start anew would let examples see each other, and
    nothing would tell. So two of the shortest examples are packed, then the second behind another
    first one of the same length: what the model makes of the second may not change. It also has to
    be near what the model makes of it alone; only near, since other shapes round otherwise and a
    deep model in 4 bit passes that on.
    """
    import torch

    if not local.may_pack(model):
        return False
    first, second = sorted(items, key=lambda item: len(item["input_ids"]))[:2]
    other = Item(
        input_ids=[(token + 1) % model.config.vocab_size for token in first["input_ids"]],
        labels=first["labels"],
    )
    start = len(first["input_ids"])

    def behind(before: Item) -> "torch.Tensor":
        packed = Collator(0, packed=True, keeps_logits=False)([before, second])
        ids, positions = (packed[k].to(model.device) for k in ("input_ids", "position_ids"))
        made = model(ids, position_ids=positions, use_cache=packed["use_cache"])["logits"]
        return made[0, start:].float()

    def off(found: "torch.Tensor", wanted: "torch.Tensor") -> float:
        # Root mean squares: the largest of a million rounding errors says nothing.
        spread = (wanted - wanted.mean()).square().mean().sqrt()
        return float((found - wanted).square().mean().sqrt() / spread)

    was_training = model.training
    model.eval()
    with torch.no_grad():
        packed, elsewhere = behind(first), behind(other)
        ids = torch.tensor([second["input_ids"]], device=model.device)
        alone = model(ids)["logits"][0].float()
    model.train(was_training)
    return off(elsewhere, packed) < 0.001 and off(packed, alone) < 0.3
