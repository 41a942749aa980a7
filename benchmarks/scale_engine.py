"""The engine in process: `EngineCore` on real weights, driven step by step by who measures."""

import random
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from evoserve.config import Settings
from evoserve.engine.core import EngineCore
from evoserve.engine.factory import ModelFactory, PathModelFactory
from evoserve.engine.request import SamplingParams
from evoserve.engine.runtime import RecipeRuntime, build_runtime
from evoserve.engine.scheduler import Counters
from evoserve.engine.sequence import Sequence as Generation
from evoserve.sources.recipe import Recipe

FORMS = {"float32": None, "int8": "int8"}
"""How matrices are stored, by the benchmarks' name for it."""
_LAST_TOKEN = 40_000


class Bench:
    """Recipes on one engine; sequences are greedy, never end early, and are cleared by `clear`."""

    def __init__(self, settings: Settings, models: ModelFactory | None = None) -> None:
        """Loads nothing; models: default, what the server would use."""
        self.settings = settings
        self.models = PathModelFactory(settings) if models is None else models
        self.core = EngineCore(Counters())
        self.runtimes: list[RecipeRuntime] = []
        self._live: list[tuple[RecipeRuntime, Generation]] = []
        self._last_ticket = 0

    def load(self, recipe: Recipe) -> RecipeRuntime:
        """Build a recipe and serve it."""
        runtime = build_runtime(recipe, self.models, self.settings, Counters())
        self.core.attach(runtime)
        self.runtimes.append(runtime)
        return runtime

    def submit(self, runtime: RecipeRuntime, prompt: Sequence[int]) -> Generation:
        """Queue a sequence that decodes until `clear`."""
        self._last_ticket += 1
        params = SamplingParams(max_tokens=1 << 20, temperature=0.0, ignore_eos=True)
        sequence = Generation(self._last_ticket, tuple(prompt), params, 0, frozenset())
        self.core.submit(runtime.info.model_id, sequence)
        self._live.append((runtime, sequence))
        return sequence

    def prefill(self) -> list[tuple[int, float]]:
        """Step until every sequence has a token; (prompt tokens computed, seconds) by step."""
        steps = []
        while any(sequence.num_generated_tokens == 0 for _, sequence in self._live):
            before = self._num_prompt_tokens()
            started_s = time.perf_counter()
            self.step()
            spent_s = time.perf_counter() - started_s
            steps.append((self._num_prompt_tokens() - before, spent_s))
        return steps

    def decode(self, num_steps: int) -> float:
        """Seconds of so many steps."""
        started_s = time.perf_counter()
        for _ in range(num_steps):
            self.step()
        return time.perf_counter() - started_s

    def step(self) -> None:
        """One step. Raises RuntimeError if a sequence ended."""
        for _, event in self.core.step():
            if event.finish_reason is not None:
                raise RuntimeError(f"a sequence ended: {event.finish_reason}, {event.error}")

    def clear(self) -> None:
        """End all sequences; their blocks stay in the prefix cache."""
        self.core.abort_all()
        self._live.clear()

    @property
    def kv_bytes(self) -> int:
        """Of the blocks that sequences hold now, shared ones counted once."""
        total = 0
        for runtime in self.runtimes:
            tables = [each.table.block_ids for owner, each in self._live if owner is runtime]
            block_bytes = runtime.info.kv_cache_bytes // runtime.stats.num_blocks
            total += block_bytes * len({block for table in tables for block in table})
        return total

    def close(self) -> None:
        """Free weights and caches."""
        self.clear()
        for runtime in self.runtimes:
            self.core.detach(runtime.info.model_id, runtime.lease.release)
        self.runtimes.clear()

    def _num_prompt_tokens(self) -> int:
        """Computed or found in the cache; what is not admitted yet counts as none."""
        return sum(
            min(each.num_computed_tokens, each.num_prompt_tokens) - (each.num_cached_tokens or 0)
            for _, each in self._live
            if each.num_computed_tokens
        )


def make_settings(form: str, **fields: object) -> Settings:
    """For the CPU in float32; form: a key of FORMS; fields: of Settings."""
    fixed = {"device": "cpu", "dtype": "float32", "quantization": FORMS[form]}
    return Settings.model_validate({**fixed, **fields})


def write_tokens(seed: str, count: int) -> list[int]:
    """Token ids by seed; a longer list begins with the shorter one."""
    source = random.Random(seed)
    return [source.randrange(100, _LAST_TOKEN) for _ in range(count)]


def resident_bytes() -> int:
    """Resident memory of this process, mapped files included; 0 if unknown."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text("utf-8").splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0
