"""How much each key may ask for: requests and tokens per minute, and the size of one request."""

import time
from collections.abc import Callable

from evoserve.api.choice import Call
from evoserve.api.record import RequestRecord
from evoserve.config import Settings
from evoserve.errors import RateLimited, RequestError


class TokenBucket:
    """Fills at `per_minute`, holds a minute's worth, may go into debt.

    (A leaky bucket as a meter; debt is what a request used beyond what was known at its start.)
    """

    def __init__(self, per_minute: int, now: float) -> None:
        """Full."""
        self.capacity = per_minute
        self._level = float(per_minute)
        self._now = now

    def level(self, now: float) -> float:
        """What is left, negative in debt."""
        gained = (now - self._now) * self.capacity / 60
        self._level = min(float(self.capacity), self._level + gained)
        self._now = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until `amount`, or all that the bucket can hold, is there; 0 if it is."""
        missing = min(amount, self.capacity) - self.level(now)
        return max(0.0, missing * 60 / self.capacity)

    def spend(self, amount: float, now: float) -> None:
        """Take an amount out, whether it is there or not."""
        self._level = self.level(now) - amount


class RateLimits:
    """Buckets by key name, in memory: they are full again after a restart."""

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """None: no limit."""
        self._per_minute = {"requests": requests_per_minute, "tokens": tokens_per_minute}
        self._clock = clock
        self._buckets: dict[tuple[str, str], TokenBucket] = {}
        self.num_refused = {"requests": 0, "tokens": 0}

    def take_request(self, record: RequestRecord) -> None:
        """Count a request. Raises RateLimited."""
        self._take("requests", record, 1)

    def take_prompt(self, record: RequestRecord, num_tokens: int) -> None:
        """Count the tokens of a prompt. Raises RateLimited."""
        self._take("tokens", record, num_tokens)

    def add_generated(self, record: RequestRecord, num_tokens: int) -> None:
        """Count what was generated, which may leave the key in debt."""
        bucket = self._bucket("tokens", record.key_name)
        if bucket is not None:
            bucket.spend(num_tokens, self._clock())

    def _take(self, kind: str, record: RequestRecord, amount: int) -> None:
        bucket = self._bucket(kind, record.key_name)
        if bucket is None:
            return
        now = self._clock()
        wait_s = bucket.wait_s(amount, now)
        if wait_s == 0:
            bucket.spend(amount, now)
        record.headers |= _headers(kind, bucket, now)
        if wait_s > 0:
            self.num_refused[kind] += 1
            raise RateLimited(
                f"Rate limit of {bucket.capacity} {kind} per minute reached for key "
                f"'{record.key_name}'; try again in {wait_s:.3g} s.",
                kind=kind,
                retry_after_s=wait_s,
            )

    def _bucket(self, kind: str, name: str) -> TokenBucket | None:
        per_minute = self._per_minute[kind]
        if per_minute is None:
            return None
        key = (kind, name)
        if key not in self._buckets:
            self._buckets[key] = TokenBucket(per_minute, self._clock())
        return self._buckets[key]


def check_size(settings: Settings, call: Call) -> None:
    """Raises RequestError for a prompt or an `n` beyond the server's limits."""
    longest = max(len(job.token_ids) for job in call.jobs)
    limit = settings.max_prompt_tokens
    if limit is not None and longest > limit:
        raise RequestError(
            f"The prompt has {longest} tokens, this server takes at most {limit}.",
            param="messages" if call.id.startswith("chatcmpl") else "prompt",
            code="context_length_exceeded",
        )
    if call.n > settings.max_n:
        raise RequestError(
            f"Invalid 'n': must be at most {settings.max_n} on this server (got {call.n}).",
            param="n",
            code="invalid_value",
        )


def _headers(kind: str, bucket: TokenBucket, now: float) -> dict[str, str]:
    """OpenAI's names; reset is the time until the bucket is full."""
    return {
        f"x-ratelimit-limit-{kind}": str(bucket.capacity),
        f"x-ratelimit-remaining-{kind}": str(max(0, int(bucket.level(now)))),
        f"x-ratelimit-reset-{kind}": f"{bucket.wait_s(bucket.capacity, now):.3f}s",
    }
