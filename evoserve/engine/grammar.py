"""Grammars over token ids: which token may come next, given what was generated. No torch.

A `Grammar` is compiled once per request by llguidance; each sequence walks it with a cursor of its
own, so that sequences of one batch, preempted or not, never touch each other's.
"""

from collections.abc import Sequence

from llguidance import LLMatcher, LLParserLimits

from evoserve.errors import EngineError, RequestError
from evoserve.tokenizer import Tokenizer

_QUIET = "<non-verbose/>"  # what stands for the state that is left out of errors


class Grammar:
    """A compiled grammar over one tokenizer's vocabulary; `param`: the request's field it is of."""

    def __init__(self, tokenizer: Tokenizer, source: str, param: str) -> None:
        """`source` is llguidance's: Lark text, or JSON that `LLMatcher.grammar_from_*` made.

        Raises RequestError with the library's own words for what it refuses, also if that comes
        out only when the first token is looked for.
        """
        vocabulary = tokenizer.grammar_vocabulary
        limits = LLParserLimits(verbose_errors=False)  # else errors repeat schema and answer
        reason = LLMatcher.validate_grammar(source, vocabulary, limits=limits)
        self._matcher = LLMatcher(vocabulary, source, log_level=0, limits=limits)
        self._param = param
        reason = self._matcher.get_error() or reason
        if reason and not reason.startswith("WARNING"):
            raise unusable(param, reason)
        self.start(0).allowed(())

    def start(self, num_prompt_tokens: int) -> "GrammarCursor":
        """A cursor before the first token that follows the prompt."""
        return GrammarCursor(self._matcher.deep_copy(), num_prompt_tokens, self._param)


class GrammarCursor:
    """Where one sequence stands in a grammar."""

    def __init__(self, matcher: LLMatcher, num_prompt_tokens: int, param: str) -> None:
        self.param = param
        self._matcher = matcher
        self._num_taken = num_prompt_tokens

    def allowed(self, token_ids: Sequence[int]) -> bytes:
        """One bit per token id of the tokenizer, the lowest first: may it follow `token_ids`?

        They are the prompt and what was generated: the same as at the last call, and more at the
        end, of which alone the work depends. Once the grammar is satisfied and nothing can follow,
        the end tokens alone are allowed. Raises EngineError if what was generated is not of the
        grammar, RequestError if that turns out to need more than is allowed to one.
        """
        new = list(token_ids[self._num_taken :])
        self._num_taken += len(new)
        if new:
            self._matcher.consume_tokens(new)
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise self._error()
        return mask

    def _error(self) -> EngineError | RequestError:
        reason = self._matcher.get_error()
        if "satisfy the grammar" in reason:  # a token that no mask has allowed: our fault
            return EngineError(f"the grammar cannot go on: {reason}")
        return unusable(self.param, reason)


def unusable(param: str, reason: str) -> RequestError:
    """The error for a field whose schema or grammar is refused, in the library's words."""
    words = " ".join(reason.removesuffix(_QUIET).split())[:500].rstrip(".")
    message = f"Invalid '{param}': it cannot be used to constrain decoding: {words}."
    return RequestError(message, param=param, code="invalid_value")
