"""One choice's text: where echoed tokens stand, and stop strings beside tool calls."""

from pathlib import Path

import pytest

from evoserve.api.choice import Call, ChoiceText, Job, Piece
from evoserve.api.registry import ServedRecipe
from evoserve.api.tools import Function, Tool, ToolChoice, plan_tools
from evoserve.engine.protocol import FinishReason, SamplingParams, TokenEvent, TokenLogprobs
from evoserve.manifest.parts import GenerationSpec
from evoserve.tokenizer import Tokenizer, load_tokenizer

MINI = Path(__file__).parents[3] / "models" / "mini" / "base"
ADD = Tool(type="function", function=Function(name="add", parameters={"type": "object"}))
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1,\n"b": 2}}\n</tool_call>'


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load_tokenizer(MINI)


def choice_of(tokenizer: Tokenizer, job: Job, **fields) -> ChoiceText:
    served = ServedRecipe("toy@0123456789ab", tokenizer, None, GenerationSpec(), 1024, 0)
    given = {"stops": (), "skip_special_tokens": True, **fields}
    return ChoiceText(Call("chatcmpl-1", 0, "toy", served, (job,), 1, **given), job, 0)


@pytest.mark.parametrize("text", ["日本語", "é👩‍👩‍👧 ok then", "Once upon, 12 + 3"])
def test_echoed_tokens_stand_where_their_characters_do(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    job = Job(ids, SamplingParams(max_tokens=0, prompt_logprobs=0), echo=text)
    scores = (None, *(TokenLogprobs(id_, -1.0) for id_ in ids[1:]))
    piece = choice_of(tokenizer, job).push(
        TokenEvent(None, FinishReason.LENGTH, prompt_logprobs=scores)
    )
    assert piece is not None
    raw = text.encode()
    at = 0
    for token in piece.tokens:
        assert token.start == len(raw[:at].decode("utf-8", "ignore"))
        at += len(token.spelling)
    assert piece.text == text


def test_a_special_token_has_a_place_where_the_echo_spells_it(tokenizer: Tokenizer) -> None:
    (special,) = tokenizer.eos_token_ids
    spelled = tokenizer.token_text(special)
    (letter,) = tokenizer.encode("1", add_special_tokens=False)
    for echo, start in ((f"{spelled}1", len(spelled)), ("1", 0)):
        job = Job([special, letter], SamplingParams(max_tokens=0, prompt_logprobs=0), echo=echo)
        scores = (None, TokenLogprobs(letter, -1.0))
        piece = choice_of(tokenizer, job).push(
            TokenEvent(None, FinishReason.LENGTH, prompt_logprobs=scores)
        )
        assert piece is not None
        assert [token.start for token in piece.tokens] == [0, start]


def said_of(tokenizer: Tokenizer, text: str, stops: list[str], mode: str) -> list[Piece]:
    """The pieces of a text that ends by itself, with tools."""
    plan = plan_tools([ADD], ToolChoice(mode), None)
    choice = choice_of(tokenizer, Job([1], SamplingParams(max_tokens=99)), tools=plan, stops=stops)
    pieces = []
    for id_ in tokenizer.encode(text, add_special_tokens=False):
        pieces.append(choice.push(TokenEvent(id_)))
        if pieces[-1] is not None and pieces[-1].finish_reason is not None:
            return [each for each in pieces if each]
    (end,) = tokenizer.eos_token_ids
    return [each for each in [*pieces, choice.push(TokenEvent(end, FinishReason.STOP))] if each]


@pytest.mark.parametrize("stop", ["\n", "arguments", "add", "1,", "</tool_call>"])
def test_a_stop_string_does_not_cut_a_call(tokenizer: Tokenizer, stop: str) -> None:
    pieces = said_of(tokenizer, CALL, [stop], "required")
    assert "".join(piece.text for piece in pieces) == ""
    arguments = "".join(part.arguments for piece in pieces for part in piece.calls)
    assert arguments == '{"a": 1,\n"b": 2}'
    assert pieces[-1].finish_reason == "tool_calls"


def test_a_stop_string_cuts_what_is_said_beside_tools(tokenizer: Tokenizer) -> None:
    pieces = said_of(tokenizer, "yes, no, more", ["no"], "auto")
    assert "".join(piece.text for piece in pieces) == "yes, "
    assert pieces[-1].finish_reason == "stop"
