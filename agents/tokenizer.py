"""The project's own small tokenizer, for models small enough to learn on a laptop.

A vocabulary of 256 bytes, so that any text can be written and read back exactly, and one token for each
frequent word. A word is a token only as a whole: text is first split into words (with the space before
them), marks and single white space, then each piece is looked up; a piece that is no token is spelled in
bytes, never with part of another word. There are no merges to learn, and the result is a standard
Hugging Face tokenizer (byte-level BPE with ``ignore_merges``), saved and loaded like any other.

The four markers structure an episode and cannot be typed: where a text contains ``<end>``, these are
five bytes and not the marker.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from turnwise.envs.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

TASK = "<task>"
"""Starts an episode."""
ACT = "<act>"
"""The policy's turn begins."""
END = "<end>"
"""The policy's turn ends."""
PAD = "<pad>"
MARKERS = (TASK, ACT, END, PAD)

PIECE = r" ?[\w./~+-]*\w| ?[^\w\s]|\s"
"""A word, name, number or path; a mark; or one white space. The first two with a space before them."""


def spaced(text: str) -> str:
    """The text with a space before every line, so that a word is the same token wherever it stands."""
    return " " + text.replace("\n", "\n ")


def unspaced(text: str) -> str:
    """What :func:`spaced` was given; text that misses some of the spaces is taken as well."""
    return text.replace("\n ", "\n").removeprefix(" ")


def build_tokenizer(texts: Iterable[str], *, words: int = 256) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are the ``words`` most frequent ones of ``texts``; ties go by spelling.

    The texts are counted as :func:`spaced` writes them. The same texts give the same vocabulary:
    256 bytes, the words by falling frequency, and the four markers.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    split = pre_tokenizers.Split(Regex(PIECE), "isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = pre_tokenizers.Sequence([split, to_bytes])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(piece for piece, _ in pieces.pre_tokenize_str(spaced(text)) if len(piece) > 1)
    frequent = sorted(counts, key=lambda piece: (-counts[piece], piece))[:words]
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *frequent]

    ids = {piece: i for i, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pieces
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(marker, special=True, normalized=False) for marker in MARKERS])
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[TASK, ACT],
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer saved in a folder. Raises ``UsageError`` where there is none that can be read."""
    from transformers import AutoTokenizer

    if not (folder / "tokenizer_config.json").is_file():
        raise UsageError(f"{str(folder)!r} is no model's folder: it has no tokenizer_config.json")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # the tokenizers package has no narrower one
        reason = " ".join(str(error).split())
        raise UsageError(f"no tokenizer could be loaded from {str(folder)!r}: {reason}") from error
    return tokenizer
