"""Tokenizer, incremental detokenizer and stop strings, on byte-level and sentencepiece kinds."""

import json
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as LibraryTokenizer
from transformers import PreTrainedTokenizerFast

from evoserve.errors import RequestError, SourceError, UnsupportedModel
from evoserve.text_stream import StopChecker, byte_level_bytes
from evoserve.tokenizer import AddedToken, Detokenizer, Tokenizer, load_tokenizer

SPECIALS = ["<s>", "</s>", "<|im end|>"]
WORDS = ["▁", "▁a", "b", "▁▁", "ab▁", "é", "▁日本", "語", "�", " ", "<0xZZ>", "0x41"]
TEMPLATE = (
    "{% for m in messages %}{% if m.role == 'bad' %}{{ raise_exception('no role bad') }}{% endif %}"
    "<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)


def byte_level() -> LibraryTokenizer:
    """All 256 bytes, a few merges, special tokens with a blank and a word of no byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "a"), ("æ", "Ĺ"), ("a", "b"), ("Ã", "©")]
    tokens = [*alphabet, *("".join(pair) for pair in merges)]
    model = models.BPE({token: index for index, token in enumerate(tokens)}, merges)
    built = LibraryTokenizer(model)
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens(SPECIALS)
    built.add_tokens(["tool call", "日本"])
    return built


def byte_fallback() -> LibraryTokenizer:
    """Llama 2's and Mistral's kind: `▁` for a blank, bytes for unknown characters."""
    tokens = [*(f"<0x{value:02X}>" for value in range(256)), *WORDS, "<unk>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    built = LibraryTokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    built.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    built.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    built.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", len(tokens))]
    )
    built.add_special_tokens(SPECIALS)
    return built


def words_only(decoder: object) -> LibraryTokenizer:
    """A vocabulary of words with any decoder."""
    vocab = {token: index for index, token in enumerate([*WORDS, "##ing", "<unk>", ".", "<0x41>"])}
    built = LibraryTokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    if decoder is not None:
        built.decoder = decoder
    built.add_special_tokens(SPECIALS)
    return built


def wrap(built: LibraryTokenizer) -> Tokenizer:
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=built), frozenset())


KINDS = {
    "byte_level": wrap(byte_level()),
    "byte_fallback": wrap(byte_fallback()),
    "metaspace": wrap(words_only(decoders.Metaspace())),
    "metaspace_never": wrap(words_only(decoders.Metaspace(prepend_scheme="never"))),
    "fallback_metaspace": wrap(
        words_only(decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()]))
    ),
    "word_piece": wrap(words_only(decoders.WordPiece())),
    "regex_replace": wrap(
        words_only(decoders.Sequence([decoders.Replace(Regex("▁+"), "_"), decoders.Fuse()]))
    ),
    "strip_each": wrap(words_only(decoders.Strip("▁", 1, 0))),
    "none": wrap(words_only(None)),
}


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_deltas_add_up_to_the_decoded_text(kind: str, data: st.DataObject) -> None:
    tokenizer = KINDS[kind]
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 2), max_size=24))
    skip = data.draw(st.booleans())
    stream = Detokenizer(tokenizer, skip_special_tokens=skip)
    text = ""
    for count, token_id in enumerate(ids, start=1):
        text += stream.push(token_id)
        assert tokenizer.decode(ids, skip_special_tokens=skip).startswith(text), count
    assert text + stream.flush() == tokenizer.decode(ids, skip_special_tokens=skip)


MINIS = [Path(__file__).parents[2] / "models/mini" / name for name in ("base", "ja", "math")]
_SPELLED = st.sampled_from(
    [*SPECIALS, "<|end|>", "tool call", " ", "\n", "1", "é", "e\u0301", "日本"]
)


@pytest.mark.parametrize("tokenizer", [*KINDS.values(), *map(load_tokenizer, MINIS)])
@settings(max_examples=80, deadline=None)
@given(parts=st.lists(_SPELLED | st.text(max_size=8), max_size=12), has_specials=st.booleans())
def test_long_texts_have_the_ids_of_short_ones(
    tokenizer: Tokenizer, parts: list[str], has_specials: bool
) -> None:
    text = "".join(parts)
    ids = tokenizer.encode(text, has_specials)
    with mock.patch("evoserve.tokenizer.LONG_TEXT_CHARS", -1):
        assert tokenizer.encode(text, has_specials) == ids


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
@settings(max_examples=100, deadline=None)
@given(text=st.text(max_size=20), cut=st.integers(0, 60))
def test_text_survives_encoding_and_a_context_keeps_its_blank(
    kind: str, text: str, cut: int
) -> None:
    tokenizer = KINDS[kind]
    if any(special in text for special in [*SPECIALS, "▁", *WORDS]):
        return
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    stream = tokenizer.detokenizer(ids[:cut])
    first = tokenizer.detokenizer()
    before = "".join(map(first.push, ids[:cut]))
    after = "".join(map(stream.push, ids[cut:])) + stream.flush()
    assert before + after == text


def test_whole_characters_come_at_once_and_partial_ones_wait() -> None:
    tokenizer = KINDS["byte_level"]
    stream = tokenizer.detokenizer()
    deltas = [stream.push(token_id) for token_id in tokenizer.encode("aé日x")]
    assert "".join(deltas) == "aé日x"
    assert "�" not in "".join(deltas)
    held = tokenizer.encode("日")[:1]
    stream = tokenizer.detokenizer()
    assert stream.push(held[0]) == ""
    assert stream.flush() == "�"


@given(st.text(st.characters(max_codepoint=0x160) | st.sampled_from("Ġ日\ufffd😀"), max_size=4))
def test_byte_level_pieces_are_bytes_or_their_own_text(piece: str) -> None:
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [value for value in range(256) if value not in plain]
    table = {chr(value): value for value in plain}
    table |= {chr(256 + index): value for index, value in enumerate(others)}
    is_known = all(char in table for char in piece)
    spelled = bytes(table[char] for char in piece) if is_known else piece.encode()
    assert byte_level_bytes(piece) == spelled


def test_token_bytes_join_to_the_text() -> None:
    for kind in ("byte_level", "byte_fallback"):
        tokenizer = KINDS[kind]
        ids = tokenizer.encode("b a日é!", add_special_tokens=False)
        joined = b"".join(map(tokenizer.token_bytes, ids)).decode()
        assert joined.removeprefix(" ") == "b a日é!"
    fallback = KINDS["byte_fallback"]
    assert fallback.token_bytes(0xE6) == b"\xe6"
    assert fallback.token_text(0xE6) == "�"
    assert fallback.token_text(fallback.vocab["▁a"]) == " a"
    assert fallback.token_text(fallback.vocab["</s>"]) == "</s>"
    assert fallback.token_bytes(10**6) == b""


def test_byte_level_table_is_the_librarys() -> None:
    for value in range(256):
        piece = next(
            char
            for char in pre_tokenizers.ByteLevel.alphabet()
            if byte_level_bytes(char) == bytes([value])
        )
        assert decoders.ByteLevel().decode([piece]) == bytes([value]).decode("utf-8", "replace")


def test_a_decoder_that_cannot_be_streamed_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="CTC"):
        wrap(words_only(decoders.CTC()))
    late = decoders.Sequence([decoders.Fuse(), decoders.Replace("a", "b")])
    with pytest.raises(UnsupportedModel, match="Replace"):
        wrap(words_only(late))


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(RequestError, match=r"U\+D800.*character 1"):
        KINDS["byte_level"].encode("a\ud800")


def first_end(text: str, stops: list[str]) -> tuple[int, int] | None:
    """(end, start) of the stop that is complete first, by trying every position."""
    ends = [
        (start + len(stop), start)
        for stop in stops
        for start in range(len(text))
        if text.startswith(stop, start)
    ]
    return min(ends, default=None)


@settings(max_examples=400, deadline=None)
@given(
    pieces=st.lists(st.text("ab日", max_size=4), max_size=12),
    stops=st.lists(st.text("ab日", min_size=1, max_size=4), max_size=3),
)
def test_stop_strings_never_leak(pieces: list[str], stops: list[str]) -> None:
    checker = StopChecker(stops)
    text = "".join(pieces)
    sent, stopped = "", False
    for index, piece in enumerate(pieces):
        emit, stopped_now = checker.push(piece)
        assert not (stopped and emit)
        sent, stopped = sent + emit, stopped_now
        seen = "".join(pieces[: index + 1])
        held = len(seen) - len(sent)
        assert stopped or held < max(map(len, stops), default=1)
        assert stopped == (first_end(seen, stops) is not None)
    expected = first_end(text, stops)
    if expected is None:
        assert sent + checker.flush() == text
        assert checker.matched is None
    else:
        assert sent == text[: expected[1]]
        assert checker.flush() == ""
        assert checker.matched in stops


def test_only_a_possible_prefix_is_held() -> None:
    checker = StopChecker(["###", "Answer:"])
    assert checker.push("one ##") == ("one ", False)
    assert checker.push("x An") == ("##x ", False)
    assert checker.push("swer: 3") == ("", True)
    with pytest.raises(RequestError, match="empty"):
        StopChecker(["a", ""])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A byte-level tokenizer saved the way transformers does."""
    fast = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(), bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE
    )
    fast.save_pretrained(tmp_path)
    return tmp_path


def test_load_reads_template_and_end_tokens(folder: Path) -> None:
    plain = load_tokenizer(folder)
    end = plain.vocab["</s>"]
    assert plain.eos_token_ids == {end}
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, 2]}))
    (folder / "config.json").write_text(json.dumps({"eos_token_id": 7}))
    both = load_tokenizer(folder)
    assert both.eos_token_ids == {1, 2, end}
    assert both.content_digest != plain.content_digest
    assert plain.content_digest == load_tokenizer_without_generation(folder).content_digest
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": "</s>"}))
    with pytest.raises(SourceError, match="eos_token_id = '</s>'"):
        load_tokenizer(folder)


def load_tokenizer_without_generation(folder: Path) -> Tokenizer:
    (folder / "generation_config.json").unlink()
    (folder / "config.json").unlink()
    return load_tokenizer(folder)


def test_chat_is_rendered_and_its_faults_are_the_callers(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    messages = [{"role": "user", "content": "hi"}]
    text = tokenizer.render_chat(messages)
    assert text == "<s>user: hi</s><s>assistant: "
    assert tokenizer.decode(tokenizer.encode_chat(messages), skip_special_tokens=False) == text
    assert tokenizer.encode_chat(messages).count(tokenizer.bos_token_id or -1) == 2
    with pytest.raises(RequestError, match="no role bad"):
        tokenizer.render_chat([{"role": "bad", "content": ""}])
    with pytest.raises(RequestError, match="takes no tools"):
        tokenizer.render_chat(messages, tools=[{"type": "function"}])
    other = tokenizer.render_chat(messages, template="{{ messages[0].content }}!")
    assert other == "hi!"
    with pytest.raises(RequestError, match="chat template"):
        tokenizer.render_chat(messages, template="{% if %}")
    with pytest.raises(RequestError, match="chat template"):
        tokenizer.render_chat(messages, template="{{ messages[9].content + 1 }}")
    with pytest.raises(RequestError, match="chat template"):
        tokenizer.render_chat(messages, template="{{ ''.__class__.__mro__ }}{{ 1 / 0 }}")


def test_no_template_points_to_completions() -> None:
    with pytest.raises(RequestError, match="/v1/completions"):
        KINDS["byte_level"].render_chat([{"role": "user", "content": "hi"}])
    text = KINDS["byte_level"].render_chat([{"role": "user", "content": "hi"}], template=TEMPLATE)
    assert text.startswith("<s>user")


def test_added_tokens_are_appended_in_order(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    size = tokenizer.vocab_size
    more = tokenizer.with_added([AddedToken("<tool>", special=True), AddedToken("日本")])
    assert more.vocab["<tool>"] == size
    assert more.vocab_size == size + 1
    assert tokenizer.vocab_size == size
    assert more.decode(more.encode("a<tool>b")) == "ab"
    assert more.added_tokens[size] == AddedToken("<tool>", special=True, normalized=False) or (
        more.added_tokens[size] == AddedToken("<tool>", special=True)
    )
    more.save(folder / "saved")
    assert load_tokenizer(folder / "saved").vocab == more.vocab


def test_broken_and_missing_tokenizers(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(SourceError, match="cannot be loaded"):
        load_tokenizer(tmp_path)


def test_loading_and_chatting_imports_no_torch(folder: Path) -> None:
    script = (
        "import sys, pathlib\n"
        "from evoserve.tokenizer import load_tokenizer\n"
        "assert 'transformers' not in sys.modules\n"
        f"tokenizer = load_tokenizer(pathlib.Path({str(folder)!r}))\n"
        "tokenizer.encode_chat([{'role': 'user', 'content': 'hi'}])\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


DEMO = Path(__file__).parents[2] / "models" / "demo" / "smollm2-135m-instruct"


@pytest.mark.skipif(not DEMO.exists(), reason="the demo checkpoint is not on this machine")
def test_smollm2_agrees_with_transformers() -> None:
    tokenizer = load_tokenizer(DEMO)
    fast = PreTrainedTokenizerFast.from_pretrained(str(DEMO))
    messages = [{"role": "user", "content": "Grüße, 世界! 🙂"}]
    ids = tokenizer.encode_chat(messages)
    expected = fast.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert ids == expected
    stream = tokenizer.detokenizer(skip_special_tokens=False)
    assert "".join(map(stream.push, ids)) + stream.flush() == tokenizer.render_chat(messages)
    assert tokenizer.eos_token_ids == {2}
