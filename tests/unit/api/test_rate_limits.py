"""Token buckets: what passes in any stretch of time is bounded, and waiting as told is enough."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoserve.api.limits import RateLimits, TokenBucket
from evoserve.api.record import RequestRecord
from evoserve.errors import RateLimited


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def record(key_name: str = "a") -> RequestRecord:
    return RequestRecord("id", key_name=key_name)


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 100), st.integers(1, 1200)), max_size=50),
)
def test_a_bucket_never_gives_more_than_it_got(
    per_minute: int, asks: list[tuple[float, int]]
) -> None:
    now, given_out, largest = 0.0, 0.0, 0.0
    bucket = TokenBucket(per_minute, now)
    for passed_s, amount in asks:
        now += passed_s
        if bucket.wait_s(amount, now) == 0:
            bucket.spend(amount, now)
            given_out += amount
            largest = max(largest, amount)
    assert given_out <= per_minute * (1 + now / 60) + max(0.0, largest - per_minute) + 1e-6


@given(st.integers(1, 1000), st.floats(0, 3000), st.integers(1, 2000))
def test_waiting_as_told_is_enough(per_minute: int, spent: float, amount: int) -> None:
    bucket = TokenBucket(per_minute, 0.0)
    bucket.spend(spent, 0.0)
    wait_s = bucket.wait_s(amount, 0.0)
    assert bucket.wait_s(amount, wait_s + 1e-6) == pytest.approx(0, abs=1e-6)
    if wait_s > 1e-3:
        assert bucket.wait_s(amount, wait_s / 2) > 0


def test_requests_are_counted_by_key() -> None:
    clock = Clock()
    rates = RateLimits(2, None, clock)
    first = record()
    rates.take_request(first)
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert first.headers["x-ratelimit-remaining-requests"] == "1"
    assert first.headers["x-ratelimit-reset-requests"] == "30.000s"
    rates.take_request(record())
    with pytest.raises(RateLimited, match="2 requests per minute") as caught:
        rates.take_request(record())
    assert caught.value.retry_after_s == pytest.approx(30)
    rates.take_request(record("b"))
    clock.now = 30
    rates.take_request(record())
    assert rates.num_refused == {"requests": 1, "tokens": 0}


def test_generated_tokens_are_paid_back_before_more_are_given() -> None:
    clock = Clock()
    rates = RateLimits(None, 60, clock)
    rates.take_prompt(record(), 10)
    rates.add_generated(record(), 110)
    with pytest.raises(RateLimited) as caught:
        rates.take_prompt(record(), 1)
    assert caught.value.retry_after_s == pytest.approx(61)
    clock.now = 61
    rates.take_prompt(record(), 1)


def test_a_prompt_above_the_whole_limit_waits_for_a_full_bucket() -> None:
    clock = Clock()
    rates = RateLimits(None, 60, clock)
    rates.take_prompt(record(), 600)
    with pytest.raises(RateLimited):
        rates.take_prompt(record(), 600)
    clock.now = 600
    rates.take_prompt(record(), 600)


def test_without_limits_nothing_is_kept() -> None:
    rates, asking = RateLimits(), record()
    for _ in range(1000):
        rates.take_request(asking)
        rates.take_prompt(asking, 10**6)
    assert asking.headers == {}
