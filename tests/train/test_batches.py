import random
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import tiny_study as here
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, MambaForCausalLM

from ecg_llm.train import batches, template
from ecg_llm.train.batches import IGNORED, Collator, Item
from ecg_llm.train.trainer import Feed

QUESTIONS = [here.choice(1), here.open_question(2), here.open_question(3, "Yes."), here.choice(4)]


@pytest.fixture(scope="module")
def tokenizer(tiny: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny)


@pytest.fixture(scope="module")
def items(tokenizer: Any) -> list[Item]:
    masked = [template.loss_mask(tokenizer, template.example(row)) for row in QUESTIONS]
    return [{"input_ids": one.ids, "labels": one.labels} for one in masked]


@pytest.fixture
def model(tiny: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)


def gradients(model: Any, collator: Collator, cut: list[list[Item]]) -> torch.Tensor:
    """Return the gradient of a step that is cut into these micro-batches."""
    model.zero_grad()
    made = [collator(part) for part in cut]
    count = sum(int((batch["labels"] != IGNORED).sum()) for batch in made)
    for batch in made:
        labels = batch.pop("labels")
        batches.loss(model(**batch), labels, count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def reference(model: Any, items: list[Item]) -> torch.Tensor:
    """Return the gradient as the model's own loss gives it, one example at a time, unpadded."""
    model.zero_grad()
    count = sum(label != IGNORED for item in items for label in item["labels"])
    for item in items:
        own = sum(label != IGNORED for label in item["labels"])
        ids, labels = torch.tensor([item["input_ids"]]), torch.tensor([item["labels"]])
        (model(input_ids=ids, labels=labels).loss * own / count).backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("keeps_logits", [True, False])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_every_cut_gives_the_gradient_of_examples_alone(
    model: Any, items: list[Item], packed: bool, keeps_logits: bool, parts: int
) -> None:
    lengths = [len(item["input_ids"]) for item in items]
    cut = batches.micro_batches(range(4), lengths, parts, packed=packed)
    collator = Collator(0, packed, keeps_logits)
    found = gradients(model, collator, [[items[i] for i in part] for part in cut])
    wanted = reference(model, items)
    assert (found - wanted).abs().max() < 1e-6 * (1 + wanted.abs().max())


def test_packed_examples_do_not_see_each_other(model: Any, items: list[Item]) -> None:
    collator = Collator(0, packed=True, keeps_logits=False)
    first, second = items[0], items[1]
    other: Item = {"input_ids": first["input_ids"][::-1], "labels": first["labels"]}
    seen = []
    for before in (first, other):
        batch = collator([before, second])
        batch.pop("labels")
        seen.append(model(**batch).logits[0, len(first["input_ids"]) :])
    assert torch.equal(*seen)
    assert batch["position_ids"][0].tolist() == [
        *range(len(first["input_ids"])),
        *range(len(second["input_ids"])),
    ]


def test_a_configuration_that_asks_for_a_cache_lets_no_packed_example_see_another(
    model: Any, items: list[Item]
) -> None:
    model.config.use_cache = True  # as in most published models; training stores False
    assert batches.keeps_apart(model, items)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("keeps_logits", [True, False])
def test_labels_are_the_reply_and_its_end_and_nothing_else(
    items: list[Item], tokenizer: Any, packed: bool, keeps_logits: bool
) -> None:
    batch = Collator(0, packed, keeps_logits)(items)
    labels = batch["labels"]
    learned = [
        [int(i) for i in row if i != IGNORED]
        for row in (labels.flatten()[None] if packed else labels)
    ]
    replies = [[i for i in item["labels"] if i != IGNORED] for item in items]
    assert learned == ([list(chain(*replies))] if packed else replies)
    assert tokenizer.decode(replies[2]) == "Yes.<|end_of_turn|>"


def test_logits_are_made_for_few_places_only(items: list[Item]) -> None:
    longest = max(sum(label != IGNORED for label in item["labels"]) for item in items)
    tokens = sum(sum(label != IGNORED for label in item["labels"]) for item in items)
    assert Collator(0, False, True)(items)["logits_to_keep"] == longest + 1
    assert len(Collator(0, True, True)(items)["logits_to_keep"]) == tokens


def test_steps_are_even_and_hold_every_example_as_often_as_epochs_say() -> None:
    steps = batches.steps(100, 16, 3, seed=1)
    assert {len(step) for step in steps} <= {15, 16}
    assert len(steps) == 19
    seen = [place for step in steps for place in step]
    assert all(seen.count(place) == 3 for place in range(100))
    assert sorted(seen[:100]) == list(range(100)), "an epoch ends before the next begins"
    assert steps == batches.steps(100, 16, 3, seed=1)
    assert steps != batches.steps(100, 16, 3, seed=2)
    assert [len(step) for step in batches.steps(5, 16, 0.5, seed=1)] == [2]
    assert [len(step) for step in batches.steps(1, 16, 0.1, seed=1)] == [1]


@pytest.mark.parametrize("packed", [True, False])
def test_a_cut_loses_nothing_and_is_shared_by_processes(packed: bool, items: list[Item]) -> None:
    step = [0, 1, 2, 3, 1]
    feed = Feed(items, [step, [2]], 2, Collator(0, packed, True))
    alone = feed.cut(0, 1)
    assert len(alone) == 4
    assert sorted(chain(*alone[:2])) == sorted(step)
    assert alone[2:] == [[~2], [2]] or alone[2:] == [[2], [~2]]
    both = [feed.cut(rank, 2) for rank in (0, 1)]
    assert [len(cut) for cut in both] == [4, 4]
    assert sorted(place for cut in both for part in cut[:2] for place in part) == sorted(step)


def test_padding_is_little_where_neighbours_in_length_stand_together() -> None:
    lengths = [10, 100, 11, 99, 12, 98, 13, 97]
    cut = batches.micro_batches(range(8), lengths, 2, packed=False)
    assert [sorted(part) for part in cut] == [[1, 3, 5, 7], [0, 2, 4, 6]]
    packed = batches.micro_batches(range(8), lengths, 2, packed=True)
    tokens = [sum(lengths[i] for i in part) for part in packed]
    assert max(tokens) - min(tokens) <= 5


def test_a_step_is_cut_where_least_is_padded_and_no_part_is_larger_than_planned() -> None:
    lengths = [150] * 3 + [60] * 9 + [30] * 4
    cut = batches.micro_batches(range(16), lengths, 4, packed=False)
    areas = [len(part) * max(lengths[i] for i in part) for part in cut]
    assert sum(areas) == sum(lengths), "nothing need be padded here"
    assert max(areas) <= 4 * 150
    chance = random.Random(1)
    for _ in range(50):
        some = [chance.randint(5, 200) for _ in range(chance.randint(1, 24))]
        parts = chance.randint(1, 6)
        made = [p for p in batches.micro_batches(range(len(some)), some, parts, packed=False) if p]
        assert sorted(chain(*made)) == list(range(len(some)))
        limit = -(-len(some) // parts) * max(some)
        assert max(len(part) * max(some[i] for i in part) for part in made) <= limit


def test_rounding_that_goes_with_the_shape_is_no_sight_of_another_example(
    model: Any, items: list[Item]
) -> None:
    def rounded(_: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        noise = torch.Generator().manual_seed(inputs[0].shape[1])
        size = 0.05 * logits[:, -1].std()
        return logits + size * torch.randn(logits.shape, generator=noise)

    hook = model.lm_head.register_forward_hook(rounded)
    try:
        assert batches.keeps_apart(model, items)
    finally:
        hook.remove()


def test_a_model_that_would_let_packed_examples_see_each_other_is_found(
    model: Any, items: list[Item]
) -> None:
    assert batches.keeps_apart(model, items)
    state_space = MambaForCausalLM(
        MambaConfig(vocab_size=400, hidden_size=32, num_hidden_layers=2, state_size=4)
    )
    assert not batches.keeps_apart(state_space, items)
