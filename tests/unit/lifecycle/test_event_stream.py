"""What a stream of events sends: always encodable, numbered by boot, and honest about gaps."""

from types import SimpleNamespace

from evoserve.api.recipes import _follow
from evoserve.lifecycle.events import EventLog


async def read(log: EventLog, last: str, count: int) -> list[bytes]:
    """The first parts that a stream after `last` sends, without the greeting."""
    lifecycle = SimpleNamespace(events=log)
    service = SimpleNamespace(lifecycle=lifecycle, is_draining=lambda: False)
    stream = _follow(service, last)
    await anext(stream)
    parts = [await anext(stream) for _ in range(count)]
    await stream.aclose()
    return parts


async def test_a_name_that_is_not_utf_8_is_sent_all_the_same() -> None:
    log = EventLog()
    log.publish("watch", "a\udcff.json", error="wrong")
    (sent,) = await read(log, "0", 1)
    assert b'"watch":"a?.json"' in sent
    assert sent.startswith(f"id: {log.boot}-1\n".encode())


async def test_a_gap_is_told_before_what_is_kept() -> None:
    log = EventLog()
    log.publish("recipe", "a@1")
    gap, first = await read(log, "0ldb00t-1", 2)
    assert gap == f'id: {log.boot}-0\nevent: gap\ndata: {{"gap":true}}\n\n'.encode()
    assert first.startswith(f"id: {log.boot}-1\n".encode())
