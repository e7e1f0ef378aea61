import gc
import json
import re
import shutil
import stat
from pathlib import Path
from typing import Any, Literal

import families
import pytest
import tiny_adapters
import tiny_study as here
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from ecg_llm import cli, config, local, pipeline, steps, store
from ecg_llm.commands import export as commands
from ecg_llm.contracts import Decoding, StepError, UsageError
from ecg_llm.local import LocalModel
from ecg_llm.records import Document, Estimate
from ecg_llm.testing import FakeServer
from ecg_llm.train import card, export, gguf, modelfile, nano, parity, tune
from ecg_llm.train.export import Form, Made, Source

CONVERTER = """
import pathlib, sys
folder, *options = sys.argv[1:]
values = dict(zip(options[::2], options[1::2]))
if values["--outtype"] != "f32":
    sys.exit("ERROR: this model is not known")
weights = (pathlib.Path(folder) / "model.safetensors").read_bytes()
pathlib.Path(values["--outfile"]).write_bytes(b"GGUF" + weights)
"""
"""Stands for llama.cpp's converter, which is no package of this project."""


@pytest.fixture(scope="module")
def source(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return tiny_adapters.write(tiny, tmp_path_factory.mktemp("adapters") / "tuned")


def make(source: Source, form: Form, out: Path, **more: Any) -> Made:
    measured = tiny_adapters.record(source)
    return export.export(source, form, out, measured, tiny_adapters.facts(source), **more)


@pytest.mark.parametrize("shape", tiny_adapters.SHAPES)
def test_the_merged_weights_compute_what_the_adapter_computes(
    tiny: Path, tmp_path: Path, shape: str
) -> None:
    source = tiny_adapters.write(tiny, tmp_path / "adapter", shape)
    tuned = LocalModel(str(tiny), adapter=source.folder).load().model
    ids = torch.randint(8, 400, (2, 40), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        expected = tuned(ids).logits
        merged = export.merge(source)(ids).logits
        base = AutoModelForCausalLM.from_pretrained(tiny)(ids).logits
    torch.testing.assert_close(merged, expected, atol=1e-5, rtol=1e-5)
    assert (base - expected).abs().max() > 0.1, "the adapter changes nothing"


def test_an_adapter_on_a_tied_output_layer_leaves_the_embeddings_alone(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_adapters.write(tiny, tmp_path / "adapter", "lm_head")
    made = make(source, "merged", tmp_path / "out")
    weights, before = (load_file(folder / "model.safetensors") for folder in (made.folder, tiny))
    embeddings = "model.embed_tokens.weight"
    assert torch.equal(weights[embeddings], before[embeddings])
    assert not torch.allclose(weights["lm_head.weight"], before[embeddings], atol=1e-3)
    assert here.read(made.folder / "config.json")["tie_word_embeddings"] is False

    monkeypatch.setattr(export, "_untie", lambda model: None)
    with (
        pytest.warns(UserWarning, match="part of the adapter"),
        pytest.raises(StepError, match="after the step merge"),
    ):
        make(source, "merged", tmp_path / "tied")


def test_a_merged_folder_is_an_ordinary_model(source: Source, tmp_path: Path) -> None:
    steps: list[str] = []
    made = make(source, "merged", tmp_path / "exports" / "out", remark=steps.append)
    assert steps == ["merging", "saving", "comparing"]
    with local.quiet():
        model = AutoModelForCausalLM.from_pretrained(made.folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(made.folder)
    base = AutoTokenizer.from_pretrained(source.base)
    assert tokenizer.chat_template == base.chat_template
    assert set(model.generation_config.eos_token_id) == {1, 2}
    assert model.config.tie_word_embeddings
    trained = tiny_adapters.record(source)
    (reply,) = LocalModel(str(made.folder)).generate(
        [trained.probes[0].chat], Decoding(max_tokens=trained.max_tokens)
    )
    assert reply.text == trained.readings[0].text
    assert parity.read_verdict(made.folder) == made.verdict
    assert made.verdict.ok
    written = "".join(path.read_text("utf-8") for path in made.folder.glob("*.json"))
    assert here.TRAIN[0].question not in written, "prompts may quote the literature"
    assert not list(made.folder.parent.glob("*.partial"))


def test_what_was_trained_in_memory_is_what_is_exported(tiny: Path, tmp_path: Path) -> None:
    settings = config.Adapter(
        method="dora", targets=("q_proj", "lm_head"), epochs=3, learning_rate=1e-2, batch=8
    )
    adapter = tmp_path / "tuned"
    tune.tune(tiny, "", here.material(), settings, adapter, seed=3)
    source = Source("tuned", str(tiny), "", adapter, "dora")
    made = make(source, "merged", tmp_path / "out")
    assert made.verdict.trained.endswith("in memory")
    assert made.verdict.ok
    assert made.notes == ()
    base = parity.measure_again(LocalModel(str(tiny)), tiny_adapters.record(source))
    assert not parity.compare(tiny_adapters.record(source), base).ok


@pytest.mark.slow
def test_a_merge_is_written_in_16_bits_where_that_is_asked_for(tiny: Path, tmp_path: Path) -> None:
    # An adapter that has learnt: the near ties of random weights tip with the processor's rounding.
    adapter = tmp_path / "tuned"
    settings = config.Adapter(epochs=3, learning_rate=1e-2, batch=8)
    tune.tune(tiny, "", here.material(), settings, adapter, seed=3)
    source = Source("tuned", str(tiny), "", adapter, settings.method)
    made = make(source, "merged", tmp_path / "out", dtype="bfloat16")
    weights = load_file(made.folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    limits = {check.name: check.limit for check in made.verdict.checks}
    assert limits["token agreement"] == parity.ROUNDED.agreement


def test_the_adapter_alone_is_loaded_by_peft(source: Source, tmp_path: Path) -> None:
    made = make(source, "adapter", tmp_path / "out")
    with local.quiet():
        PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(source.base), made.folder)
        AutoTokenizer.from_pretrained(made.folder)
    settings = here.read(made.folder / "adapter_config.json")
    assert settings["base_model_name_or_path"] == source.base
    assert here.read(made.folder / local.RECORD)["name"] == "tuned"


def test_vllm_gets_a_line_with_a_rank_that_it_takes(source: Source, tmp_path: Path) -> None:
    made = make(source, "vllm", tmp_path / "my export")
    script = made.folder / "serve.sh"
    line = script.read_text("utf-8").replace("\\\n ", "")
    assert f"vllm serve {source.base}" in line
    assert "--enable-lora" in line
    assert "--lora-modules 'tuned=my export'" in line
    assert "--max-lora-rank 8 " in line
    assert script.stat().st_mode & stat.S_IXUSR
    assert "--enable-lora" in (made.folder / "README.md").read_text("utf-8")


def test_what_vllm_cannot_load_is_a_sentence(tiny: Path, tmp_path: Path) -> None:
    dora = tiny_adapters.write(tiny, tmp_path / "dora", "dora")
    with pytest.raises(UsageError, match="method dora; export it with --form merged"):
        make(dora, "vllm", tmp_path / "out")
    path = dora.folder / "adapter_config.json"
    settings = here.read(path) | {"use_dora": False, "rank_pattern": {"q_proj": 600}}
    path.write_text(json.dumps(settings), "utf-8")
    with pytest.raises(UsageError, match="up to rank 512"):
        make(dora, "vllm", tmp_path / "out")
    with pytest.raises(UsageError, match="leave --dtype out"):
        make(dora, "adapter", tmp_path / "out", dtype="bfloat16")
    with pytest.raises(UsageError, match="there is no adapter; export it with --form merged"):
        make(dora._replace(method="full"), "adapter", tmp_path / "out")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_gpu_merges_in_the_precision_that_is_written(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, dtype: Literal["float32", "bfloat16"]
) -> None:
    source = Source("whole", str(tiny), "", tiny, "full")
    exact = export.merge(source).state_dict()["model.embed_tokens.weight"]
    load = local.load_model
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(local, "load_model", lambda *given: load(*given, on_gpu=False))
    merged = export.merge(source, dtype)
    assert merged.dtype == getattr(torch, dtype)
    found = merged.state_dict()["model.embed_tokens.weight"]
    assert torch.equal(found, exact.to(merged.dtype))
    assert torch.equal(found.float(), exact) == (dtype == "float32")


@pytest.mark.parametrize(("dtype", "written"), [("", "bfloat16"), ("float32", "float32")])
def test_a_whole_model_is_stored_as_its_base_was(
    tiny: Path, tmp_path: Path, dtype: Literal["", "float32"], written: str
) -> None:
    """Though it was trained in float32."""
    base, folder = tmp_path / "base", tmp_path / "full"
    with local.quiet():
        AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.bfloat16).save_pretrained(base)
        AutoTokenizer.from_pretrained(tiny).save_pretrained(base)
    shutil.copytree(tiny, folder)
    source = Source("whole", str(base), "", folder, "full")
    measured = export.trained(source, lambda: tiny_adapters.probes(4))
    facts = card.Facts({"name": "w"})
    made = export.export(source, "merged", tmp_path / "out", measured, facts, dtype=dtype)
    assert AutoConfig.from_pretrained(made.folder).dtype == getattr(torch, written)


def test_one_model_is_in_memory_at_a_time(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def models() -> int:
        return sum(type(held) is LlamaForCausalLM for held in gc.get_objects())

    gc.collect()
    before, seen, gate = models(), [], export._gate

    def counted(*given: Any, **more: Any) -> Any:
        seen.append(models() - before)
        return gate(*given, **more)

    monkeypatch.setattr(export, "_gate", counted)
    gc.disable()  # as chance may have it
    try:
        make(source, "merged", tmp_path / "out")
        assert seen == [1, 0], "the merged one, and none before its copy is loaded"
        assert models() == before
    finally:
        gc.enable()


@pytest.mark.slow
def test_all_weights_of_a_full_fine_tuning_are_exported(tiny: Path, tmp_path: Path) -> None:
    folder = tmp_path / "full"
    shutil.copytree(tiny, folder)
    source = Source("whole", str(tiny), "", folder, "full")
    measured = export.trained(source, lambda: tiny_adapters.probes(4))
    made = export.export(source, "merged", tmp_path / "out", measured, card.Facts({"name": "w"}))
    assert made.verdict.ok
    assert any("no record of the trained model" in note for note in made.notes)
    assert load_file(made.folder / "model.safetensors").keys()


@pytest.mark.parametrize(
    ("break_it", "step"),
    [
        ("record", "merge"),
        ("weights", "save and reload"),
        ("tokenizer", "template"),
    ],
)
def test_an_export_that_behaves_differently_is_set_aside(
    tiny: Path,
    source: Source,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    break_it: str,
    step: str,
) -> None:
    measured = tiny_adapters.record(source)
    save = export._save

    def broken(model: Any, tokenizer: Any, folder: Path) -> None:
        with torch.no_grad():
            if break_it == "weights":
                model.model.layers[0].mlp.down_proj.weight.mul_(1.02)
        if break_it == "tokenizer":
            tokenizer.chat_template = tokenizer.chat_template.replace("'|>'", "'|> '", 1)
        save(model, tokenizer, folder)

    if break_it == "record":
        other = tiny_adapters.write(tiny, tmp_path / "other", seed=2)
        measured = tiny_adapters.record(other)
    monkeypatch.setattr(export, "_save", broken)
    out = tmp_path / "out"
    with pytest.raises(StepError, match=f"after the step {step} it behaves differently") as error:
        export.export(source, "merged", out, measured, tiny_adapters.facts(source))
    failed = tmp_path / "out.failed"
    assert str(error.value).endswith(f"It lies in {failed}.")
    assert not out.exists()
    verdict = parity.read_verdict(failed)
    assert verdict is not None
    assert verdict.failures[0] in str(error.value)


def test_only_an_earlier_export_is_replaced(source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match="is no earlier export and is left alone"):
        make(source, "adapter", out)
    assert (out / "notes.txt").read_text() == "mine"
    (out / "notes.txt").unlink()
    make(source, "adapter", out)
    (out / "stale.txt").write_text("old")
    make(source, "adapter", out)
    assert not (out / "stale.txt").exists()


def test_a_full_disk_is_a_sentence_and_leaves_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(export.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(StepError, match=r"the disk of .* has 0\.0 GB free; make room"):
        make(source, "merged", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_ollama_is_told_what_the_chat_template_writes(source: Source, tmp_path: Path) -> None:
    made = make(source, "ollama", tmp_path / "out")
    text = (made.folder / "Modelfile").read_text("utf-8")
    assert "\nFROM ./\n" in text
    assert "{{ .Content }}" in text
    assert "<|user|>" in text
    assert "<|begin|>" not in text, "Ollama adds BOS itself"
    for line in ("temperature 0", "num_ctx 512", 'stop "<|end|>"', 'stop "<|end_of_turn|>"'):
        assert f"PARAMETER {line}\n" in text
    assert (made.folder / "model.safetensors").is_file()


@pytest.mark.parametrize("name", families.FAMILIES)
def test_a_chat_template_is_taken_apart(name: str) -> None:
    tokenizer = families.tokenizer(name)
    layout = modelfile.layout(tokenizer)
    chat: list[Any] = [
        {"role": "user", "content": "A long QT?"},
        {"role": "assistant", "content": "More than 480 ms."},
        {"role": "user", "content": "Why?"},
    ]
    if layout.system:
        chat.insert(0, {"role": "system", "content": "Be brief."})
    written = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert (tokenizer.bos_token or "") + layout.render(chat) in (
        written,
        (tokenizer.bos_token or "") + written,
    )
    go = modelfile.go_template(layout)
    pieces = (layout.first, layout.reply, layout.after, layout.generate)
    assert all(piece.replace("{{", '{{ "{{" }}') in go for piece in pieces)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "changes the contents"),
        (
            "{% for m in messages %}{{ loop.index }}{{ m.role }}{{ m.content }}{% endfor %}",
            "chat of 3 turns differently",
        ),
        ('{% for m in messages %}"""{{ m.content }}{% endfor %}', "three quotation marks"),
    ],
)
def test_a_template_that_ollama_cannot_follow_is_refused(tiny: Path, text: str, why: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = text
    with pytest.raises(UsageError, match=f"{why}.*--form merged"):
        modelfile.go_template(modelfile.layout(tokenizer))


def test_gguf_is_left_to_the_converter(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UsageError, match=r"needs convert_hf_to_gguf\.py of llama\.cpp"):
        make(source, "gguf", tmp_path / "out")
    script = tmp_path / "convert.py"
    with pytest.raises(UsageError, match="There is no converter at"):
        make(source, "gguf", tmp_path / "out", converter=script)
    script.write_text(CONVERTER)
    made = make(source, "gguf", tmp_path / "out", converter=script)
    assert (made.folder / "out.gguf").read_bytes()[:4] == b"GGUF"
    assert "FROM ./out.gguf" in (made.folder / "Modelfile").read_text("utf-8")
    assert not (made.folder / "model.safetensors").exists()
    assert any("llama-server is not on the PATH" in note for note in made.notes)
    script.write_text("raise SystemExit('this model is not known')")
    with pytest.raises(StepError, match=r"converter could not write .*this model is not known"):
        make(source, "gguf", tmp_path / "out", converter=script)


@pytest.mark.slow
def test_a_gguf_file_does_without_a_modelfile(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(tokenizer: Any) -> None:
        raise UsageError("No Ollama template can be derived.")

    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr(modelfile, "layout", refuse)
    script = tmp_path / "convert.py"
    script.write_text(CONVERTER)
    made = make(source, "gguf", tmp_path / "out", converter=script)
    assert "There is no Modelfile. No Ollama template can be derived." in made.notes
    assert not (made.folder / "Modelfile").exists()
    assert "ollama" not in (made.folder / "README.md").read_text("utf-8").partition("## Parity")[0]
    with pytest.raises(UsageError, match="No Ollama template"):
        make(source, "ollama", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_a_gguf_file_that_its_server_cannot_read_is_set_aside(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = tmp_path / "bin" / gguf.SERVER
    server.parent.mkdir()
    server.write_text("#!/bin/sh\nexit 1\n")
    server.chmod(0o755)
    monkeypatch.setenv("PATH", str(server.parent))
    script = tmp_path / "convert.py"
    script.write_text(CONVERTER)
    with pytest.raises(StepError, match=r"conversion to GGUF .* does not start with out\.gguf"):
        make(source, "gguf", tmp_path / "out", converter=script)
    assert (tmp_path / "out.failed" / "out.gguf").is_file()


def test_the_card_says_what_the_model_is_made_of(source: Source, tmp_path: Path) -> None:
    base = tmp_path / "base"
    shutil.copytree(source.base, base)
    (base / "README.md").write_text("---\nlicense: llama3.1\n---\n# Base\n", "utf-8")
    read = {"engine": "x", "status": "ok", "doc_id": "a", "licence": "CC BY 4.0"}
    documents = [
        Document.model_validate({"path": "a.pdf", **read}),
        Document.model_validate({"path": "b.pdf", **read, "licence": ""}),
        Document.model_validate({"path": "c.pdf", **read, "status": "unreadable"}),
    ]
    mean: dict[str, Any] = {"metric": "accuracy", "subset": "written/test", "method": "mean/wilson"}
    estimates = [
        Estimate(arm="tuned", value=0.5, low=0.25, high=0.75, questions=8, **mean),
        Estimate(arm="tuned", against="base", value=0.1, **mean),
        Estimate(arm="base", value=0.4, **mean),
    ]
    facts = card.Facts(
        record=here.read(source.folder / local.RECORD),
        title="ECG | study",
        documents=documents,
        estimates=estimates,
        arms=["tuned"],
        manifests={"training": {"rows": 9, "finished": "2026-11-25T20:08:18+00:00"}},
        base=str(base),
        base_name="meta-llama/Llama-3.1-8B-Instruct",
        nano=True,
    )
    made = export.export(source, "adapter", tmp_path / "out", tiny_adapters.record(source), facts)
    text = (made.folder / "README.md").read_text("utf-8")
    front = yaml.safe_load(re.split(r"^---$", text, flags=re.MULTILINE)[1])
    assert front["library_name"] == "peft"
    assert front["license"] == "llama3.1"
    assert "base_model" not in front, "a folder has no id on the hub"
    for said in (
        "Not a medical device",
        "A nano model",
        "An adapter of `meta-llama/Llama-3.1-8B-Instruct`",
        'in the study "ECG \\| study"',
        "2 documents were read. 24 examples were learned from (choice 16)",
        "| CC BY 4.0 | 1 |",
        "| not known | 1 |",
        "| learning_rate | 0.0001 |",
        "| tuned | written/test | Accuracy, letter written | 0.500 | 0.250 to 0.750 | 8 |",
        "| token agreement | 1 | 0.999 | yes |",
        "| training | 9 | 2026-11-25 |",
        "The base model's licence is llama3.1",
    ):
        assert said in text
    assert "| base |" not in text


@pytest.fixture
def folder(tiny: Path, source: Source, tmp_path: Path) -> Path:
    """A study whose adapter is trained."""
    folder = tmp_path / "study"
    shutil.copytree(tiny, folder / "models" / "base")
    shutil.copytree(source.folder, folder / "adapters" / "tuned")
    settings = {
        "models": {
            "base": {"kind": "nano"},
            "served": {"kind": "api", "base_url": "http://127.0.0.1:9/v1", "model": "fake"},
        },
        "adapters": {"tuned": {"model": "base"}, "later": {"model": "base"}},
    }
    (folder / "study.yaml").write_text(yaml.safe_dump(settings), "utf-8")
    store.write(folder / "questions.jsonl", [*here.TRAIN, *here.VAL])
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        cli.app(list(arguments))
    return int(str(ended.value.code)), capsys.readouterr().out


def test_the_commands_export_and_compare(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = run(capsys, "export", "tuned", "--form", "adapter", "-C", str(folder))
    assert code == 0
    assert re.search(r"token agreement +1 +0\.999 +yes", said)
    assert str(folder / "exports" / "tuned-adapter") in said
    code, said = run(capsys, "parity", "tuned", "-C", str(folder), "--json")
    figures = json.loads(said)
    assert (code, figures["ok"], figures["failures"]) == (0, True, [])
    path = folder / "adapters" / "tuned" / "adapter_config.json"
    path.write_text(json.dumps(here.read(path) | {"lora_alpha": 24}), "utf-8")
    code, said = run(capsys, "parity", "tuned", "-C", str(folder), "--json")
    figures = json.loads(said)
    assert (code, figures["ok"]) == (1, False)
    assert any("tokens of the trained model's replies" in line for line in figures["failures"])


def test_a_server_is_asked_anew_each_time(folder: Path) -> None:
    said = []
    for reply in ("No.", "Yes."):
        with FakeServer(lambda messages, body, reply=reply: reply) as server:
            settings = config.load(folder, [f"models.served.base_url={server.base_url}"])
            models = pipeline.Models(settings, folder)
            verdict = commands.compare(folder, settings, models, "tuned", "served")
            said.append(len(server.requests))
        assert verdict.other == "fake"
        assert not verdict.ok
    assert said == [12, 12]
    with pytest.raises(UsageError, match="no model 'serve' in"):
        commands.compare(folder, settings, models, "tuned", "serve")


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({"name": "tunde"}, "no adapter 'tunde'.*did you mean \"tuned\""),
        ({"name": "later"}, "not trained yet; do so with: ecg-llm train"),
        ({"form": "olama"}, "not 'olama'; did you mean \"ollama\""),
        ({"dtype": "int3"}, "float32, bfloat16, not 'int3'"),
    ],
)
def test_a_wrong_call_is_a_sentence(folder: Path, changed: dict[str, str], problem: str) -> None:
    settings = config.load(folder)
    models = pipeline.Models(settings, folder)
    bound = steps.bind(folder, pipeline.study_steps(settings, folder, models))
    values = {"name": "tuned", "form": "merged", "dtype": "", **changed}
    with pytest.raises(UsageError, match=problem):
        commands.export(
            bound, settings, models, values["name"], None,
            values["form"], values["dtype"], None,
        )  # fmt: skip


def test_an_adapter_without_a_record_is_measured_on_the_study(folder: Path) -> None:
    (folder / "adapters" / "tuned" / parity.FILE).unlink()
    settings = config.load(folder)
    models = pipeline.Models(settings, folder)
    with pytest.raises(UsageError, match=r"holds no parity\.json"):
        commands.compare(folder, settings, models, "tuned", "")
    bound = steps.bind(folder, pipeline.study_steps(settings, folder, models))
    made = commands.export(bound, settings, models, "tuned", None, "adapter", "", None)
    assert made.verdict.probes == len(here.TRAIN) + len(here.VAL)
    assert made.verdict.checks[-1].value == f"0 of {len(here.VAL) + 16}"


def load(base: Path, adapter: Path) -> None:
    LocalModel(str(base), adapter=adapter).load()


def built(out: Path, **changes: int) -> Path:
    """Write a model with random weights like the tiny one, but for these changes."""
    settings = here.TINY.model_copy(update=changes)
    tokenizer = nano.train_tokenizer(here.TEXTS, settings)
    with local.quiet():
        nano.random_model(tokenizer, settings, 7).save_pretrained(out)
    tokenizer.save_pretrained(out)
    return out


@pytest.mark.parametrize(
    "changes", [{"hidden": 32}, pytest.param({"layers": 1}, marks=pytest.mark.slow), {"layers": 3}]
)
def test_an_adapter_for_a_model_of_another_shape_is_a_sentence(
    tiny: Path, tmp_path: Path, changes: dict[str, int]
) -> None:
    other = built(tmp_path / "other", **changes)
    adapter = tiny_adapters.write(tiny, tmp_path / "adapter", "rslora").folder
    (adapter / local.RECORD).unlink()
    with pytest.raises(UsageError, match=r"trained for another model than .*other names or sizes"):
        load(other, adapter)


def test_an_adapter_for_other_weights_of_the_same_shape_is_a_sentence(
    source: Source, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="trained on other weights than those in"):
        load(built(tmp_path / "other"), source.folder)
    load(Path(source.base), source.folder)


def test_a_torn_adapter_is_a_sentence(source: Source, tmp_path: Path) -> None:
    torn = tmp_path / "torn"
    shutil.copytree(source.folder, torn)
    weights = torn / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UsageError, match=r"cannot be read .*; train it again"):
        load(Path(source.base), torn)
