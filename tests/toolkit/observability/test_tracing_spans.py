"""Spans: what hangs on what, across threads, coroutines and processes; and what others read of them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from toolkit.errors import InvalidInput
from toolkit.observability import NullTracer, Span, Tracer
from toolkit.observability.span_files import JsonLines, chrome_trace, read_spans


def test_spans_hang_on_the_one_around_them() -> None:
    seen: list[Span] = []
    ticks = iter(range(100))
    tracer = Tracer(seen.append, clock=lambda: next(ticks))
    with tracer.span("outer", step=3) as outer:
        with tracer.span("first"):
            pass
        with tracer.span("second") as second:
            assert second.end_ns is None
    with tracer.span("alone") as alone:
        pass
    assert [span.name for span in seen] == ["first", "second", "outer", "alone"]
    assert [span.parent_id for span in seen] == [outer.span_id, outer.span_id, None, None]
    assert {span.trace_id for span in seen[:3]} == {outer.trace_id} != {alone.trace_id}
    assert (outer.start_ns, outer.end_ns) == (0, 5)
    assert outer.attributes == {"step": 3}


def test_an_exception_closes_its_span_and_goes_on() -> None:
    seen: list[Span] = []
    tracer = Tracer(seen.append)
    with pytest.raises(KeyError), tracer.span("outer"), tracer.span("inner"):
        raise KeyError("x")
    assert [(span.name, span.status, span.exception) for span in seen] == [
        ("inner", "error", "KeyError"), ("outer", "error", "KeyError"),
    ]  # fmt: skip
    with tracer.span("after") as after:
        assert after.parent_id is None


def test_ids_follow_from_a_seed() -> None:
    def made(**options: object) -> list[tuple[str, str]]:
        seen: list[Span] = []
        tracer = Tracer(seen.append, **options)  # type: ignore[arg-type]
        for _ in range(3):
            with tracer.span("a"):
                pass
        return [(span.trace_id, span.span_id) for span in seen]

    assert made(seed=1) == made(seed=1) != made(seed=2)
    assert not set(made(seed=1)) & set(made(seed=1, worker="other"))
    assert made() != made()
    assert all(len(trace) == 32 and len(span) == 16 for trace, span in made(seed=1))


def test_threads_and_coroutines_have_parents_of_their_own() -> None:
    seen: list[Span] = []
    tracer = Tracer(seen.append)

    async def work(name: str) -> None:
        with tracer.span(name):
            await asyncio.sleep(0)
            with tracer.span(f"{name} inside"):
                await asyncio.sleep(0)

    async def both() -> None:
        with tracer.span("all"):
            await asyncio.gather(work("a"), work("b"))

    asyncio.run(both())
    by_name = {span.name: span for span in seen}
    for name in "ab":
        assert by_name[f"{name} inside"].parent_id == by_name[name].span_id
        assert by_name[name].parent_id == by_name["all"].span_id
    started: list[str | None] = []

    def child(carrier: dict[str, str]) -> None:
        with tracer.extract(carrier), tracer.span("child") as span:
            started.append(span.parent_id)

    with tracer.span("main") as main:
        for carrier in (tracer.inject(), {}):
            thread = threading.Thread(target=child, args=(carrier,))
            thread.start()
            thread.join()
    assert started == [main.span_id, None]


_WORKER = """
import json, sys
from toolkit.observability import Tracer
seen = []
tracer = Tracer(seen.append)
with tracer.extract(json.loads(sys.argv[1])), tracer.span("child"):
    pass
print(seen[0].trace_id, seen[0].parent_id)
"""


def test_another_process_hangs_on_ours() -> None:
    tracer = Tracer()
    with tracer.span("parent") as parent:
        carrier = json.dumps(tracer.inject())
    said = subprocess.run([sys.executable, "-c", _WORKER, carrier], capture_output=True, text=True, check=True)
    assert said.stdout.split() == [parent.trace_id, parent.span_id]


@pytest.mark.parametrize("header", [
    "", "00-0-0-01", f"00-{'0' * 32}-{'1' * 16}-01", f"00-{'1' * 32}-{'0' * 16}-01", f"99-{'1' * 32}-{'1' * 16}-01",
])  # fmt: skip
def test_headers_that_no_trace_hangs_on(header: str) -> None:
    with pytest.raises(InvalidInput, match="no trace can hang on"), Tracer().extract({"traceparent": header}):
        pytest.fail("entered")


def test_no_header_is_no_parent() -> None:
    tracer = Tracer()
    assert tracer.inject() == {}
    with tracer.extract({}), tracer.span("alone") as span:
        assert span.parent_id is None


def test_lines_survive_a_kill_and_browsers_draw_them(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"
    with JsonLines(file) as lines:
        tracer = Tracer(lines)
        with tracer.span("outer", model="digits"), tracer.span("inner", loss=float("nan")):
            pass
    found = read_spans(file)
    assert [span.name for span in found] == ["inner", "outer"]
    assert json.loads(chrome_trace(found), parse_constant=pytest.fail)["traceEvents"][1]["args"]["loss"] == "nan"
    with file.open("a") as half:
        half.write('{"name": "cut')
    assert [span.span_id for span in read_spans(file)] == [span.span_id for span in found]  # NaN is not itself
    drawn = json.loads(chrome_trace(found))["traceEvents"]
    assert [(event["name"], event["ph"]) for event in drawn] == [("outer", "X"), ("inner", "X")]
    outer, inner = drawn
    assert outer["ts"] <= inner["ts"]
    assert outer["ts"] + outer["dur"] >= inner["ts"] + inner["dur"]
    file.write_text("{}\n" + file.read_text())
    with pytest.raises(InvalidInput, match=r"spans\.jsonl:1 is no span"):
        read_spans(file)
    with pytest.raises(InvalidInput, match="cannot read"):
        read_spans(tmp_path / "none")
    with pytest.raises(InvalidInput, match="cannot write"):
        JsonLines(tmp_path / "none" / "x")
    (tmp_path / "thesis").write_text("years of work")
    with pytest.raises(InvalidInput, match="is no file of spans"):
        JsonLines(tmp_path / "thesis")
    assert (tmp_path / "thesis").read_text() == "years of work"


def test_a_file_cut_at_every_byte_of_its_last_line_takes_further_spans(tmp_path: Path) -> None:
    file = tmp_path / "spans.jsonl"

    def write(name: str) -> None:
        with JsonLines(file) as lines, Tracer(lines).span(name, note="ümlaut"):
            pass

    for name in ("first", "second"):
        write(name)
    content = file.read_bytes()
    for end in range(content.index(b"\n") + 1, len(content)):
        file.write_bytes(content[:end])
        assert [span.name for span in read_spans(file)] == ["first"]
        write("third")
        assert [span.name for span in read_spans(file)] == ["first", "third"]


def test_a_tracer_that_nobody_reads() -> None:
    null = NullTracer()
    with null.span("a", step=1), null.span("b"), null.extract({"traceparent": "anything"}):
        assert null.inject() == {}
