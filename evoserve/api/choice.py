"""What one sequence says: text that can no longer change, stop strings cut off, scored tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from evoserve.api.registry import ServedRecipe
from evoserve.api.tool_text import CallPart, ToolText
from evoserve.api.tools import ToolPlan
from evoserve.engine.protocol import FinishReason, SamplingParams, TokenEvent, TokenLogprobs
from evoserve.errors import CapacityError, EngineError, RequestError
from evoserve.text_stream import StopChecker

MIN_LOGPROB = -9999.0  # JSON has no -inf; OpenAI sends this number for "never"


@dataclass(frozen=True)
class Job:
    """One prompt of a request.

    echo: text to repeat before the completion; echoed: where its tokens are in the prompt;
    context: the last prompt tokens, where the completion goes on in the same text.
    """

    token_ids: Sequence[int]
    params: SamplingParams
    echo: str | None = None
    context: Sequence[int] = ()
    echoed: slice = field(default_factory=lambda: slice(None))


@dataclass(frozen=True)
class Call:
    """One API request, checked and tokenized; each job is run `n` times."""

    id: str
    created: int
    model: str
    served: ServedRecipe
    jobs: tuple[Job, ...]
    n: int
    stops: Sequence[str]
    skip_special_tokens: bool
    tools: ToolPlan | None = None


@dataclass(frozen=True)
class ScoredToken:
    """A token with its log-probability; `start` is where its text begins in the choice's text."""

    spelling: bytes
    logprob: float | None
    top: tuple[tuple[bytes, float], ...]
    start: int


@dataclass(frozen=True)
class Piece:
    """What came last of choice `index`: text, tokens if asked for, parts of calls, the end."""

    index: int
    text: str
    tokens: tuple[ScoredToken, ...] = ()
    finish_reason: str | None = None
    calls: tuple[CallPart, ...] = ()


def spell(spelling: bytes) -> str:
    """A token's bytes as text; those of a split character as `bytes:\\xe3\\x81`, as OpenAI does."""
    try:
        return spelling.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{value:02x}" for value in spelling)


class ChoiceText:
    """Text and scored tokens of one sequence; nothing of a stop string comes out.

    Before min_tokens tokens, stop strings are not looked for; in tool calls they never are.
    """

    def __init__(self, call: Call, job: Job, index: int) -> None:
        self._tokenizer = call.served.tokenizer
        self._detokenizer = self._tokenizer.detokenizer(
            job.context, skip_special_tokens=call.skip_special_tokens
        )
        self._stops = StopChecker(call.stops)
        self._plan = call.tools
        self._tools: ToolText | None = None
        if call.tools is not None and call.tools.choice.mode != "none":
            self._tools = ToolText(call.tools, f"call_{call.id.rpartition('-')[2]}_{index}_")
        self._job = job
        self._index = index
        self._num_tokens = 0
        self._num_chars = 0
        self._scored: list[ScoredToken] = []

    def push(self, event: TokenEvent) -> Piece | None:
        """What the event adds to the choice, None if nothing yet.

        Raises CapacityError for an aborted sequence, RequestError or EngineError for a failed one.
        """
        _check_event(event)
        echoed = self._echo(event) if self._num_tokens == 0 else ""
        self._num_tokens += 1
        text, finish = self._text_of(event), event.finish_reason
        calls: tuple[CallPart, ...] = ()
        if self._tools is not None:
            text, calls, finish = self._take_calls(self._tools, text, finish)
        text, is_stopped = self._cut(text)
        if is_stopped:
            finish = FinishReason.STOP
        elif finish is not None:
            text += self._stops.flush()
        text = echoed + text
        tokens = self._take_scored(is_all=finish is not None and not is_stopped)
        if not (text or tokens or calls or finish):
            return None
        return Piece(self._index, text, tokens, self._told(finish), calls)

    def _take_calls(
        self, tools: ToolText, text: str, finish: FinishReason | None
    ) -> tuple[str, tuple[CallPart, ...], FinishReason | None]:
        """The text without its calls, these, and the end; the only call allowed is one."""
        said, calls = tools.push(text)
        if finish is None and tools.is_complete:
            finish = FinishReason.STOP
        if finish is not None:
            said += tools.finish()
        return said, calls, finish

    def _cut(self, text: str) -> tuple[str, bool]:
        """The text that may be sent now, and whether a stop string ended the sequence."""
        if self._num_tokens < self._job.params.min_tokens:
            return text, False
        return self._stops.push(text)

    def _told(self, finish: FinishReason | None) -> str | None:
        """The reason in OpenAI's words."""
        has_calls = self._tools is not None and self._tools.num_calls > 0
        is_named = self._plan is not None and self._plan.choice.mode == "named"
        if finish is FinishReason.STOP and has_calls and not is_named:
            return "tool_calls"
        return finish and str(finish)

    def _text_of(self, event: TokenEvent) -> str:
        """The text that became certain; the token is noted if it is to be reported."""
        raw = ""
        token_id = event.token_id
        is_end = event.finish_reason == FinishReason.STOP
        # Who has the prompt scored counts on one token behind it, the end or not, as lm-eval does.
        is_listed = not is_end or self._job.params.prompt_logprobs is not None
        if token_id is not None and event.logprobs is not None and is_listed:
            self._scored.append(self._score(token_id, event.logprobs, self._num_chars))
        if token_id is not None and not is_end:
            raw = self._detokenizer.push(token_id)
        if event.finish_reason is not None:
            raw += self._detokenizer.flush()
        self._num_chars += len(raw)
        return raw

    def _echo(self, event: TokenEvent) -> str:
        """The prompt's text, its scored tokens put before the others."""
        if self._job.echo is None:
            return ""
        if event.prompt_logprobs is not None:
            token_ids = self._job.token_ids[self._job.echoed]
            prompt = event.prompt_logprobs[self._job.echoed]
            starts = self._starts(token_ids, self._job.echo)
            for token_id, scores, start in zip(token_ids, prompt, starts, strict=True):
                self._scored.append(self._score(token_id, scores, start))
        self._num_chars += len(self._job.echo)
        return self._job.echo

    def _starts(self, token_ids: Sequence[int], echo: str) -> Iterator[int]:
        """Where each token begins in the echo; those of one character all where that begins.

        A special token has a place only where the echo spells it, as a prompt sent as text may.
        """
        stream, start = self._tokenizer.detokenizer(), 0
        for token_id in token_ids:
            yield min(start, len(echo))
            if not self._tokenizer.is_special(token_id):
                start += len(stream.push(token_id))
            elif echo.startswith(spelled := self._tokenizer.token_text(token_id), start):
                start += len(spelled)

    def _score(self, token_id: int, scores: TokenLogprobs | None, start: int) -> ScoredToken:
        spelling = self._tokenizer.token_bytes(token_id)
        if scores is None:
            return ScoredToken(spelling, None, (), start)
        top = tuple(
            (self._tokenizer.token_bytes(other), max(logprob, MIN_LOGPROB))
            for other, logprob in scores.top
        )
        return ScoredToken(spelling, max(scores.logprob, MIN_LOGPROB), top, start)

    def _take_scored(self, *, is_all: bool) -> tuple[ScoredToken, ...]:
        """The tokens whose text has begun to be sent: those of a stop string never come."""
        if not self._scored:
            return ()
        count = len(self._scored)
        if not is_all:
            num_sent = self._num_chars - self._stops.num_kept
            count = sum(token.start < num_sent for token in self._scored)
        taken, self._scored = self._scored[:count], self._scored[count:]
        return tuple(taken)


def _check_event(event: TokenEvent) -> None:
    if event.finish_reason == FinishReason.ERROR:
        if event.culprit is not None:
            message = event.error or f"Invalid '{event.culprit}'."
            raise RequestError(message, param=event.culprit, code="invalid_value")
        raise EngineError(event.error or "the sequence failed")
    if event.finish_reason == FinishReason.ABORT:
        raise CapacityError("The recipe was unloaded while it generated; send the request again.")
