import contextlib
import itertools
import json
import weakref
from pathlib import Path
from typing import Any

import pytest
import tiny_study as here
import torch
from peft import LoraConfig, get_peft_model
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import (
    AutoModelForCausalLM,
    DeepseekV3Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPT2Config,
    GptOssConfig,
    LlamaConfig,
    MixtralConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from ecg_llm import local
from ecg_llm.config import Adapter
from ecg_llm.contracts import UsageError
from ecg_llm.train import batches, memory
from ecg_llm.train.memory import Shape

LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256,
    "max_position_embeddings": 131072, "architectures": ["LlamaForCausalLM"],
}  # fmt: skip
LLAMA_70B = LLAMA_8B | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80,
    "num_attention_heads": 64,
}  # fmt: skip
SMALL = {
    "vocab_size": 4000, "hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SMALL, tie_word_embeddings=False),
    "qwen": Qwen3Config(**SMALL, head_dim=32, tie_word_embeddings=True),
    "gemma": Gemma3TextConfig(**SMALL, head_dim=32),
    "gpt2": GPT2Config(
        vocab_size=4000,
        n_embd=128,
        n_layer=3,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        resid_pdrop=0,
        embd_pdrop=0,
        attn_pdrop=0,
    ),
    "gemma2": Gemma2Config(**SMALL, head_dim=32, attn_implementation="eager"),
    "mixtral": MixtralConfig(**SMALL, num_local_experts=4, num_experts_per_tok=2),
    "gpt-oss": GptOssConfig(
        **SMALL,
        head_dim=32,
        num_local_experts=4,
        num_experts_per_tok=2,
        attn_implementation="eager",
    ),
    "deepseek": DeepseekV3Config(
        **SMALL | {"num_key_value_heads": 4},
        n_routed_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        n_group=1,
        topk_group=1,
        q_lora_rank=8,
        kv_lora_rank=8,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=16,
        first_k_dense_replace=1,
    ),
}
GIB = 2**30


def shape_of(tmp_path: Path, settings: PreTrainedConfig) -> Shape:
    settings.save_pretrained(tmp_path)
    return memory.shape_of(str(tmp_path))


@pytest.fixture(scope="session")
def llama_8b(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    return shape_of(tmp_path_factory.mktemp("8b"), LlamaConfig(**LLAMA_8B))


@pytest.fixture(scope="session")
def llama_70b(tmp_path_factory: pytest.TempPathFactory) -> Shape:
    return shape_of(tmp_path_factory.mktemp("70b"), LlamaConfig(**LLAMA_70B))


def test_counts_the_parameters_of_known_models(llama_8b: Shape, llama_70b: Shape) -> None:
    assert llama_8b.parameters == 8_030_261_248
    assert llama_70b.parameters == pytest.approx(70.6e9, rel=1e-3)
    assert llama_8b.embeddings == llama_8b.output.size == 128256 * 4096
    assert len(llama_8b.linears) == 32 * 7
    assert not llama_8b.tied
    assert llama_8b.context == 131072


@pytest.mark.parametrize(("rank", "share"), [(64, 0.0215), (256, 0.081)])
def test_gives_the_share_that_the_paper_trained(rank: int, share: float, llama_8b: Shape) -> None:
    """2.15 % at rank 64 and 8.1 % at rank 256 of Llama 3.1 8B, with the output layer."""
    trained = memory.trained_parameters(llama_8b, Adapter(preset="paper", rank=rank))
    assert trained / (trained + llama_8b.parameters) == pytest.approx(share, abs=5e-4)


def test_weights_in_4_bit_take_what_they_take(llama_8b: Shape) -> None:
    found = memory.estimate(
        llama_8b, Adapter(preset="paper"), micro_batch=1, length=256, loss_tokens=32,
        checkpointing=True, cuda=True,
    )  # fmt: skip
    assert 5.5 < found["weights"] / GIB < 6


@pytest.mark.parametrize(
    ("family", "method"),
    [
        *itertools.product(["llama", "qwen", "gemma", "gpt2"], ["lora", "dora"]),
        *itertools.product(["mixtral", "gpt-oss", "deepseek"], ["lora"]),
    ],
)
def test_counts_what_peft_trains(family: str, method: str, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(CONFIGS[family])
    fan = {"fan_in_fan_out": True} if family == "gpt2" else {}
    adapter = LoraConfig(
        r=3, target_modules="all-linear", use_dora=method == "dora", task_type="CAUSAL_LM", **fan
    )
    shape = memory.shape_of_model(model)
    assert shape.parameters == model.num_parameters()
    assert shape.tied == bool(model.config.tie_word_embeddings)
    with local.quiet():
        tuned = get_peft_model(model, adapter)
    trained = memory.trained_parameters(shape, Adapter(method=method, rank=3))
    assert trained == tuned.num_parameters(only_trainable=True)


def test_an_image_encoder_gets_no_adapter() -> None:
    text = SMALL | {"head_dim": 32}
    sight = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
             "num_attention_heads": 2, "image_size": 28, "patch_size": 14}  # fmt: skip
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(text_config=text, vision_config=sight, mm_tokens_per_image=4)
    )
    shape = memory.shape_of_model(model)
    assert len(shape.linears) == 3 * 7, "the blocks of the text alone"
    adapter = LoraConfig(
        r=3, target_modules="all-linear", exclude_modules=local.beside_text(model),
        task_type="CAUSAL_LM",
    )  # fmt: skip
    with local.quiet():
        tuned = get_peft_model(model, adapter)
    trained = memory.trained_parameters(shape, Adapter(rank=3))
    assert trained == tuned.num_parameters(only_trainable=True)
    tuned(input_ids=torch.tensor([[5, 6, 7]]), labels=torch.tensor([[5, 6, 7]])).loss.backward()
    assert all(p.grad is not None for p in tuned.parameters() if p.requires_grad)


class Held(TorchDispatchMode):
    """Counts the bytes of all tensors alive, storage by storage, and their peak."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.sizes: dict[int, int] = {}

    def __torch_dispatch__(self, run: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = run(*args, **(kwargs or {}))
        for value in tree_leaves(made):
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                if (key := storage._cdata) not in self.sizes:
                    self.sizes[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.peak = max(self.peak, self.now)
                    weakref.finalize(storage, self._gone, key)
        return made

    def _gone(self, key: int) -> None:
        self.now -= self.sizes.pop(key)


def collated(adapter: Adapter, micro_batch: int, length: int, lost: int) -> dict[str, Any]:
    """Examples of about this length, whose last `lost` tokens carry loss."""
    labels = [batches.IGNORED] * (length - lost) + [1] * lost
    items: list[batches.Item] = [
        {"input_ids": [1] * (length - i), "labels": labels[i:]} for i in range(micro_batch)
    ]
    with torch.utils._python_dispatch._disable_current_modes():
        return batches.Collator(0, bool(adapter.packing), True)(items)


def tensors(parts: dict[str, int]) -> int:
    """What is estimated, without what the allocator holds besides."""
    return sum(parts.values()) - parts["allocator"]


def peak(
    settings: PreTrainedConfig, adapter: Adapter, micro_batch: int, length: int, lost: int,
    checkpointing: bool,
) -> tuple[int, Shape]:  # fmt: skip
    """The most bytes of tensors that the second of two micro-batches of a later step held."""
    settings._attn_implementation = settings._attn_implementation or "sdpa"
    bf16 = adapter.precision == "bfloat16"
    with Held() as held, local.quiet():
        model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
        shape = memory.shape_of_model(model)
        if adapter.method != "full":
            lora = LoraConfig(
                r=adapter.rank, lora_dropout=adapter.dropout, target_modules="all-linear",
                use_dora=adapter.method == "dora", task_type="CAUSAL_LM",
            )  # fmt: skip
            model = get_peft_model(model, lora)
        model.train()
        if checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        trained = [weights for weights in model.parameters() if weights.requires_grad]
        optimizer = torch.optim.AdamW(trained, foreach=False)
        inputs = collated(adapter, micro_batch, length, lost)
        target = inputs.pop("labels")
        for step in range(2):
            held.peak = held.now
            mixed = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
            with mixed:
                loss = batches.loss(model(**{**inputs, "use_cache": False}), target)
            loss.backward()
            if not step:
                optimizer.step()
    return held.peak, shape


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("llama", {}),
        ("llama", {"packing": True}),
        ("llama", {"precision": "bfloat16"}),
        ("llama", {"precision": "bfloat16", "dropout": 0.1}),
        ("llama", {"method": "dora"}),
        ("llama", {"method": "full", "precision": "bfloat16"}),
        ("qwen", {"method": "full"}),
        ("gemma", {"precision": "bfloat16"}),
        ("gpt2", {"method": "full"}),
        ("gemma2", {}),
        ("gemma2", {"precision": "bfloat16"}),
        ("mixtral", {}),
        ("mixtral", {"precision": "bfloat16"}),
    ],
)
def test_the_estimate_is_near_what_tensors_take(
    family: str, settings: dict[str, Any], checkpointing: bool
) -> None:
    adapter = Adapter.model_validate({"precision": "float32", "packing": False} | settings)
    micro_batch, length, lost = 4, 160, 24
    measured, shape = peak(CONFIGS[family], adapter, micro_batch, length, lost, checkpointing)
    parts = memory.estimate(
        shape, adapter, micro_batch=micro_batch, length=length, loss_tokens=micro_batch * lost,
        checkpointing=checkpointing, cuda=False,
    )  # fmt: skip
    assert 0.88 < tensors(parts) / measured < 1.3


@pytest.mark.slow
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_estimate_is_near_what_a_real_shape_takes(checkpointing: bool, llama_8b: Shape) -> None:
    """A step of Llama 3.1 8B, of all weights, on tensors without data."""
    adapter = Adapter(method="full", precision="float32", packing=False)
    with FakeTensorMode(allow_non_fake_inputs=True):
        measured, shape = peak(LlamaConfig(**LLAMA_8B), adapter, 4, 1024, 64, checkpointing)
    parts = memory.estimate(
        shape, adapter, micro_batch=4, length=1024, loss_tokens=256, checkpointing=checkpointing,
        cuda=False,
    )  # fmt: skip
    assert shape == llama_8b
    assert 0.9 < tensors(parts) / measured < 1.15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reading_replies_stays_below_its_limit(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    """Whatever the batch, with a large vocabulary, long replies and prompts with many of them."""
    wide = LlamaConfig(**SMALL | {"vocab_size": 32_000}, eos_token_id=1)
    tokenizer = local.load_tokenizer(str(tiny))
    model = AutoModelForCausalLM.from_config(wide, dtype=dtype).eval()
    reader = local.LocalModel.around(model, tokenizer, batch=8)
    prompts = [[5 + i] * (20 + i) for i in range(8)]
    replies = [[[7 + i + j] * (30 - j) for j in range(1 + 3 * (i % 2))] for i in range(8)]
    whole = reader.read(prompts, replies)
    limit = 24 * 2**20  # four of the replies
    monkeypatch.setattr(local, "READING", limit)
    monkeypatch.setattr(local, "PIECE", 2**17)
    with Held() as held:
        parts = reader.read(prompts, replies)
    assert limit / 4 < held.peak < limit
    close = 1e-5 if dtype == torch.float32 else 0.1
    for group, other in zip(whole, parts, strict=True):
        assert len(group) == len(other)
        for read, again in zip(group, other, strict=True):
            assert read.logprobs == pytest.approx(again.logprobs, abs=close)


RSS = """
import threading, time, psutil, torch
torch.set_num_threads(1)
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM
from ecg_llm.train import batches
config = LlamaConfig(vocab_size=4000, hidden_size=512, intermediate_size=1536, num_hidden_layers=6,
                     num_attention_heads=8, attn_implementation="sdpa")
inputs = batches.Collator(0, False, True)([{"input_ids": [1] * 256, "labels": [1] * 256}] * 4)
target = inputs.pop("labels")
def step(model, optimizer):
    batches.loss(model(**inputs, use_cache=False), target).backward()
    optimizer.step()
small = LlamaForCausalLM(LlamaConfig(vocab_size=4000, hidden_size=64, intermediate_size=64,
                         num_hidden_layers=1, num_attention_heads=1, attn_implementation="sdpa"))
step(small, torch.optim.AdamW(small.parameters(), fused=True))  # what the first step ever loads
del small
before = psutil.Process().memory_info().rss
peak, over = [0], [False]
def watch():
    while not over[0]:
        peak[0] = max(peak[0], psutil.Process().memory_info().rss)
        time.sleep(0.002)
thread = threading.Thread(target=watch); thread.start()
adapter = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
model = get_peft_model(LlamaForCausalLM(config), adapter)
trained = [weights for weights in model.parameters() if weights.requires_grad]
optimizer = torch.optim.AdamW(trained, fused=True)
for _ in range(2):
    step(model, optimizer)
over[0] = True; thread.join()
print(peak[0] - before)
"""


@pytest.mark.slow
def test_the_estimate_is_near_what_a_process_takes() -> None:
    run = here.in_a_process(RSS)
    assert run.returncode == 0, run.stderr
    settings = LlamaConfig(
        vocab_size=4000, hidden_size=512, intermediate_size=1536, num_hidden_layers=6,
        num_attention_heads=8,
    )  # fmt: skip
    with torch.device("meta"):
        shape = memory.shape_of_model(AutoModelForCausalLM.from_config(settings))
    parts = memory.estimate(
        shape, Adapter(rank=16, precision="float32", packing=False), micro_batch=4, length=256,
        loss_tokens=1024, checkpointing=False, cuda=False,
    )  # fmt: skip
    assert 0.9 < sum(parts.values()) / int(run.stdout) < 1.8


def plan(
    shape: Shape,
    gib: float,
    cuda: bool = True,
    devices: int = 1,
    sharded: bool = False,
    **settings: Any,
) -> Any:
    adapter = Adapter.model_validate({"packing": False, "precision": "bfloat16"} | settings)
    lengths, lost = [200] * 30 + [600] * 2, [40] * 30 + [90] * 2
    machine = memory.Machine(cuda, int(gib * GIB), devices, sharded)
    made = memory.plan(shape, adapter, lengths, lost, machine)
    return made, adapter


def test_more_memory_gives_larger_micro_batches(llama_8b: Shape) -> None:
    small, medium, large = (plan(llama_8b, gib, preset="recommended")[0] for gib in (24, 40, 80))
    assert small.micro_batch <= medium.micro_batch <= large.micro_batch
    for made in (small, medium, large):
        assert made.fits
        assert made.needed <= 0.9 * made.available
        assert sum(made.parts.values()) == made.needed
        assert made.micro_batch * made.accumulation >= 16
        assert made.micro_batch in (1, 2, 4, 8, 16)
    assert small.micro_batch < large.micro_batch


def test_activations_are_computed_twice_only_where_nothing_else_fits(llama_8b: Shape) -> None:
    little, much = (plan(llama_8b, gib, preset="recommended")[0] for gib in (11, 80))
    assert (little.checkpointing, much.checkpointing) == (True, False)
    assert plan(llama_8b, 80, preset="recommended", checkpointing=True)[0].checkpointing


def test_settings_go_first(llama_8b: Shape) -> None:
    made, _ = plan(llama_8b, 8, preset="recommended", micro_batch=3, checkpointing=False, batch=16)
    assert (made.micro_batch, made.accumulation, made.checkpointing) == (3, 6, False)
    assert not made.fits


def test_devices_share_a_step(llama_8b: Shape) -> None:
    made, _ = plan(llama_8b, 80, devices=4, preset="recommended", batch=18)
    assert (made.micro_batch, made.accumulation) == (5, 1)


def test_a_cpu_computes_no_more_tokens_at_once_than_are_fast(tmp_path: Path) -> None:
    shape = shape_of(tmp_path, LlamaConfig(**SMALL, architectures=["LlamaForCausalLM"]))
    made, _ = plan(shape, 64, cuda=False, batch=64)
    assert made.micro_batch == 2
    assert made.accumulation == 32


def test_packed_examples_pay_for_the_mask_of_their_row(llama_8b: Shape) -> None:
    apart, packed = (
        memory.estimate(
            llama_8b, Adapter(packing=packing), micro_batch=16, length=512, loss_tokens=100,
            checkpointing=False, cuda=True,
        )["activations"]
        for packing in (False, True)
    )  # fmt: skip
    assert packed - apart > 32 * 15 / 16 * (16 * 512) ** 2 * 2


def test_pretraining_has_a_loss_on_every_token(llama_8b: Shape) -> None:
    tuning, _ = plan(llama_8b, 80, preset="recommended")
    both, _ = plan(llama_8b, 80, preset="recommended", pretrain={"epochs": 1})
    assert both.micro_batch < tuning.micro_batch


def test_says_what_is_taken_by_what(llama_8b: Shape) -> None:
    made, adapter = plan(llama_8b, 24, preset="recommended", micro_batch=1)
    assert memory.sentence(made, adapter).startswith("about ")
    assert "of 24.0 GiB free: weights 5.6, adapter 0.9" in memory.sentence(made, adapter)
    assert memory.sentence(made, adapter).endswith("; micro-batches of 1, 16 a step")


def test_every_remedy_that_is_named_makes_it_fit(llama_8b: Shape) -> None:
    for gib in (17, 24):
        made, adapter = plan(llama_8b, gib, method="lora", rank=256)
        assert not made.fits
        assert made.remedies
        text = memory.advice(made, adapter)
        for remedy in made.remedies:
            assert remedy in text
            changes = dict(change.split(": ") for change in remedy.split(" with "))
            assert plan(llama_8b, gib, **({"method": "lora", "rank": 256} | changes))[0].fits


def test_says_so_where_nothing_helps(llama_70b: Shape) -> None:
    made, adapter = plan(llama_70b, 8, method="full")
    assert not made.fits
    assert "smaller model" in memory.advice(made, adapter)


def test_a_checkpoint_holds_what_is_trained_and_its_states(llama_8b: Shape) -> None:
    trained = memory.trained_parameters(llama_8b, Adapter(rank=16))
    assert memory.checkpoint_bytes(llama_8b, Adapter(rank=16)) == 12 * trained
    assert memory.checkpoint_bytes(llama_8b, Adapter(method="full")) == 12 * llama_8b.parameters
    small = Adapter(rank=16, optimizer="paged_adamw_8bit")
    assert 6 * trained < memory.checkpoint_bytes(llama_8b, small) < 6.1 * trained


def test_a_folder_that_is_no_model_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be loaded"):
        memory.shape_of(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}), "utf-8")
    with pytest.raises(UsageError, match="not a causal language model"):
        memory.shape_of(str(tmp_path))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (MemoryError(), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            True,
        ),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (OSError("out of memory"), False),
    ],
)
def test_knows_when_memory_ran_out(error: BaseException, expected: bool) -> None:
    assert memory.is_out_of_memory(error) is expected


def test_the_allocator_says_what_we_listen_for() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**58, dtype=torch.uint8)
    assert memory.is_out_of_memory(caught.value)


def test_what_pytorch_keeps_of_tensors_that_are_gone_is_free(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As after a job, whose adapter is followed by another one in the same process."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (9 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: 70 * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda: 2 * GIB)
    assert memory.available(True) == 77 * GIB


def test_a_card_that_cannot_multiply_in_bfloat16_computes_in_32_bits(
    llama_8b: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    def activations(able: bool) -> int:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: able)
        parts = memory.estimate(
            llama_8b, Adapter(), micro_batch=1, length=512, loss_tokens=32, checkpointing=False,
            cuda=True,
        )  # fmt: skip
        return parts["activations"]

    assert activations(False) > 1.5 * activations(True)


def test_a_control_group_limits_what_is_available(tmp_path: Path) -> None:
    assert memory.cgroup_free(tmp_path) > 2**60
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/user/job\n")
    for place, limit, used in (("user", "max", 900), ("user/job", "1000", 700)):
        folder = tmp_path / "sys/fs/cgroup" / place
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(f"{limit}\n")
        (folder / "memory.current").write_text(f"{used}\n")
        (folder / "memory.stat").write_text("anon 500\ninactive_file 200\n")
    assert memory.cgroup_free(tmp_path) == 500


def test_an_old_control_group_limits_too(tmp_path: Path) -> None:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("5:cpu:/job\n4:memory:/job\n")
    folder = tmp_path / "sys/fs/cgroup/memory/job"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text("4096")
    (folder / "memory.usage_in_bytes").write_text("4000")
    (folder / "memory.stat").write_text("cache 0\n")
    assert memory.cgroup_free(tmp_path) == 96


def test_weights_that_are_dealt_out_fit_where_one_card_is_too_small(llama_70b: Shape) -> None:
    alone, _ = plan(llama_70b, 40, preset="recommended")
    together, _ = plan(llama_70b, 40, devices=4, sharded=True, preset="recommended")
    assert not alone.fits
    assert together.fits
    assert together.parts["weights"] < 0.26 * alone.parts["weights"]
    assert together.parts["gathered"] > 0
