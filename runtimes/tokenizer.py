"""A bundle's tokenizer: text to tokens, and tokens to text as they come."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from tokenizers import Encoding, Tokenizer

from seqexport.plugins.errors import UserError
from seqexport.runtimes.bundle import Bundle
from seqexport.runtimes.quiet import one_line
from seqexport.runtimes.tokenizer_file import load_tokenizer

BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
UNREADABLE = "\N{REPLACEMENT CHARACTER}"
FUSING = ("Fuse", "ByteLevel")
"""Decoders that make one text of all tokens, so that what follows them sees more than one."""

CONTEXT = 8
"""Tokens whose text is out that are decoded along with new ones: decoders treat the first token differently."""


class BundleTokenizer:
    """The tokenizer that a bundle's checkpoint came with.

    Raises:
        UserError: the bundle has none, or it cannot be read.
    """

    def __init__(self, bundle: Bundle) -> None:
        if bundle.tokenizer is None:
            raise UserError(
                f"{bundle.path} has no tokenizer.json: put one beside the checkpoint's weights and export again, "
                "or use the Python API with tokens"
            )
        self._tokenizer = load_tokenizer(bundle.tokenizer)

    def encode(self, text: str, *, special_tokens: bool = True) -> list[int]:
        """The tokens of a text, with those that the tokenizer puts around a text by itself or without."""
        characters = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # no half of a pair
        return encode(self._tokenizer, characters, special_tokens=special_tokens).ids

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of tokens; special ones are spelled out."""
        return decode(self._tokenizer, tokens)

    def stream(self, after: Sequence[int] = ()) -> TextStream:
        """Text of tokens that come one by one after others, whose text is out already."""
        return TextStream(self._tokenizer, after)

    def push(self, streams: Sequence[TextStream], tokens: Sequence[Sequence[int]]) -> list[str | UserError]:
        """What each stream gives of its next tokens, or why the tokenizer fails on them; all at once, on all cores."""
        ready = [stream for stream, its in zip(streams, tokens, strict=True) if stream.add(its)]
        given = {id(stream): _given(stream, text) for stream, text in zip(ready, self._texts(ready), strict=True)}
        return [given.get(id(stream), "") for stream in streams]

    def _texts(self, streams: Sequence[TextStream]) -> list[str | UserError]:
        try:
            return list(self._tokenizer.decode_batch([each.tokens for each in streams], skip_special_tokens=False))
        except BaseException:  # a panic too
            return [self._text(each) for each in streams]

    def _text(self, stream: TextStream) -> str | UserError:
        try:
            return self.decode(stream.tokens)
        except UserError as error:
            return error


def _given(stream: TextStream, text: str | UserError) -> str | UserError:
    return text if isinstance(text, UserError) else stream.give(text)


class TextStream:
    """Gives text as soon as no later token can change it: in the end, what ``decode`` makes of all tokens.

    What can still change is a character of which not all bytes came, and any run of byte tokens (``<0xE2>``): one
    that fits no character makes the whole run unreadable. A decoder that replaces across tokens gives all at the end.

    Attributes:
        tokens: whose text is not out yet, after some that are decoded along with them.
    """

    def __init__(self, tokenizer: Tokenizer, after: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._waits = _replaces_across_tokens(tokenizer)
        self.tokens: list[int] = []
        self._set_context(_without_bytes_at_end(tokenizer, after))

    def push(self, token: int) -> str:
        """The text that became certain with this token; often none."""
        return self.give(decode(self._tokenizer, self.tokens)) if self.add([token]) else ""

    def add(self, tokens: Sequence[int]) -> bool:
        """Take tokens; whether the text of all that are here now is to be given to ``give``."""
        names = [(token, name) for token in tokens if (name := self._tokenizer.id_to_token(token)) is not None]
        self.tokens += [token for token, _ in names]  # a vocabulary may be padded beyond its tokens
        return bool(names) and not self._waits and BYTE_TOKEN.fullmatch(names[-1][1]) is None

    def give(self, text: str) -> str:
        """The part of the text of ``tokens`` that no later token can change, and that is not out yet."""
        piece = self._give(text, len(text.rstrip(UNREADABLE)))
        if self._shown == len(text) and len(self.tokens) > 2 * CONTEXT:
            self._set_context(self.tokens)
        return piece

    def finish(self) -> str:
        """The rest of the text."""
        text = decode(self._tokenizer, self.tokens)
        return self._give(text, len(text))

    def _set_context(self, tokens: Sequence[int]) -> None:
        self.tokens = list(tokens[-CONTEXT:])
        self._shown = len(decode(self._tokenizer, self.tokens))

    def _give(self, text: str, end: int) -> str:
        start, self._shown = self._shown, max(self._shown, end)
        return text[start : self._shown]


def encode(tokenizer: Tokenizer, text: str, *, special_tokens: bool = True) -> Encoding:
    """Raises UserError: the tokenizer has no token for a part of the text, or fails on it."""
    with one_line("tokenizer.json", "its tokenizer fails on the text"):
        return tokenizer.encode(text, add_special_tokens=special_tokens)


def decode(tokenizer: Tokenizer, tokens: Sequence[int]) -> str:
    """Raises UserError: the tokenizer fails on the tokens."""
    try:
        text: str = tokenizer.decode(list(tokens), skip_special_tokens=False)
    except BaseException:  # a panic too
        with one_line("tokenizer.json", "its tokenizer fails on the tokens"):
            raise
    return text


def _without_bytes_at_end(tokenizer: Tokenizer, tokens: Sequence[int]) -> Sequence[int]:
    """A text's last bytes are whole characters: no byte that comes later may join them."""
    known = [(token, name) for token in tokens if (name := tokenizer.id_to_token(token)) is not None]
    while known and BYTE_TOKEN.fullmatch(known[-1][1]):
        known.pop()
    return [token for token, _ in known]


def _replaces_across_tokens(tokenizer: Tokenizer) -> bool:
    if tokenizer.decoder is None:
        return False
    steps = json.loads(tokenizer.decoder.__getstate__()).get("decoders", [])
    kinds = [step["type"] for step in steps]
    fused = min((kinds.index(kind) for kind in FUSING if kind in kinds), default=len(kinds))
    return any(step["type"] == "Replace" for step in steps[fused + 1 :])
