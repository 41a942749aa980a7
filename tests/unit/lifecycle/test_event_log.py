"""Events: kept, numbered, followed by many; nobody who is slow costs memory without bound."""

import asyncio

from evoserve.lifecycle.events import KEPT, MAX_BEHIND, EventLog


def numbers(queue: "asyncio.Queue") -> list[int | None]:
    found = []
    while not queue.empty():
        event = queue.get_nowait()
        found.append(None if event is None else event.number)
    return found


async def test_a_follower_gets_what_it_missed_once_and_in_order() -> None:
    log = EventLog()
    for _ in range(5):
        log.publish("recipe", "a@1")
    with log.follow(after=3) as queue, log.follow() as fresh:
        log.publish("recipe", "a@1")
        assert numbers(queue) == [4, 5, 6]
        assert numbers(fresh) == [6]


async def test_only_the_last_events_are_kept() -> None:
    log = EventLog()
    for _ in range(KEPT + 10):
        log.publish("recipe", "a@1")
    with log.follow(after=0) as queue:
        assert numbers(queue) == list(range(11, KEPT + 11))


async def test_a_number_from_before_a_restart_misses_nothing() -> None:
    log = EventLog()
    log.publish("recipe", "a@1")
    log.publish("recipe", "a@1")
    with log.follow(after=900) as queue:
        assert numbers(queue) == [1, 2]


async def test_a_follower_that_is_too_far_behind_is_let_go_and_others_are_not() -> None:
    log = EventLog()
    with log.follow() as slow, log.follow() as quick:
        for _ in range(MAX_BEHIND + 100):
            log.publish("recipe", "a@1")
            quick.get_nowait()
        seen = numbers(slow)
        assert seen == [*range(1, MAX_BEHIND + 1), None]


async def test_an_id_from_before_a_restart_replays_all_and_is_a_gap() -> None:
    old, log = EventLog(), EventLog()
    for _ in range(5):
        old.publish("recipe", "a@1")
        log.publish("recipe", "a@1")
    last = f"{old.boot}-5"
    with log.follow(log.place(last)) as queue:
        assert numbers(queue) == [1, 2, 3, 4, 5]
    assert log.is_gap(last)
    assert not log.is_gap(f"{log.boot}-5")
    assert log.place(f"{log.boot}-5") == log.place("5") == 5
    assert log.place("five") is None


async def test_what_is_no_longer_kept_is_a_gap() -> None:
    log = EventLog()
    for _ in range(KEPT + 10):
        log.publish("recipe", "a@1")
    assert log.is_gap(f"{log.boot}-9")
    assert not log.is_gap(f"{log.boot}-10")
    assert log.start == f"{log.boot}-10"
