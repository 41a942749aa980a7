"""A byte-level tokenizer and an engine that says what it is told, for tests of the API alone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import tokenizers
from fastapi.testclient import TestClient
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evoserve.api.app import create_app
from evoserve.api.choice import Call, Job, Piece
from evoserve.api.generate import Generation
from evoserve.api.metrics import Metrics
from evoserve.api.registry import Registry, ServedRecipe
from evoserve.api.service import Service
from evoserve.config import Settings
from evoserve.engine.protocol import (
    EngineStats,
    GenerationRequest,
    ModelInfo,
    ModelStats,
    SamplingParams,
    TokenEvent,
)
from evoserve.errors import CapacityError
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.manifest.parts import GenerationSpec
from evoserve.sources.recipe import Recipe
from evoserve.text_stream import byte_level_bytes
from evoserve.tokenizer import Tokenizer

MODEL_ID = "toy@0123456789ab"
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

Plan = Callable[[GenerationRequest], AsyncIterator[TokenEvent]]


class ScriptEngine:
    """Streams what `plan` says; counts a block for every sequence that is not over."""

    num_blocks = 64

    def __init__(self, plan: Plan, capacity: int = 64) -> None:
        self.plan = plan
        self.capacity = capacity
        self.requests: list[GenerationRequest] = []
        self.running: set[str] = set()

    def submit(self, request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        if len(self.running) >= self.capacity:
            raise CapacityError("the queue is full")
        self.requests.append(request)
        self.running.add(request.request_id)
        return self.plan(request)

    def abort(self, request_id: str) -> None:
        self.running.discard(request_id)

    async def load(self, recipe: Recipe) -> ModelInfo:
        return self.models()[0]

    async def unload(self, model_id: str, *, drain: bool = True) -> None:
        self.running.clear()

    def models(self) -> Sequence[ModelInfo]:
        return [ModelInfo(MODEL_ID, 256, 1, 1, 8, 8, 0.0)]

    def stats(self) -> EngineStats:
        running = len(self.running)
        free = self.num_blocks - running
        model = ModelStats(MODEL_ID, running, 0, self.num_blocks, free, 0, 2)
        return EngineStats((model,), 1, 0, 1, 2, 1, 8)

    async def close(self) -> None:
        self.running.clear()


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Ids 0 to 255 are the bytes, 256 ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {char: byte_level_bytes(char)[0] for char in alphabet}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")
    fast.chat_template = TEMPLATE
    return Tokenizer(fast, frozenset({256}))


@pytest.fixture(scope="session")
def served(tokenizer: Tokenizer) -> ServedRecipe:
    return ServedRecipe(MODEL_ID, tokenizer, None, GenerationSpec(), 256, 1)


@pytest.fixture
def make_service(served: ServedRecipe) -> Callable[[Plan], Service]:
    def make(plan: Plan, capacity: int = 64) -> Service:
        engine = ScriptEngine(plan, capacity)
        registry = Registry()
        registry.add(served)
        settings = Settings()
        lifecycle = Lifecycle(settings, engine, registry)
        return Service(settings, engine, registry, Metrics(engine), lifecycle)

    return make


@pytest.fixture
def refusing_client(make_service: Callable[[Plan], Service]) -> TestClient:
    """A client of a server whose engine must not be asked for anything."""

    async def never(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
        raise AssertionError(request)
        yield

    service = make_service(never)
    return TestClient(create_app(Settings(), service.engine, service.registry))


@pytest.fixture
def make_call(served: ServedRecipe) -> Callable[..., Call]:
    def make(stops: Sequence[str] = (), n: int = 1, **params: object) -> Call:
        sampling = SamplingParams(**{"max_tokens": 1000, **params})  # type: ignore[arg-type]
        job = Job((1, 2, 3), sampling)
        return Call("chatcmpl-1", 7, "toy", served, (job,), n, stops, True)

    return make


@pytest.fixture
def run_call() -> Callable[[Service, Call], list[Piece]]:
    """All pieces of a call, from a fresh event loop."""

    async def collect(service: Service, call: Call) -> list[Piece]:
        generation = Generation(service, call)
        try:
            return [piece async for pieces in generation.batches() for piece in pieces]
        finally:
            generation.close()

    return lambda service, call: asyncio.run(collect(service, call))
