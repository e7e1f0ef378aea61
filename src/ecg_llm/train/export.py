"""An adapter as what is deployed: merged, alone, for Ollama, vLLM or llama.cpp, behind a gate."""

import shlex
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, get_args

from ecg_llm import local, store
from ecg_llm.contracts import Remark, StepError, UsageError
from ecg_llm.train import card, gguf, jobs, modelfile, parity
from ecg_llm.train.parity import Measured, Verdict

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Form = Literal["merged", "adapter", "ollama", "vllm", "gguf"]
FORMS: tuple[Form, ...] = get_args(Form)
Dtype = Literal["", "float32", "bfloat16"]
DTYPES: tuple[Dtype, ...] = get_args(Dtype)
MARK = "export.json"
"""What an export is and of what, in its folder."""
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What --max-lora-rank of vLLM takes."""
LOOKED_AT_TEMPLATE = {"special tokens", "chat template", "prompt tokens"}
"""Checks that fail where tokenizer or template are others, whatever the weights."""


class Source(NamedTuple):
    """An adapter and the base that it was trained on."""

    name: str
    base: str
    """Folder or id."""
    revision: str
    folder: Path
    """Of the adapter, or of all weights for method full."""
    method: str

    @property
    def whole(self) -> bool:
        """Whether the folder holds a whole model."""
        return self.method == "full"


class Broken(Exception):
    """A step of an export after which the model behaves differently."""

    def __init__(self, step: str, verdict: Verdict) -> None:
        super().__init__(step, verdict)
        self.step = step
        self.verdict = verdict


class Made(NamedTuple):
    """What an export wrote, and how it compares with the trained model."""

    folder: Path
    verdict: Verdict
    notes: tuple[str, ...]
    """What the comparison could not see."""


def trained(source: Source, probes: Callable[[], Sequence[parity.Probe]]) -> Measured:
    """Return what the trained model did: its record, or else base and adapter measured here.

    `probes` gives the prompts where there is no record.

    Raises:
        StepError: there is no prompt.
        UsageError: base or adapter cannot be loaded, or do not belong together.
    """
    if found := parity.read(source.folder):
        return found
    with closing(_with_adapter(source, source.folder)) as model:
        return parity.measure(model, probes())


def export(
    source: Source,
    form: Form,
    out: Path,
    measured: Measured,
    facts: card.Facts,
    *,
    dtype: Dtype = "",
    converter: Path | None = None,
    remark: Remark = lambda words: None,
) -> Made:
    """Write an adapter in this form to `out`, after checking that it behaves as it was trained.

    `out` appears at once and complete, with parity.json and README.md; an earlier export there is
    replaced. `measured` is what the trained model did. Without `dtype` the weights are written as
    those of the base are stored.

    Raises:
        UsageError: `out` holds something else, or the form cannot be made of this adapter.
        StepError: what was written behaves differently; it lies in <out>.failed.
    """
    _check(source, form, out, dtype)
    command = gguf.converter(converter) if form == "gguf" else []
    work = out.with_name(out.name + ".partial")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    mark = {"adapter": source.name, "form": form, "base": source.base}
    store.write_json(work / MARK, mark)
    try:
        if form in ("adapter", "vllm"):
            verdict, notes, serve = _adapter(source, form, work, out.name, measured, remark)
        else:
            verdict, notes, serve = _merged(
                source, form, work, out.name, measured, dtype, command, remark
            )
    except Broken as broken:
        failed = out.with_name(out.name + ".failed")
        shutil.rmtree(failed, ignore_errors=True)
        parity.write(work, broken.verdict)
        work.replace(failed)
        raise StepError(
            f"The export is not to be used: after the step {broken.step} it behaves differently "
            f"from the trained model. {' '.join(broken.verdict.failures)} It lies in {failed}."
        ) from None
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise
    if parity.read(source.folder) is None:
        notes += (
            "The adapter has no record of the trained model in memory: it was compared with base "
            "and adapter as they are loaded from disk.",
        )
    alone = form in ("adapter", "vllm")
    text = card.card(facts, verdict, "adapter" if alone else "merged", serve, notes)
    store.write_text(work / "README.md", text)
    parity.write(work, verdict)
    store.write_json(work / MARK, mark)  # a form may have left only files of its own
    if out.exists():
        shutil.rmtree(out)
    work.replace(out)
    return Made(out, verdict, notes)


def merge(
    source: Source, dtype: Dtype = "", remark: Remark = lambda words: None
) -> "PreTrainedModel":
    """Return the base with the adapter merged into its weights.

    They are in `dtype`, or else as the base is stored; on a CPU, which is slow in 16 bits, in
    float32. An adapter that was trained on
    4-bit weights is merged onto those weights, dequantised, since it makes up for their errors
    (without CUDA they cannot be made, and it is merged onto the weights as they are). An output
    layer that shares its weights with the embeddings is parted from them where either has an
    adapter, or the merge would change both.

    Raises:
        UsageError: base or adapter cannot be loaded, or do not belong together.
        StepError: the merged weights are no numbers.
    """
    import torch

    cuda = torch.cuda.is_available()
    lasting = getattr(torch, dtype or _stored(source))
    held = lasting if cuda else torch.float32
    if source.whole:
        return local.load_model(str(source.folder), "main", held).eval()
    quantized = source.method == "qlora" and cuda
    if source.method == "qlora" and not cuda:
        remark("without CUDA merged onto the unquantised base; parity shows the price")
    model = local.load_model(source.base, source.revision, held, "nf4" if quantized else "none")
    if quantized:
        model = model.dequantize(held)
    local.check_base(source.base, source.folder)
    tuned = local.load_adapter(model, source.folder)
    _untie(tuned.get_base_model())
    with local.quiet():
        try:
            return tuned.merge_and_unload(safe_merge=True).eval()
        except ValueError as error:
            raise StepError(
                f"The adapter in {source.folder} cannot be merged: {str(error).splitlines()[0]}"
            ) from error


def _untie(model: "PreTrainedModel") -> None:
    """Give the output layer weights of its own where it or the embeddings have an adapter."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if not any(isinstance(layer, BaseTunerLayer) for layer in (head, embeddings)):
        return
    inner = [
        layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer
        for layer in (head, embeddings)
    ]
    if inner[0].weight is not inner[1].weight:
        return
    inner[0].weight = torch.nn.Parameter(inner[1].weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = False
    model.config.get_text_config().tie_word_embeddings = False
    model.all_tied_weights_keys = model.get_expanded_tied_weights_keys(all_submodels=False)


def _merged(
    source: Source,
    form: Form,
    work: Path,
    name: str,
    measured: Measured,
    dtype: Dtype,
    command: Sequence[str],
    remark: Remark,
) -> tuple[Verdict, tuple[str, ...], str]:
    """Write merged weights and what the form adds; return verdict, notes and how to serve."""
    import torch

    tokenizer = local.load_tokenizer(source.base, source.revision)
    notes: list[str] = []
    layout = None if form == "merged" else _layout(tokenizer, form, notes)
    remark("merging")
    written = dtype or _stored(source)
    model = merge(source, written, remark)
    around = local.LocalModel.around(model, tokenizer)
    _gate("merge", measured, around)
    remark("saving")
    model.to(getattr(torch, written))
    _save(model, tokenizer, work)
    stops = [str(tokenizer.convert_ids_to_tokens(end)) for end in around.load().ends]
    room = local.context(model)
    del model, around
    jobs.free()  # room for the copy that is read back
    remark("comparing")
    rounded = written != "float32"
    reload = f"save as {written}" if rounded and measured.dtype == "float32" else "save and reload"
    with closing(local.LocalModel(str(work), label=name)) as copy:
        verdict = _gate(reload, measured, copy, rounded=rounded)
    if form == "merged":
        return verdict, (), _serve_merged(name)
    if form == "ollama" and layout:
        text = modelfile.modelfile(layout, stops, room, comment=_said(source))
        store.write_text(work / "Modelfile", text)
        notes.append(
            "Ollama converts the weights itself; once it serves the model, compare with: "
            f"`ecg-llm parity {source.name} --model NAME`."
        )
        return verdict, tuple(notes), _serve_ollama(name)
    file = work / f"{name}.gguf"
    remark("converting")
    gguf.convert(list(command), work, file, written)
    for path in work.iterdir():
        if path != file:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if layout:
        text = modelfile.modelfile(layout, stops, room, f"./{file.name}", _said(source))
        store.write_text(work / "Modelfile", text)
    remark("comparing")
    served = _served_checks(file, min(room, modelfile.CONTEXT), measured)
    if served is None:
        notes.append(
            f"The checks are of the weights that the file was made from: {gguf.SERVER} is not on "
            f"the PATH, so the file itself was not loaded. Once it is served, compare with: "
            f"`ecg-llm parity {source.name} --model NAME`."
        )
    else:
        verdict = verdict.model_copy(update={"checks": (*verdict.checks, *served)})
        if not verdict.ok:
            raise Broken("conversion to GGUF", verdict)
    return verdict, tuple(notes), _serve_gguf(name, file.name, ollama=layout is not None)


def _layout(
    tokenizer: "PreTrainedTokenizerBase", form: Form, notes: list[str]
) -> modelfile.Layout | None:
    """Return the layout that Ollama needs; a GGUF file does without, which is noted."""
    try:
        layout = modelfile.layout(tokenizer)
        modelfile.go_template(layout)
    except UsageError as error:
        if form == "ollama":
            raise
        notes.append(f"There is no Modelfile. {error}")
        return None
    if layout.system is None:
        notes.append("Ollama's template takes no system message; the study asks without one.")
    return layout


def _served_checks(file: Path, context: int, measured: Measured) -> tuple[parity.Check, ...] | None:
    """Return the checks of a GGUF file as llama.cpp's server reads it; None without that server."""
    try:
        with gguf.served(file, context) as server:
            return parity.compare_server(measured, server).checks if server else None
    except StepError as error:
        why = parity.Check(
            name=gguf.SERVER, value="failed", limit="replies", ok=False, failure=str(error)
        )
        return (why,)


def _adapter(
    source: Source, form: Form, work: Path, name: str, measured: Measured, remark: Remark
) -> tuple[Verdict, tuple[str, ...], str]:
    """Write the adapter with its tokenizer; return verdict, notes and how to serve."""
    settings = store.read_json(source.folder / "adapter_config.json") or {}
    store.write_json(
        work / "adapter_config.json", {**settings, "base_model_name_or_path": source.base}
    )
    for file in ("adapter_model.safetensors", local.RECORD):
        if (source.folder / file).is_file():
            shutil.copyfile(source.folder / file, work / file)
    local.load_tokenizer(source.base, source.revision).save_pretrained(work)
    remark("comparing")
    with closing(_with_adapter(source, work)) as model:
        verdict = _gate("save and reload", measured, model)
    if form == "adapter":
        return verdict, (), _serve_adapter(source, name)
    rank = next(most for most in VLLM_RANKS if most >= _rank(settings))
    line = _vllm_line(source, name, rank)
    store.write_text(work / "serve.sh", f'#!/bin/sh\ncd "$(dirname "$0")/.." || exit 1\n{line}\n')
    (work / "serve.sh").chmod(0o755)
    notes: tuple[str, ...] = (
        "vLLM computes otherwise than what was compared here; once it serves the model, compare "
        f"with: `ecg-llm parity {source.name} --model NAME`.",
    )
    if source.method == "qlora":
        notes += (
            "The adapter was trained on weights in 4 bit; vLLM quantises the base in much the same "
            "way, not to the bit.",
        )
    return verdict, notes, _fenced(line.replace(" \\\n  ", " "))


def _with_adapter(source: Source, folder: Path) -> local.LocalModel:
    """Return base and adapter as the study's arms use them; 4 bit where there is CUDA."""
    import torch

    if source.whole:
        return local.LocalModel(str(folder), label=source.name)
    quantized = source.method == "qlora" and torch.cuda.is_available()
    return local.LocalModel(
        source.base,
        revision=source.revision,
        adapter=folder,
        quantization="nf4" if quantized else "none",
    )


def _gate(
    step: str, measured: Measured, model: local.LocalModel, *, rounded: bool = False
) -> Verdict:
    """Return the verdict on a model after this step.

    Raises:
        Broken: it behaves differently.
    """
    other = parity.measure_again(model, measured)
    verdict = parity.compare(measured, other, parity.ROUNDED if rounded else None)
    if verdict.failures:
        failed = {check.name for check in verdict.checks if not check.ok}
        raise Broken("template" if failed & LOOKED_AT_TEMPLATE else step, verdict)
    return verdict


def _save(model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", folder: Path) -> None:
    """Write weights, configurations and tokenizer.

    Raises:
        StepError: the disk has no room for them.
    """
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StepError(
            f"The weights take {size / 1e9:,.1f} GB, but the disk of {folder} has "
            f"{free / 1e9:,.1f} GB free; make room or export to another disk."
        )
    with local.quiet():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _stored(source: Source) -> Literal["float32", "bfloat16"]:
    """Return the dtype in which the base's weights are stored; 16 bits stay as bfloat16."""
    from transformers import AutoConfig

    with local.quiet():
        settings = AutoConfig.from_pretrained(source.base, revision=source.revision or "main")
    found: torch.dtype | None = settings.dtype or settings.get_text_config().dtype
    return "bfloat16" if str(found) in ("torch.bfloat16", "torch.float16") else "float32"


def _check(source: Source, form: Form, out: Path, dtype: Dtype) -> None:
    """Raise for what cannot be exported so, before anything is loaded."""
    if form not in FORMS:
        raise UsageError(f"There is no form {form!r}; choose one of {', '.join(FORMS)}.")
    out = out.resolve()
    blocked = [above for above in out.parents if above.exists() and not above.is_dir()]
    beside = [out.with_name(out.name + ending) for ending in (".partial", ".failed")]
    for place in (*blocked, out, *beside):
        earlier = (place / MARK).is_file() or (place.is_dir() and not any(place.iterdir()))
        if place.exists() and not earlier:
            raise UsageError(
                f"{place} is no earlier export and is left alone; name another folder to export to."
            )
    if not source.folder.is_dir():
        raise UsageError(f"There is no adapter in {source.folder}; train it with: ecg-llm train")
    if source.whole and form in ("adapter", "vllm"):
        raise UsageError(
            f"{source.name} was trained with method full: all weights changed, and there is no "
            f"adapter; export it with --form merged."
        )
    if dtype and form in ("adapter", "vllm"):
        raise UsageError(f"The form {form} keeps the adapter as it was trained; leave --dtype out.")
    if form == "vllm":
        settings = store.read_json(source.folder / "adapter_config.json") or {}
        if settings.get("use_dora"):
            raise UsageError(
                "vLLM cannot load an adapter of method dora; export it with --form merged."
            )
        if _rank(settings) > VLLM_RANKS[-1]:
            raise UsageError(
                f"vLLM takes adapters up to rank {VLLM_RANKS[-1]}; export it with --form merged."
            )


def _rank(settings: dict[str, object]) -> int:
    pattern = settings.get("rank_pattern")
    ranks = list(pattern.values()) if isinstance(pattern, dict) else []
    return max(int(str(rank)) for rank in (settings.get("r", 1), *ranks))


def _said(source: Source) -> str:
    return f"{source.name}, made by ecg-llm. Not a medical device."


def _vllm_line(source: Source, name: str, rank: int) -> str:
    """Return the command that serves base and adapter, on lines of its own options."""
    base = source.base
    parts = [
        f"vllm serve {shlex.quote(str(Path(base).resolve()) if Path(base).is_dir() else base)}"
    ]
    if source.revision and not Path(base).is_dir():
        parts.append(f"--revision {shlex.quote(source.revision)}")
    parts.append("--enable-lora")
    parts.append(f"--lora-modules {shlex.quote(f'{source.name}={name}')}")
    parts.append(f"--max-lora-rank {rank}")
    if source.method == "qlora":
        parts.append("--quantization bitsandbytes")
    parts.append(GREEDY)
    return " \\\n  ".join(parts)


GREEDY = "--override-generation-config '{\"temperature\": 0}'"
"""How arms are asked; else vLLM samples as the base's configuration says."""


def _fenced(*lines: str) -> str:
    text = "\n".join(lines)
    return f"In the folder that holds this one:\n\n```console\n{text}\n```\n"


def _serve_merged(name: str) -> str:
    return _fenced(f"vllm serve ./{shlex.quote(name)} {GREEDY}")


def _serve_ollama(name: str) -> str:
    folder = shlex.quote(name)
    return _fenced(f"ollama create {folder} -f {folder}/Modelfile", f"ollama run {folder}")


def _serve_gguf(name: str, file: str, *, ollama: bool) -> str:
    folder = shlex.quote(name)
    lines = [f"llama-server -m {folder}/{shlex.quote(file)} --jinja --temp 0"]
    if ollama:
        lines.append(f"ollama create {folder} -f {folder}/Modelfile")
    return _fenced(*lines)


def _serve_adapter(source: Source, name: str) -> str:
    return (
        "```python\n"
        "from peft import AutoPeftModelForCausalLM\n\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("{name}")\n'
        "```\n"
    )
