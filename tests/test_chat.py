import multiprocessing
import os
import signal
import socket
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ecg_llm import chat, endpoints, privacy
from ecg_llm.chat import ApiModel, without_thinking
from ecg_llm.config import ApiModelConfig
from ecg_llm.contracts import Decoding, EgressError, Message, ServerError, StepError, UsageError
from ecg_llm.testing import FakeServer, check_chat_model, check_streaming

SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


def echo(messages, body):
    return "echo: " + messages[-1]["content"]


def settings(server, **changes):
    return ApiModelConfig(
        kind="api", base_url=server.base_url, model="fake", revision="r1"
    ).model_copy(update=changes)


def ask(text) -> list[Message]:
    return [{"role": "user", "content": text}]


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """The length of the back-off is never the thing under test."""
    import openai._base_client as client

    monkeypatch.setattr(client, "INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setattr(endpoints, "PAUSE", 0.01)


def timeless(replies):
    """Return the replies without the time that they took."""
    return [replace(reply, seconds=0.0) for reply in replies]


def test_keeps_the_contract_of_a_chat_model():
    with FakeServer(echo) as server:
        check_chat_model(ApiModel(settings(server)))


def test_replies_come_in_the_order_of_the_prompts():
    def slow_first(messages, body):
        time.sleep(0.2 if messages[-1]["content"] == "0" else 0)
        return messages[-1]["content"]

    with FakeServer(slow_first) as server:
        replies = ApiModel(settings(server)).generate([ask(str(i)) for i in range(9)], Decoding())
    assert [reply.text for reply in replies] == [str(i) for i in range(9)]


def test_prompts_are_sent_concurrently():
    with FakeServer(echo, delay=0.3) as server:
        start = time.monotonic()
        ApiModel(settings(server, concurrency=8)).generate(
            [ask(str(i)) for i in range(8)], Decoding()
        )
    assert time.monotonic() - start < 8 * 0.3 / 2


def test_a_second_call_asks_nothing_even_from_another_address(tmp_path):
    cache = tmp_path / "cache.sqlite"
    prompts = [ask("one"), ask("two"), ask("one")]
    with FakeServer(echo) as server:
        first = ApiModel(settings(server), cache).generate(prompts, Decoding())
        assert len(server.requests) == 2  # equal prompts are asked once
    with FakeServer(echo) as server:
        model = ApiModel(settings(server), cache)
        again = model.generate(prompts, Decoding())
        assert again == timeless(first)  # a kept reply takes no time
        assert server.requests == []
        assert model.usage.cached == 2
        assert model.usage.cost == 0


@pytest.mark.parametrize(
    ("decoding", "schema", "revision"),
    [
        (Decoding(seed=1), None, "r1"),
        (Decoding(temperature=0.5), None, "r1"),
        (Decoding(), SCHEMA, "r1"),
        (Decoding(), None, "r2"),
    ],
)
def test_whatever_decides_the_reply_is_in_the_cache_key(tmp_path, decoding, schema, revision):
    cache = tmp_path / "cache.sqlite"
    with FakeServer(echo) as server:
        ApiModel(settings(server), cache).generate([ask("one")], Decoding())
        ApiModel(settings(server, revision=revision), cache).generate(
            [ask("one")], decoding, schema
        )
        assert len(server.requests) == 2


def test_a_passing_failure_is_retried():
    with FakeServer(echo, fail_first=3, fail_status=503) as server:
        (reply,) = ApiModel(settings(server)).generate([ask("one")], Decoding())
        assert reply.text == "echo: one"
        assert len(server.requests) == 4


def test_a_lasting_failure_is_an_error_row_and_is_not_cached(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with FakeServer(echo, fail_first=4, fail_status=500) as server:
        model = ApiModel(settings(server), cache)
        (reply,) = model.generate([ask("one")], Decoding())
        assert reply.status == "error"
        assert "failing on purpose" in reply.reason
        (reply,) = model.generate([ask("one")], Decoding())
        assert reply.status == "ok"


def test_a_server_that_fails_everything_stops_the_run_before_all_is_asked():
    with FakeServer(echo, fail_first=10**6, fail_status=500) as server:
        model = ApiModel(settings(server))
        with pytest.raises(ServerError, match="in a row"):
            model.generate([ask(str(i)) for i in range(500)], Decoding())
        assert len(server.requests) < 200


def test_a_server_that_is_down_is_named():
    url = f"http://127.0.0.1:{closed_port()}/v1"
    model = ApiModel(ApiModelConfig(kind="api", base_url=url, model="fake"))
    with pytest.raises(ServerError, match=url):
        model.generate([ask("one")], Decoding())


def test_a_server_that_goes_down_later_gives_error_rows():
    with FakeServer(echo) as server:
        model = ApiModel(settings(server))
        model.generate([ask("one")], Decoding())
    assert [r.status for r in model.generate([ask("two")], Decoding())] == ["error"]


def test_a_timeout_is_an_error_row():
    with FakeServer(echo, delay=0.3) as server:
        model = ApiModel(settings(server, timeout=0.05))
        (reply,) = model.generate([ask("one")], Decoding())
    assert reply.status == "error"
    assert "timed out" in reply.reason


def test_a_wrong_key_and_a_wrong_model_end_the_step(monkeypatch):
    monkeypatch.setenv("SOME_KEY", "right")
    with FakeServer(echo, key="right") as server:
        (reply,) = ApiModel(settings(server, key_env="SOME_KEY")).generate([ask("a")], Decoding())
        assert reply.status == "ok"
        monkeypatch.setenv("SOME_KEY", "wrong-secret")
        with pytest.raises(ServerError, match="SOME_KEY") as caught:
            ApiModel(settings(server, key_env="SOME_KEY")).generate([ask("a")], Decoding())
        assert "wrong-secret" not in str(caught.value)
        monkeypatch.setenv("SOME_KEY", "right")
        with pytest.raises(ServerError, match="other"):
            ApiModel(settings(server, key_env="SOME_KEY", model="other")).generate(
                [ask("a")], Decoding()
            )


def test_a_key_that_is_not_set_is_a_usage_error(monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    with FakeServer(echo) as server, pytest.raises(UsageError, match="NO_SUCH_KEY"):
        ApiModel(settings(server, key_env="NO_SUCH_KEY")).generate([ask("a")], Decoding())


def test_a_server_that_does_not_speak_chat_is_named():
    with FakeServer(echo) as server:
        wrong = settings(server, base_url=server.base_url + "/wrong")
        with pytest.raises(ServerError, match="base_url"):
            ApiModel(wrong).generate([ask("a")], Decoding())


@pytest.mark.parametrize(
    ("finish", "text", "status"),
    [
        ("length", "half an ans", "truncated"),
        ("length", "<think>still thinking", "truncated"),
        ("content_filter", "", "refused"),
        ("stop", "", "error"),
        ("stop", "<think>only thoughts</think>", "error"),
        ("stop", "<think>B or C?</think>\nC", "ok"),
    ],
)
def test_every_end_of_a_reply_is_told(finish, text, status):
    with FakeServer(lambda messages, body: text, finish_reason=finish) as server:
        (reply,) = ApiModel(settings(server)).generate([ask("a")], Decoding())
    assert reply.status == status
    assert "think" not in reply.text
    assert (reply.reason == "") == (status == "ok")


def test_thinking_is_removed_also_where_the_template_opened_it():
    assert without_thinking("maybe A</think>B") == "B"
    assert without_thinking("A <think>x</think> B <thinking>y</thinking>") == "A  B"
    assert without_thinking("a QRS < 120 ms") == "a QRS < 120 ms"


def test_a_schema_is_sent_and_given_up_once_for_a_server_without_schemas():
    with FakeServer(echo) as server:
        ApiModel(settings(server)).generate([ask("a")], Decoding(), SCHEMA)
        assert server.requests[0]["response_format"]["json_schema"]["schema"] == SCHEMA
    with FakeServer(echo, rejects=["response_format"]) as server:
        model = ApiModel(settings(server, concurrency=1))
        replies = model.generate([ask("a"), ask("b"), ask("c")], Decoding(), SCHEMA)
        assert [reply.status for reply in replies] == ["ok"] * 3
        formats = [body.get("response_format", {}).get("type") for body in server.requests]
        assert formats == ["json_schema", "json_object", None, None, None]


def test_a_server_that_knows_json_but_no_schemas_is_asked_for_json():
    with FakeServer(echo, rejects=["json_schema"]) as server:
        model = ApiModel(settings(server, concurrency=1))
        model.generate([ask("a"), ask("b")], Decoding(), SCHEMA)
        formats = [body["response_format"]["type"] for body in server.requests]
        assert formats == ["json_schema", "json_object", "json_object"]


@pytest.mark.parametrize("names", [("temperature",), ("seed", "top_p")])
def test_a_parameter_that_the_server_refuses_by_name_is_left_out(names):
    """Reasoning models take no temperature, some gateways no seed."""
    with FakeServer(echo, rejects=names) as server:
        model = ApiModel(settings(server, concurrency=1))
        replies = model.generate([ask("a"), ask("b")], Decoding(temperature=0.5, top_p=0.9))
        assert [reply.status for reply in replies] == ["ok"] * 2
        assert len(server.requests) == 2 + len(names)
        assert not set(names) & set(server.requests[-1])
        assert server.requests[-1]["messages"] == ask("b")


@pytest.mark.parametrize("fault", ["cut", "broken"])
def test_a_body_that_is_no_completion_is_asked_for_again(fault):
    with FakeServer(echo, fault=lambda number, body: fault if number == 2 else "") as server:
        model = ApiModel(settings(server, concurrency=1))
        replies = model.generate([ask("a"), ask("b")], Decoding())
        assert [reply.text for reply in replies] == ["echo: a", "echo: b"]
        assert len(server.requests) == 3


def test_a_stalled_request_is_asked_again_and_then_a_row(tmp_path):
    with FakeServer(
        echo, fault=lambda number, body: "stall" if body["messages"] == ask("b") else ""
    ) as server:
        model = ApiModel(settings(server, timeout=0.2, concurrency=2), tmp_path / "cache.sqlite")
        good, bad = model.generate([ask("a"), ask("b")], Decoding())
        assert good.text == "echo: a"
        assert (bad.status, bad.attempts) == ("error", 4)
        assert "timed out" in bad.reason
        asked = len(server.requests)
        assert asked == 5
        model.generate([ask("a")], Decoding())
        assert len(server.requests) == asked


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
         {"type": "text", "text": "B"}],
        "<think>A? No.</think>B",
        "<thought>A?</thought>\n\nB",
        "<|channel|>analysis<|message|>A? No.<|end|><|start|>assistant<|channel|>final<|message|>B",
        "<seed:think>A</seed:think>B",
    ],
)  # fmt: skip
def test_thoughts_in_whatever_shape_are_no_part_of_the_reply(content):
    with FakeServer(lambda messages, body: content) as server:
        (reply,) = ApiModel(settings(server)).generate([ask("a")], Decoding())
    assert (reply.text, reply.status) == ("B", "ok")


def test_replies_are_yielded_as_they_come():
    def slow_first(messages, body):
        time.sleep(0.3 if messages[-1]["content"] == "0" else 0)
        return messages[-1]["content"]

    with FakeServer(slow_first) as server:
        model = ApiModel(settings(server, concurrency=4))
        places = [place for place, _ in model.replies([ask(str(i)) for i in range(4)], Decoding())]
    assert sorted(places) == [0, 1, 2, 3]
    assert places[-1] == 0


def test_another_bad_request_is_an_error_row_and_keeps_the_schema():
    with FakeServer(echo, fail_first=3, fail_status=400) as server:
        model = ApiModel(settings(server))
        (reply,) = model.generate([ask("a")], Decoding(), SCHEMA)
        assert reply.status == "error"
        model.generate([ask("b")], Decoding(), SCHEMA)
        assert "response_format" in server.requests[-1]


def test_usage_and_cost_are_counted():
    with FakeServer(lambda messages, body: "three words here") as server:
        model = ApiModel(settings(server, price_in=1e6, price_out=2e6))
        model.generate([ask("one two"), ask("one two three")], Decoding())
    assert (model.usage.tokens_in, model.usage.tokens_out) == (5, 6)
    assert model.usage.cost == 5 + 12


def test_an_address_that_the_study_does_not_allow_is_refused():
    config = ApiModelConfig(kind="api", base_url="http://192.0.2.7:9/v1", model="fake")
    with privacy.guard([]), pytest.raises(EgressError, match=r"192\.0\.2\.7"):
        ApiModel(config).generate([ask("a")], Decoding())


def test_a_file_that_is_no_cache_is_named(tmp_path):
    cache = tmp_path / "cache.sqlite"
    cache.write_bytes(b"this is not a database at all" * 50)
    with FakeServer(echo) as server, pytest.raises(StepError, match=r"cache\.sqlite"):
        ApiModel(settings(server), cache).generate([ask("a")], Decoding())


def _ask_for_ever(url: str, cache: Path) -> None:
    model = ApiModel(ApiModelConfig(kind="api", base_url=url, model="fake", concurrency=2), cache)
    model.generate([ask(str(i)) for i in range(2000)], Decoding())


def test_a_kill_loses_only_replies_in_flight(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with FakeServer(echo, delay=0.01) as server:
        process = multiprocessing.get_context("spawn").Process(
            target=_ask_for_ever, args=(server.base_url, cache)
        )
        process.start()
        deadline = time.monotonic() + 30
        while len(server.requests) < 50 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        process.close()
        asked = len(server.requests)
        kept = sqlite3.connect(cache)
        count = kept.execute("SELECT count(*) FROM replies").fetchone()[0]
        kept.close()
        assert asked - 6 <= count <= asked
        config = ApiModelConfig(kind="api", base_url=server.base_url, model="fake")
        model = ApiModel(config, cache)
        model.generate([ask(str(i)) for i in range(asked)], Decoding())
        assert model.usage.cached == count


def test_counts_of_tokens_are_upper_estimates():
    model = ApiModel(ApiModelConfig(kind="api", base_url="http://127.0.0.1:9/v1", model="fake"))
    text = "First-degree AV block is a PR interval longer than 200 ms."
    assert model.count_tokens(["", "abcd", text])[:2] == [0, 2]
    assert model.count_tokens([text])[0] >= len(text.split())
    assert chat.CHARACTERS_PER_TOKEN == 3


def test_several_models_may_open_one_new_cache_at_once(tmp_path):
    with FakeServer(echo) as server, ThreadPoolExecutor(8) as pool:
        for n in range(10):
            place = tmp_path / f"{n}.sqlite"
            models = [ApiModel(settings(server, revision=str(i)), place) for i in range(8)]
            asked = [pool.submit(m.generate, [ask("a")], Decoding()) for m in models]
            assert all(future.result()[0].text == "echo: a" for future in asked)


def test_attempts_are_the_requests_that_a_reply_took():
    with FakeServer(echo, fail_first=2, fail_status=429) as server:
        (reply,) = ApiModel(settings(server)).generate([ask("a")], Decoding())
        assert (reply.text, reply.attempts) == ("echo: a", 3)
    with FakeServer(echo) as server:
        replies = ApiModel(settings(server)).generate([ask("a"), ask("b")], Decoding())
        assert [reply.attempts for reply in replies] == [1, 1]


def test_each_prompt_may_have_a_schema_of_its_own():
    other = SCHEMA | {"required": []}
    with FakeServer(echo) as server:
        model = ApiModel(settings(server, concurrency=1))
        dict(model.replies([ask("a"), ask("b")], Decoding(), [SCHEMA, other]))
        sent = [body["response_format"]["json_schema"]["schema"] for body in server.requests]
    assert sent == [SCHEMA, other]


def test_a_server_that_breaks_off_is_not_said_to_be_absent(monkeypatch):
    with FakeServer(echo, fault=lambda number, body: "cut") as server:
        (reply,) = ApiModel(settings(server)).generate([ask("a")], Decoding())
        assert (reply.status, reply.attempts, len(server.requests)) == ("error", 4, 4)


def test_seconds_are_those_of_the_request_with_its_retries_and_are_not_kept(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with FakeServer(echo, delay=0.1, fail_first=1) as server:
        (reply,) = ApiModel(settings(server), cache).generate([ask("a")], Decoding())
        assert 0.2 <= reply.seconds < 5
        (kept,) = ApiModel(settings(server), cache).generate([ask("a")], Decoding())
        assert kept == replace(reply, seconds=0.0)
    with closing(sqlite3.connect(cache)) as file:
        assert "seconds" not in file.execute("SELECT reply FROM replies").fetchone()[0]


def stream(model, text="a", decoding=Decoding()):  # noqa: B008  # frozen
    pieces = []
    reply = model.streamed(ask(text), decoding, pieces.append)
    return reply, pieces


def test_a_stream_keeps_the_contract():
    with FakeServer(echo) as server:
        check_streaming(ApiModel(settings(server)))


def test_a_streamed_reply_comes_in_pieces_with_its_usage_and_is_kept(tmp_path):
    cache = tmp_path / "cache.sqlite"
    with FakeServer(echo, delay=0.02) as server:
        model = ApiModel(settings(server, price_in=1e6), cache)
        began, times = time.monotonic(), []
        reply = model.streamed(
            ask("a longer text"), Decoding(), lambda piece: times.append(time.monotonic())
        )
        assert len(times) > 3
        assert times[0] - began < (times[-1] - began) / 2
        assert (model.usage.tokens_in, model.usage.tokens_out, model.usage.cost) == (3, 4, 3)
        (plain,) = ApiModel(settings(server)).generate([ask("a longer text")], Decoding())
        assert timeless([reply]) == timeless([plain])
        asked = len(server.requests)
        again, pieces = stream(ApiModel(settings(server), cache), "a longer text")
        assert (again.text, pieces, again.seconds) == (reply.text, [reply.text], 0.0)
        assert ApiModel(settings(server), cache).generate([ask("a longer text")], Decoding())
        assert len(server.requests) == asked


@pytest.mark.parametrize(
    ("content", "finish", "said"),
    [
        ("<think>A? <b>no</b>, B.</think>\n\nB, as the QRS is < 120 ms.", "stop",
         "B, as the QRS is < 120 ms."),
        ("First.<thinking>hm</thinking> Then <5.", "stop", "First. Then <5."),
        ("<|channel|>analysis<|message|>A? No.<|end|><|start|>assistant<|channel|>final<|message|>"
         "It is B.", "stop", "It is B."),
        ("<think>for ever", "length", ""),
        ("Cut in the mid", "length", "Cut in the mid"),
        ("", "stop", ""),
        ("No.", "content_filter", "No."),
        ([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
          {"type": "text", "text": "B"}], "stop", "B"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("piece", [1, 7])
def test_no_thought_is_said_and_the_reply_is_that_of_generate(content, finish, said, piece):
    with FakeServer(lambda messages, body: content, finish_reason=finish, piece=piece) as server:
        model = ApiModel(settings(server))
        reply, pieces = stream(model)
        assert "".join(pieces) == said
        assert timeless([reply]) == timeless(model.generate([ask("a")], Decoding()))


def test_thoughts_without_a_start_are_followed_by_the_reply_apart():
    with FakeServer(lambda messages, body: "Maybe A.</think>It is B.") as server:
        reply, pieces = stream(ApiModel(settings(server)))
    assert reply.text == "It is B."
    assert "".join(pieces).endswith("\n\nIt is B.")


@pytest.mark.parametrize("options", [{"rejects": ["stream"]}, {"streams": False}])
def test_a_server_that_cannot_stream_gives_the_whole_reply_at_once(options):
    with FakeServer(echo, **options) as server:
        model = ApiModel(settings(server))
        reply, pieces = stream(model)
        assert (reply.text, reply.status, pieces) == ("echo: a", "ok", ["echo: a"])
        asked = len(server.requests)
        assert stream(model, "b")[0].text == "echo: b"
        assert len(server.requests) == asked + 1  # it is not tried again


def test_a_server_without_usage_in_streams_streams_all_the_same():
    with FakeServer(echo, rejects=["stream_options"]) as server:
        reply, pieces = stream(ApiModel(settings(server)))
        assert (reply.text, reply.tokens_out) == ("echo: a", 0)
        assert len(pieces) > 1


@pytest.mark.parametrize("fault", ["cut", "broken"])
def test_a_stream_that_breaks_before_anything_is_said_is_asked_for_again(fault):
    text = "<think>" + "hm " * 20 + "</think>It is B."
    with FakeServer(
        lambda messages, body: text, fault=lambda number, body: fault if number == 1 else ""
    ) as server:
        reply, pieces = stream(ApiModel(settings(server)))
        assert (reply.text, reply.status, reply.attempts) == ("It is B.", "ok", 2)
        assert "".join(pieces) == "It is B."


def test_a_stream_that_breaks_off_later_is_an_error_with_the_text_so_far(tmp_path):
    with FakeServer(echo, fault=lambda number, body: "cut") as server:
        model = ApiModel(settings(server), tmp_path / "cache.sqlite")
        reply, pieces = stream(model, "a text that is long enough")
        assert reply.status == "error"
        assert "broke off" in reply.reason
        assert "echo: a text that is long enough".startswith(reply.text)
        assert "".join(pieces) == reply.text != ""
        assert len(server.requests) == 1
        stream(model, "a text that is long enough")
        assert len(server.requests) == 2  # it was not kept


def test_a_stream_from_a_server_that_fails_is_an_error_row_and_one_that_is_absent_is_named():
    with FakeServer(echo, fail_first=10, fail_status=503) as server:
        reply, pieces = stream(ApiModel(settings(server)))
        assert (reply.status, pieces) == ("error", [])
    url = f"http://127.0.0.1:{closed_port()}/v1"
    with pytest.raises(ServerError, match=url):
        stream(ApiModel(ApiModelConfig(kind="api", base_url=url, model="fake")))
    with FakeServer(echo) as server, pytest.raises(ServerError, match="base_url"):
        stream(ApiModel(settings(server, base_url=server.base_url + "/wrong")))


def test_half_a_character_in_a_reply_can_be_stored(tmp_path):
    with FakeServer(lambda messages, body: "half \ud83d end") as server:
        model = ApiModel(settings(server), tmp_path / "cache.sqlite")
        (reply,) = model.generate([ask("a")], Decoding())
    assert reply.text.encode("utf-8") == b"half ? end"
