"""Fine-tuning with TRL and PEFT, and continued pretraining: killed jobs go on where they were."""

import importlib.util
import random
import shutil
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from ecg_llm import local, store
from ecg_llm.config import Adapter
from ecg_llm.contracts import MissingPackage, Progress, UsageError
from ecg_llm.records import Question, Training, digest
from ecg_llm.train import template

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import (
        PreTrainedModel,
        PreTrainedTokenizerBase,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

ROWS = "training.jsonl"
RECORD = "tuning.json"
JOB = "job.json"
COMPLETE = "complete"
"""Marks a checkpoint that was written to its end."""
SECONDS_BETWEEN_CHECKPOINTS = 20.0
PACKAGES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
