"""Text to token ids and back: a folder's fast tokenizer, its chat template, its end tokens.

transformers is imported when a tokenizer is loaded, never before, and torch not at all as long as
the folder holds a tokenizer.json; remote code is never run.
"""

import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from llguidance import LLTokenizer

from evoserve.errors import RequestError, SourceError
from evoserve.text_bound import max_bytes_per_token
from evoserve.text_stream import (
    StopChecker,
    TextStream,
    build_stream,
    byte_level_bytes,
    byte_token_value,
    flatten_decoder,
)

__all__ = ["AddedToken", "Detokenizer", "StopChecker", "Tokenizer", "load_tokenizer"]

LONG_TEXT_CHARS = 20_000  # tokenizing more takes milliseconds that no event loop must wait
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
_TEMPLATE_FAULTS = (
    jinja2.TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class AddedToken:
    """A token matched whole in the text before the tokenizer splits it; fields as in the file."""

    content: str
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False
    normalized: bool = True


class Tokenizer:
    """A fast tokenizer with its chat template; safe to use from several threads."""

    def __init__(self, fast: Any, eos_token_ids: frozenset[int]) -> None:
        """`fast` is a transformers fast tokenizer; `load_tokenizer` makes one from a folder."""
        self._fast = fast
        self._backend: tokenizers.Tokenizer = fast.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._chain = flatten_decoder(self._backend.decoder)
        build_stream(self._chain)
        self.eos_token_ids = eos_token_ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Raises RequestError for text that has no UTF-8 form.

        Other threads run on while a long text is tokenized.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise RequestError(
                f"the text holds a lone surrogate (U+{ord(text[error.start]):04X}) at character "
                f"{error.start}, which is no Unicode text"
            ) from None
        if len(text) <= LONG_TEXT_CHARS:
            encoding = self._backend.encode(text, add_special_tokens=add_special_tokens)
        else:  # the library lets go of the interpreter for batches alone
            (encoding,) = self._backend.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
        ids: list[int] = encoding.ids
        return ids

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of `token_ids`; ids without a token (padding rows of the model) are nothing.

        Blanks before punctuation are kept, whatever clean_up_tokenization_spaces says.
        """
        return self._backend.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def detokenizer(
        self, context: Sequence[int] = (), *, skip_special_tokens: bool = True
    ) -> "Detokenizer":
        """A fresh stream from ids to text, see `Detokenizer`."""
        return Detokenizer(self, context, skip_special_tokens=skip_special_tokens)

    def token_piece(self, token_id: int) -> str | None:
        """The token as the vocabulary spells it (`Ġthe`, `▁the`), None if there is none."""
        return self._backend.id_to_token(token_id)

    def is_special(self, token_id: int) -> bool:
        """Is it a token that `skip_special_tokens` leaves out?"""
        return token_id in self._special_ids

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes the token adds inside a text; none for an id without a token."""
        piece = self.token_piece(token_id)
        if piece is None:
            return b""
        if token_id in self._special_ids:
            return piece.encode()
        kinds = {settings["type"] for settings in self._chain}
        if "ByteLevel" in kinds:
            return byte_level_bytes(piece)
        value = byte_token_value(piece) if "ByteFallback" in kinds else None
        if value is not None:
            return bytes([value])
        stream = build_stream(self._chain)
        stream.push("x")
        return (stream.push(piece) + stream.finish()).encode()

    def token_text(self, token_id: int) -> str:
        """`token_bytes` as text, U+FFFD where they are no whole character."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt that the chat template (`template`, else the model's own) makes of messages.

        Raises RequestError if there is no template, or if it refuses the messages or the tools.
        """
        if template is None and not self.has_chat_template:
            raise RequestError(
                "this model has no chat template; send a plain prompt to /v1/completions instead",
                param="messages",
            )
        chosen = self._choose_template(template, tools)
        if tools and not re.search(r"\btools\b", chosen):
            raise RequestError("this model's chat template takes no tools", param="tools")
        try:
            text: str = self._fast.apply_chat_template(
                [dict(message) for message in messages],
                tools=[dict(tool) for tool in tools] if tools else None,
                chat_template=chosen,
                add_generation_prompt=add_generation_prompt,
                tokenize=False,
            )
        except _TEMPLATE_FAULTS as error:
            raise RequestError(
                f"the chat template refuses these messages: {error}", param="messages"
            ) from None
        return text

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        """Token ids of `render_chat`; the template writes the special tokens, none are added."""
        text = self.render_chat(
            messages, template=template, tools=tools, add_generation_prompt=add_generation_prompt
        )
        return self.encode(text, add_special_tokens=False)

    @property
    def has_chat_template(self) -> bool:
        """Does the model bring a chat template of its own?"""
        return bool(self._fast.chat_template)

    @property
    def bos_token_id(self) -> int | None:
        """The token a text begins with, if the tokenizer has one."""
        value: int | None = self._fast.bos_token_id
        return value

    @property
    def prefix_token_id(self) -> int | None:
        """What stands before a text that begins with nothing: bos, else the tokenizer's own eos."""
        eos: int | None = self._fast.eos_token_id
        return eos if self.bos_token_id is None else self.bos_token_id

    @cached_property
    def vocab(self) -> Mapping[str, int]:
        """Every token, as the vocabulary spells it, with its id; added tokens included."""
        return self._backend.get_vocab(with_added_tokens=True)

    @cached_property
    def vocab_size(self) -> int:
        """The highest token id plus one; the model's table may have more rows."""
        return max(self.vocab.values(), default=-1) + 1

    @cached_property
    def max_bytes_per_token(self) -> int | None:
        """Bytes of text in the longest token; None if a token may swallow text of any length."""
        return max_bytes_per_token(self._backend)

    @cached_property
    def added_tokens(self) -> Mapping[int, AddedToken]:
        """The tokens outside the tokenizer's own splitting, in order of id."""
        return {
            index: AddedToken(
                content=token.content,
                special=token.special,
                lstrip=token.lstrip,
                rstrip=token.rstrip,
                single_word=token.single_word,
                normalized=token.normalized,
            )
            for index, token in sorted(self._backend.get_added_tokens_decoder().items())
        }

    @cached_property
    def grammar_vocabulary(self) -> LLTokenizer:
        """The vocabulary as `evoserve.engine.grammar` needs it, end tokens included."""
        return LLTokenizer(
            self._backend.to_str(), n_vocab=self.vocab_size, eos_token=sorted(self.eos_token_ids)
        )

    @cached_property
    def content_digest(self) -> str:
        """`sha256:` and 64 digits over what determines ids, text and prompts."""
        parts = {
            "tokenizer": json.loads(self._backend.to_str()),
            "chat_template": self._fast.chat_template,
            "eos": sorted(self.eos_token_ids),
        }
        text = json.dumps(parts, sort_keys=True, ensure_ascii=True)
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def with_added(self, tokens: Sequence[AddedToken]) -> "Tokenizer":
        """A copy that also knows `tokens`, appended in this order; known ones keep their id."""
        fast = copy.deepcopy(self._fast)
        for token in tokens:
            kept = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word")}
            added = tokenizers.AddedToken(
                token.content, normalized=token.normalized, special=token.special, **kept
            )
            backend = fast.backend_tokenizer
            backend.add_special_tokens([added]) if token.special else backend.add_tokens([added])
        return Tokenizer(fast, self.eos_token_ids)

    def save(self, folder: Path) -> None:
        """Write tokenizer.json, tokenizer_config.json and the chat template into `folder`."""
        self._fast.save_pretrained(str(folder))

    def new_stream(self) -> TextStream:
        """A fresh stream over the vocabulary's pieces; `Detokenizer` feeds one from ids."""
        return build_stream(self._chain)

    def _choose_template(
        self, template: str | None, tools: Sequence[Mapping[str, Any]] | None
    ) -> str:
        try:
            chosen: str = self._fast.get_chat_template(template, tools=list(tools or ()) or None)
        except ValueError as error:
            raise RequestError(f"chat template: {error}", param="messages") from None
        return chosen

    @cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(index for index, token in self.added_tokens.items() if token.special)


class Detokenizer:
    """Token ids in, text out that can no longer change; what may still change is held back.

    The deltas and the flush add up to `decode` of all ids pushed; with `context` (say, a prompt
    that the text goes on from) to what they add to the context's own text, so that the blank a
    sentencepiece tokenizer takes from the front of a text is kept.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        context: Sequence[int] = (),
        *,
        skip_special_tokens: bool = True,
    ) -> None:
        self._piece_of = tokenizer.token_piece
        self._is_skipped = tokenizer.is_special if skip_special_tokens else (lambda _: False)
        self._stream = tokenizer.new_stream()
        for token_id in context:
            self.push(token_id)

    def push(self, token_id: int) -> str:
        """The text that became certain with this token; often empty."""
        if self._is_skipped(token_id):
            return ""
        piece = self._piece_of(token_id)
        return "" if piece is None else self._stream.push(piece)

    def flush(self) -> str:
        """The text held back at the end of the sequence; nothing may be pushed afterwards."""
        return self._stream.finish()


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face folder, with the end tokens its generation config adds.

    Raises SourceError for a missing or broken tokenizer, UnsupportedModel for one whose text
    cannot be streamed.
    """
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise SourceError(f"{folder}: holds no tokenizer (none of {', '.join(TOKENIZER_FILES)})")
    try:
        fast = _load_fast(folder)
    except Exception as error:  # the library raises bare Exception for a malformed file
        reason = " ".join(str(error).split())
        raise SourceError(f"{folder}: the tokenizer cannot be loaded: {reason:.300}") from None
    if not getattr(fast, "is_fast", False):
        raise SourceError(
            f"{folder}: its tokenizer has no fast form; save one with "
            "AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    return Tokenizer(fast, _read_eos(folder, fast.eos_token_id))


def _load_fast(folder: Path) -> Any:
    """The generic class reads tokenizer.json as it is; AutoTokenizer (slow to import) converts."""
    if (folder / "tokenizer.json").exists():
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )


def _read_eos(folder: Path, own: int | None) -> frozenset[int]:
    found = set() if own is None else {own}
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        if not file.exists():
            continue
        try:
            value = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
        except (OSError, ValueError, AttributeError) as error:
            raise SourceError(f"{file}: {error}") from None
        values = value if isinstance(value, list) else [value]
        if any(item is not None and type(item) is not int for item in values):
            raise SourceError(f"{file}: eos_token_id = {value!r} must be an integer or a list")
        if value is not None:
            return frozenset(found.union(item for item in values if item is not None))
    return frozenset(found)
