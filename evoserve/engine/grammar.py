"""Grammars over token ids: which token may come next, given what was generated. No torch.

A `Grammar` is compiled once per request by llguidance; each sequence walks it with a cursor of its
own, so that sequences of one batch, preempted or not, never touch each other's.
"""

from collections.abc import Sequence

from llguidance import LLMatcher

from evoserve.errors import EngineError, RequestError
from evoserve.tokenizer import Tokenizer


class Grammar:
    """A compiled grammar over one tokenizer's vocabulary."""

    def __init__(self, tokenizer: Tokenizer, source: str) -> None:
        """`source` is llguidance's: Lark text, or JSON that `LLMatcher.grammar_from_*` made.

        Raises RequestError with the library's own words for what it refuses.
        """
        vocabulary = tokenizer.grammar_vocabulary
        reason = LLMatcher.validate_grammar(source, vocabulary)
        self._matcher = LLMatcher(vocabulary, source, log_level=0)
        reason = self._matcher.get_error() or reason
        if reason and not reason.startswith("WARNING"):
            raise RequestError(" ".join(reason.split())[:500])

    def start(self, num_prompt_tokens: int) -> "GrammarCursor":
        """A cursor before the first token that follows the prompt."""
        return GrammarCursor(self._matcher.deep_copy(), num_prompt_tokens)


class GrammarCursor:
    """Where one sequence stands in a grammar."""

    def __init__(self, matcher: LLMatcher, num_prompt_tokens: int) -> None:
        self._matcher = matcher
        self._num_taken = num_prompt_tokens

    def allowed(self, token_ids: Sequence[int]) -> bytes:
        """One bit per token id of the tokenizer, the lowest first: may it follow `token_ids`?

        They are the prompt and what was generated: the same as at the last call, and more at the
        end, of which alone the work depends. Once the grammar is satisfied and nothing can follow,
        the end tokens alone are allowed. Raises EngineError if what was generated is not of the
        grammar, or the grammar's limits are reached.
        """
        new = list(token_ids[self._num_taken :])
        self._num_taken += len(new)
        if new and not self._matcher.consume_tokens(new):
            raise EngineError(f"the grammar cannot go on: {self._matcher.get_error()}")
        mask = self._matcher.compute_bitmask()
        if self._matcher.is_error():
            raise EngineError(f"the grammar cannot go on: {self._matcher.get_error()}")
        return mask
