"""transformers' Trainer, fed with whole steps and watched on the val split."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import Trainer, TrainerCallback

from ecg_llm import local, store
from ecg_llm.contracts import Progress, Remark, StepError
from ecg_llm.train import batches, parallel
from ecg_llm.train.batches import IGNORED, Collator, Item

BEST = "best-{}.safetensors"
"""File beside the checkpoints: the trained weights of the step with the best look so far."""
NUMBERS = {"loss": "loss", "grad_norm": "gradient", "eval_loss": "loss on val"}
"""What is logged and must be a number, in words."""
COMPLETE = "complete"
"""Marks a checkpoint that was written to its end."""
CLOCK = "clock.json"
"""Seconds and tokens up to the last checkpoint: what a job took counts over its restarts."""
SECONDS_BETWEEN_CHECKPOINTS = 20.0
SAVING = 1 / 30
"""Share of the time, at most, that goes into checkpoints which only the clock asks for."""
Look = Callable[[Any], dict[str, float]]
"""Measures the model in training on the val split: eval_loss, and eval_choice where it is asked."""


class Watching(NamedTuple):
    """How a training job is watched."""

    look: Look | None = None
    eval_steps: int = 0
    keep: str = "last"
    """loss, choice or last."""
    patience: int = 0
    save_steps: int = 10**9
    save_last: bool = False
    progress: Progress = lambda done, total: None
    remark: Remark = lambda words: None


class StepTrainer(Trainer):  # type: ignore[misc]  # transformers is untyped here
    """A Trainer whose steps hold the examples they are given, whatever the micro-batches."""

    feed: "Feed"
    watching: Watching
    control: Any

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        # The collator has moved the labels to their logits; the Trainer, which counts the tokens
        # with loss in a step, would leave out the first of each row.
        self._loss_shifts_labels = False

    def get_train_dataloader(self) -> "DataLoader[Item]":
        """Return the micro-batches of this process, step by step."""
        rank, world = self.args.process_index, self.args.world_size
        return DataLoader(
            _Items(self.feed.items),
            batch_sampler=_Places(self.feed.cut(rank, world)),
            collate_fn=self.feed.collator,
            pin_memory=self.args.dataloader_pin_memory,
        )

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Look at the val split, keep the weights if they are the best, stop if patience ends."""
        look = self.watching.look
        if look is None:
            return {}
        self.model.eval()
        with torch.no_grad():
            own = look(self.model)
        self.model.train()
        found = parallel.first(lambda: own)
        self.log(dict(found))
        value = found.get(f"eval_{self.watching.keep}")
        if value is not None and math.isfinite(value):
            sign = -1 if self.watching.keep == "loss" else 1
            best = self.state.best_metric
            if best is None or sign * value > sign * best:
                self.state.best_metric = value
                self.state.best_global_step = self.state.global_step
                self._keep_weights()
            looks = sum(
                "eval_loss" in entry and entry["step"] > self.state.best_global_step
                for entry in self.state.log_history
            )
            if self.watching.patience and looks >= self.watching.patience:
                self.control.should_training_stop = True
                self.control.should_save = False  # training would go on from such a checkpoint
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights as one file, sharded or not."""
        if not parallel.sharded():
            super().save_model(output_dir, _internal_call)
            return
        weights = parallel.trained(self.model)
        self._save(output_dir, state_dict=weights)

    def _keep_weights(self) -> None:
        """Save the weights of this step in the place of those kept so far."""
        weights = parallel.trained(self.model)
        if self.args.should_save:
            file = Path(self.args.output_dir) / BEST.format(self.state.global_step)
            made = file.with_suffix(".new")
            save_file(weights, made)
            made.replace(file)


class Feed(NamedTuple):
    """The examples of a job, the steps they make, and how a step is cut."""

    items: Sequence[Item]
    steps: Sequence[Sequence[int]]
    micro_batches: int
    """Of a step and process."""
    collator: Collator

    def cut(self, rank: int, world: int) -> list[list[int]]:
        """Return the micro-batches of one process, the same number a step for each.

        Where a step has fewer examples than there are micro-batches, the place of an example is
        given as ~place: its tokens are computed and carry no loss.
        """
        lengths = [len(item["input_ids"]) for item in self.items]
        found = []
        for step in self.steps:
            made = batches.micro_batches(
                step, lengths, self.micro_batches * world, packed=self.collator.packed
            )
            shortest = min(step, key=lambda place: lengths[place])
            found += [part or [~shortest] for part in made[rank::world]]
        return found


class _Items(Dataset[Item]):  # type: ignore[misc]  # torch is untyped here
    def __init__(self, items: Sequence[Item]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Item:
        if place >= 0:
            return self.items[place]
        ids = self.items[~place]["input_ids"]
        return {"input_ids": ids, "labels": [IGNORED] * len(ids)}


class _Places(Sampler[list[int]]):  # type: ignore[misc]  # torch is untyped here
    def __init__(self, places: Sequence[list[int]]) -> None:
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.places)


class Watch(TrainerCallback):  # type: ignore[misc]  # transformers is untyped here
    """Tells how far a job is, asks for looks and checkpoints, and stops at a loss that is none.

    A checkpoint is due every `save_steps` steps or 20 seconds, but only where a step has just been
    logged: so that the losses logged after a restart are the same.
    """

    def __init__(self, watching: Watching, name: str) -> None:
        self.watching = watching
        self.name = name
        self.saved_at = time.monotonic()
        self.saved_step = 0
        self.seconds = 0.0
        """Spent in steps, looks and checkpoints left out."""
        self.tokens = 0
        self.memory = 0
        """Most bytes held when a step was logged."""
        self._saving = 0.0
        self._due_at = 0.0
        self._begun = 0.0
        self._tokens_before = 0
        self._counted = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note where this process takes up the job."""
        self.saved_step = state.global_step
        clock = store.read_json(Path(args.output_dir) / CLOCK) or {}
        if clock.get("step") == state.global_step:  # else it would count steps twice
            self.seconds, self._counted = float(str(clock["seconds"])), int(str(clock["tokens"]))
        self._tokens_before = int(state.num_input_tokens_seen)
        self.watching.progress(state.global_step, state.max_steps)

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Start the clock."""
        self._begun = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop the clock and say what is due."""
        self.seconds += time.perf_counter() - self._begun
        self.tokens = self._counted + int(state.num_input_tokens_seen) - self._tokens_before
        self.watching.progress(state.global_step, state.max_steps)
        at_end = state.global_step >= state.max_steps
        due = (
            state.global_step - self.saved_step >= self.watching.save_steps
            or time.monotonic() - self.saved_at
            > max(SECONDS_BETWEEN_CHECKPOINTS, self._saving / SAVING)
        )
        logged = state.global_step % args.logging_steps == 0
        if logged and not at_end:
            due = parallel.first(lambda: due)  # clocks differ
        control.should_save = (self.watching.save_last and at_end) or (
            due and logged and not at_end
        )
        self._due_at = time.monotonic()
        control.should_log |= at_end
        if self.watching.look is not None:
            control.should_evaluate |= at_end or state.global_step % self.watching.eval_steps == 0

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Show speed, loss and memory; refuse a loss that is no number."""
        found = logs or {}
        for what, words in NUMBERS.items():
            if not math.isfinite(found.get(what, 0.0)):
                raise StepError(
                    f"{self.name}: the {words} is no number any more at step "
                    f"{state.global_step}; lower learning_rate or max_grad_norm, or raise warmup; "
                    f"the checkpoints before it are kept."
                )
        if "loss" not in found:
            return
        self.memory = max(self.memory, local.memory_used())
        speed = self.tokens / self.seconds if self.seconds else 0.0
        self.watching.remark(
            f"{speed:,.0f} tokens/s, loss {found['loss']:.3f}, {self.memory / 2**30:.1f} GiB"
        )

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint as whole, once every process has written its part."""
        parallel.wait()
        if state.is_world_process_zero:
            folder = Path(args.output_dir)
            (folder / f"checkpoint-{state.global_step}" / COMPLETE).touch()
            clock = {"step": state.global_step, "seconds": self.seconds, "tokens": self.tokens}
            store.write_json(folder / CLOCK, clock)
            for file in folder.glob(BEST.format("*")):
                # Until now a restart could have come back to the state that this one belongs to.
                if file.name != BEST.format(state.best_global_step):
                    file.unlink()
        self.saved_at = time.monotonic()
        self._saving = self.saved_at - self._due_at
        self.saved_step = state.global_step
