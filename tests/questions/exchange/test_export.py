import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from ecg_llm.contracts import Task, UsageError
from ecg_llm.prompt import one_line, question_messages
from ecg_llm.questions.exchange.card import hub_licence
from ecg_llm.questions.exchange.export import FORMS, TESTED, export, files_of, rows_of
from ecg_llm.records import LETTERS, Document, Question, Span
from ecg_llm.testing import FakeServer
from ecg_llm.train import template

TRAIN_TESTS = Path(__file__).parents[2] / "train"
TITLE = "A study: {{ of }} blocks"
HARD = (
    'Was heißt "PR > 200 ms", {{ prompt }} {% if x %} {question} {}?\n\tZeile 2 \u2028 \\n | <b> #'
)
"""What breaks files that are put together from text."""
SPLIT_NAMES = {"train": "train", "val": "validation", "test": "test", "test_seen": "test_seen"}
LOADED = ("chat", "alpaca", "sharegpt", "dataset")
DOCUMENTS = [
    Document(path="a.pdf", doc_id="a" * 16, title="Blocks | {{ x }}", status="ok", licence="CC0"),
    Document(path="b.pdf", doc_id="b" * 16, status="ok"),
]


def made(i: int, kind: str, split: str = "test", **columns: Any) -> Question:
    row: dict[str, Any] = {
        "question_id": f"{kind}-{split}-{i:02}",
        "set": "written",
        "kind": kind,
        "split": split,
        "question": f"{HARD} {kind} {split} {i}",
        "reference": f'{{{{ no }}}} "Block" {i} Grad\nII°',
        "context": f"Zusammenhang {{{{ c }}}} {i}" if i % 2 else "",
        "doc_id": "a" * 16,
        "generator": "writer@1",
    }
    if kind == "choice":
        row |= {"options": ("{{ a }}", "{% b %}", '"c"\n{}', f"Grad {i}"), "answer": "ABCD"[i % 4]}
    return Question.model_validate(row | columns)


PLACED = [
    made(i, kind, split)
    for split in SPLIT_NAMES
    for kind in ("open", "choice")
    for i in range(4 if split in TESTED else 2)
]
STAYING = [
    made(50, "open", "train", status="dropped", reason="duplicate"),
    made(51, "choice", "test", status="dropped", reason="no_key"),
    made(52, "open", "none"),
]
QUESTIONS = PLACED + STAYING


def out(folder: Path, form: str, questions: list[Question] = QUESTIONS) -> dict[str, int]:
    """Export, and give the rows of each file."""
    written = export(questions, DOCUMENTS, folder, form, TITLE)
    return {item.path.relative_to(folder).as_posix(): item.rows for item in written}


def front_of(folder: Path) -> dict[str, Any]:
    _, front, _ = (folder / "README.md").read_text("utf-8").split("---\n", 2)
    value: dict[str, Any] = yaml.safe_load(front)
    return value


def load(folder: Path) -> Any:
    """Load a folder as a user of the Hub does, into a cache of its own."""
    import datasets

    return datasets.load_dataset(str(folder), cache_dir=str(folder.parent / "cache"))


@pytest.fixture
def rows_by_form(tmp_path: Path) -> Callable[[str], dict[str, list[dict[str, Any]]]]:
    """Give split: rows of a form, as `datasets` loads its folder."""

    def read(form: str) -> dict[str, list[dict[str, Any]]]:
        out(tmp_path / form, form)
        return {name: split.to_list() for name, split in load(tmp_path / form).items()}

    return read


@pytest.mark.parametrize("form", LOADED)
def test_datasets_loads_each_split_with_its_own_questions(rows_by_form: Any, form: str) -> None:
    splits = rows_by_form(form)
    found = {name: [row["question_id"] for row in rows] for name, rows in splits.items()}
    for split, name in SPLIT_NAMES.items():
        assert found[name] == sorted(q.question_id for q in PLACED if q.split == split)
    assert set(found) == set(SPLIT_NAMES.values())
    for one, two in combinations(found, 2):
        assert not set(found[one]) & set(found[two])


def test_a_chat_is_the_prompt_of_arms_and_the_reply_that_training_learns(rows_by_form: Any) -> None:
    rows = {row["question_id"]: row for split in rows_by_form("chat").values() for row in split}
    for question in PLACED:
        learned = template.example(question)
        assert rows[question.question_id]["messages"] == learned["prompt"] + learned["completion"]


def test_sharegpt_says_what_chat_says(rows_by_form: Any) -> None:
    chats, other = rows_by_form("chat")["train"], rows_by_form("sharegpt")["train"]
    for chat, conversation in zip(chats, other, strict=True):
        human, gpt = conversation["conversations"]
        assert (human["from"], gpt["from"]) == ("human", "gpt")
        assert [human["value"], gpt["value"]] == [turn["content"] for turn in chat["messages"]]


def test_alpaca_has_the_context_as_input_and_only_there(rows_by_form: Any) -> None:
    rows = {row["question_id"]: row for row in rows_by_form("alpaca")["train"]}
    for question in (q for q in PLACED if q.split == "train"):
        row = rows[question.question_id]
        assert row["input"] == question.context
        assert one_line(question.question) in row["instruction"]
        assert "Zusammenhang" not in row["instruction"]
        assert row["output"] == template.example(question)["completion"][0]["content"]


def test_the_data_set_holds_the_questions_as_they_are(tmp_path: Path) -> None:
    joined = made(
        60, "choice", "train",
        joined=(Span(passage_id="p2", text="{{ span }}"),), tags=("special",),
        flags=("solved_closed_book",), type="criterion", difficulty="hard", revision=2,
        revised_by="Dr. Who", note="private",
    )  # fmt: skip
    out(tmp_path / "set", "dataset", [*QUESTIONS, joined])
    loaded = {row["question_id"]: row for split in load(tmp_path / "set").values() for row in split}
    for question in (*PLACED, joined):
        row = loaded[question.question_id]
        wanted = json.loads(question.model_dump_json(include=set(row) - {"licence"}))
        assert {name: row[name] for name in wanted} == wanted
    assert "Dr. Who" not in str(loaded)


def test_the_licence_is_the_questions_own_or_its_documents() -> None:
    questions = [
        made(1, "open", "train"),
        made(2, "open", "train", licence="MIT"),
        made(3, "open", "train", doc_id="b" * 16),
    ]
    for form in LOADED[:3]:
        data = next(file.data for file in files_of(questions, DOCUMENTS, form, "T") if file.rows)
        text = data.decode("utf-8")
        rows = json.loads(text) if form == "alpaca" else map(json.loads, text.splitlines())
        assert [row["licence"] for row in rows] == ["CC0", "MIT", ""]


def test_the_card_counts_what_left_and_what_stayed(tmp_path: Path) -> None:
    flagged = made(70, "choice", licence="MIT", flags=("solved_options_only",), set="exam|x",
                   doc_id="", revision=1)  # fmt: skip
    out(tmp_path / "set", "dataset", [*QUESTIONS, flagged])
    text = (tmp_path / "set" / "README.md").read_text("utf-8")
    assert "\n| test | new questions on documents" in text
    assert "| 9 | 4 | 5 |\n" in text
    assert "| duplicate | another question says the same | 1 |" in text
    assert "| no_key |" in text
    assert "Dropped, and not here: 2. Kept, but in no split, and not here either: 1." in text
    assert "| solved_options_only |" in text
    assert "| Blocks \\| {{ x }} | CC0 | 24 |" in text
    assert "| set exam\\|x | MIT | 1 |" in text
    assert "| written | writer@1 | 24 |" in text
    assert "Changed by a person: 1." in text
    assert "Not a medical device" in text


def test_the_cards_front_is_what_the_hub_reads(tmp_path: Path) -> None:
    out(tmp_path / "one", "dataset")
    front = front_of(tmp_path / "one")
    assert front["license"] == "cc0-1.0"
    assert front["pretty_name"] == TITLE
    assert front["language"] == ["en"]
    assert front["task_categories"] == ["question-answering", "multiple-choice"]
    assert front["size_categories"] == ["n<1K"]
    mixed = [*QUESTIONS, made(71, "choice", licence="MIT", language="de")]
    out(tmp_path / "two", "dataset", mixed)
    assert "license" not in front_of(tmp_path / "two")
    assert front_of(tmp_path / "two")["language"] == ["de", "en"]


@pytest.mark.parametrize(
    ("licence", "name"),
    [
        ("MIT (rawdata/medqa/LICENSE)", "mit"),
        ("CC BY 2.5 (BioASQ terms)", "cc-by-2.5"),
        ("CC BY-NC-ND 4.0", "cc-by-nc-nd-4.0"),
        ("under https://creativecommons.org/licenses/by-sa/4.0/, as stated", "cc-by-sa-4.0"),
        ("CC0", "cc0-1.0"),
        ("cc0 1.0 universal", "cc0-1.0"),
        ("All rights reserved", ""),
        ("", ""),
    ],
)
def test_licences_get_the_names_that_the_hub_has(licence: str, name: str) -> None:
    assert hub_licence(licence) == name


@pytest.mark.parametrize("form", FORMS)
def test_equal_questions_give_equal_bytes_in_any_order(form: str) -> None:
    once = files_of(QUESTIONS, DOCUMENTS, form, TITLE)
    assert files_of(QUESTIONS[::-1], DOCUMENTS, form, TITLE) == once
    assert rows_of(PLACED[::-1], form) == rows_of(PLACED, form)


@pytest.mark.parametrize("form", ["lm-eval", "inspect"])
def test_every_tested_set_and_tag_is_a_task_of_each_kind(tmp_path: Path, form: str) -> None:
    questions = [
        *QUESTIONS,
        made(80, "open", set="a b", tags=("special",)),
        made(81, "open", set="a_b"),
        made(82, "open", set="Prüfung"),
        made(83, "open", "train", set="never"),
    ]
    assert {n: rows for n, rows in out(tmp_path / "x", form, questions).items() if rows} == {
        "ecg_llm_written_test_open.jsonl": 4,
        "ecg_llm_written_test_choice.jsonl": 4,
        "ecg_llm_written_test_seen_open.jsonl": 4,
        "ecg_llm_written_test_seen_choice.jsonl": 4,
        "ecg_llm_a_b_test_open.jsonl": 1,
        "ecg_llm_a_b_test_open_2.jsonl": 1,
        "ecg_llm_pr_fung_test_open.jsonl": 1,
        "ecg_llm_special_test_open.jsonl": 1,
    }


def test_a_folder_is_written_anew_but_nothing_of_others_in_it(tmp_path: Path) -> None:
    assert out(tmp_path / "x", "chat") == out(tmp_path / "x", "chat")
    with pytest.raises(UsageError, match=r"not of this export \(test\.jsonl\)"):
        out(tmp_path / "x", "alpaca")
    assert not (tmp_path / "x" / "train.json").exists()
    # What is left of an older export would be read as if it were of this one.
    with pytest.raises(UsageError, match=r"test\.jsonl"):
        out(tmp_path / "x", "chat", [q for q in QUESTIONS if q.split != "test"])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        out(tmp_path / "file", "chat")


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="No kept question is in a split"):
        out(tmp_path / "x", "chat", STAYING)
    with pytest.raises(UsageError, match="No kept question is in a test split"):
        out(tmp_path / "x", "inspect", [q for q in QUESTIONS if q.split == "train"])
    with pytest.raises(UsageError, match=r"sharegtp.*sharegpt"):
        out(tmp_path / "x", "sharegtp")
    assert not (tmp_path / "x").exists()


def run(folder: Path, *arguments: object, **environment: str) -> None:
    """Run a peer in a folder as a user does, without a network, and fail with what it said."""
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=folder, env={**os.environ, **offline}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install --group peers")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano model, made where the tests of training make theirs."""
    sys.path.insert(0, str(TRAIN_TESTS))
    try:
        import tiny_study as here
    finally:
        sys.path.remove(str(TRAIN_TESTS))
    from ecg_llm.train import nano

    folder = tmp_path_factory.mktemp("model") / "tiny"
    nano.build(here.TEXTS, here.TINY, folder, seed=1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("form", ["chat", "sharegpt"])
def test_trl_trains_on_the_chats(tmp_path: Path, tiny: Path, form: str) -> None:
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    out(tmp_path / form, form)
    settings = SFTConfig(
        output_dir=str(tmp_path / "trained"), max_steps=1, per_device_train_batch_size=2,
        use_cpu=True, bf16=False, report_to=[], save_strategy="no", max_length=512,
        activation_checkpointing=False, dataloader_pin_memory=False,
    )  # fmt: skip
    data = load(tmp_path / form)
    trainer = SFTTrainer(
        model=str(tiny), args=settings, train_dataset=data["train"], eval_dataset=data["validation"]
    )
    assert trainer.train().training_loss > 0
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    learned = [tokenizer.decode(row["input_ids"]) for row in trainer.train_dataset]
    for question in (q for q in PLACED if q.split == "train"):
        assert any(one_line(question.question) in text for text in learned)


@pytest.mark.slow
def test_lm_evaluation_harness_gives_the_likelihoods_that_arms_give(
    tmp_path: Path, tiny: Path
) -> None:
    needs("lm_eval")
    from ecg_llm.local import LocalModel

    out(tmp_path / "tasks", "lm-eval")
    run(
        tmp_path, "lm_eval", "run", "--model", "hf", "--device", "cpu", "--batch_size", "4",
        "--model_args", f"pretrained={tiny},dtype=float32", "--apply_chat_template",
        "--include_path", "tasks", "--tasks", "ecg_llm",
        "--gen_kwargs", "max_gen_toks=4", "--output_path", tmp_path / "said", "--log_samples",
        HF_HOME=str(tmp_path / "hub"),
    )  # fmt: skip
    (said,) = (tmp_path / "said").glob("*/results_*.json")
    results = json.loads(said.read_text("utf-8"))["results"]
    names = {f"ecg_llm_written_{s}_{k}" for s in TESTED for k in ("open", "choice")}
    assert set(results) >= names
    model = LocalModel(str(tiny))
    for split in TESTED:
        asked = [q for q in PLACED if (q.split, q.kind) == (split, "choice")]
        own = model.likelihoods(
            [question_messages(Task(q, q.options)) for q in asked], [q.options for q in asked]
        )
        (log,) = said.parent.glob(f"samples_ecg_llm_written_{split}_choice_*.jsonl")
        samples = [json.loads(line) for line in log.read_text("utf-8").split("\n") if line]
        assert [s["doc"]["question_id"] for s in samples] == [q.question_id for q in asked]
        right = []
        for question, sample, likelihoods in zip(asked, samples, own, strict=True):
            prompt = question_messages(Task(question, question.options))[0]["content"]
            assert prompt in sample["arguments"]["gen_args_0"]["arg_0"]
            theirs = [float(reply[0][0]) for reply in sample["resps"]]
            ours = [found.logprob for found in likelihoods]
            assert theirs == pytest.approx(ours, abs=1e-2)
            right.append(max(range(4), key=ours.__getitem__) == LETTERS.index(question.answer))
        found = results[f"ecg_llm_written_{split}_choice"]
        assert found["sample_len"] == 4
        assert found["acc,none"] == pytest.approx(sum(right) / 4)
        assert "acc_norm,none" in found
        assert results[f"ecg_llm_written_{split}_open"]["sample_len"] == 4
        assert results[f"ecg_llm_written_{split}_open"]["chrf,none"] >= 0


@pytest.mark.slow
def test_inspect_scores_what_a_server_says_to_the_tasks(tmp_path: Path) -> None:
    needs("inspect_ai")
    out(tmp_path / "tasks", "inspect")
    tested = [q for q in PLACED if q.split in TESTED]
    wrong = {"open-test-00", "choice-test-00", "choice-test-01", "open-test_seen-03"}
    asked = set()

    def reply(messages: list[dict[str, str]], body: dict[str, Any]) -> str:
        text = messages[-1]["content"]
        (question,) = (q for q in tested if one_line(q.question) in text)
        assert question.context in text
        assert all(one_line(option) in text for option in question.options)
        asked.add(question.question_id)
        if question.kind == "open":
            return "zzz" if question.question_id in wrong else question.reference
        place = LETTERS.index(question.answer) + (question.question_id in wrong)
        return f"ANSWER: {LETTERS[place % 4]}"

    with FakeServer(reply) as server:
        run(
            tmp_path / "tasks", "inspect_ai", "eval", "ecg_llm.py", "--display", "none",
            "--model", "openai-api/local/fake", "--log-dir", tmp_path / "logs",
            "--log-format", "json",
            LOCAL_BASE_URL=server.base_url, LOCAL_API_KEY="none", XDG_DATA_HOME=str(tmp_path),
        )  # fmt: skip
    assert asked == {q.question_id for q in tested}
    scores = {}
    for path in (tmp_path / "logs").glob("*.json"):
        log = json.loads(path.read_text("utf-8"))
        assert log["status"] == "success"
        (score,) = log["results"]["scores"]
        metric = score["metrics"].get("accuracy") or score["metrics"]["mean"]
        scores[log["eval"]["task"]] = (log["results"]["completed_samples"], metric["value"])
        for sample in log["samples"]:
            assert sample["metadata"]["licence"] == "CC0"
    assert scores == {
        "ecg_llm_written_test_choice": (4, 0.5),
        "ecg_llm_written_test_open": (4, 0.75),
        "ecg_llm_written_test_seen_choice": (4, 1.0),
        "ecg_llm_written_test_seen_open": (4, 0.75),
    }
