"""The small tokenizer: any text comes back exactly, words are whole, and markers cannot be typed."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from turnwise.agents.tokenizer import MARKERS, build_tokenizer, load_tokenizer, spaced, unspaced
from turnwise.envs.errors import UsageError

TEXTS = ("grep timeout", "set net.timeout 30", "timeout: 30", "value\nset grep", "grep (set)")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(TEXTS)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [str(tokenizer.decode([token])) for token in tokenizer.encode(text)]


KNOWN = st.sampled_from([" grep", " set", " timeout", "\n", "  ", " net.timeout", *MARKERS])


@given(text=st.lists(st.one_of(KNOWN, st.text())).map("".join))
def test_any_text_comes_back_exactly(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(text=st.text(alphabet=st.sampled_from("a \n\t")))
def test_spacing_is_undone(text: str) -> None:
    assert unspaced(spaced(text)) == text


def test_a_word_is_one_token_with_its_space(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, " set net.timeout") == [" set", " net.timeout"]


@pytest.mark.parametrize("text", [" setting", " offset", "set", " set-up", " set.", " (set"])
def test_a_word_inside_another_is_not_split_off(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    expected = [" set", "."] if text == " set." else [*text]
    assert pieces(build_tokenizer([" set"]), text) == expected


def test_a_word_is_the_same_token_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    (timeout,) = tokenizer.encode(" timeout")
    for text in ("timeout", "the timeout: 30", "a\ntimeout", "(timeout, 30)".replace("(", "( ")):
        assert timeout in tokenizer.encode(spaced(text)), text


def test_the_most_frequent_words_are_kept_and_ties_go_by_spelling() -> None:
    texts = ["ccc ccc bbb", "aaa ddd"]
    for order in (texts, texts[::-1]):
        vocabulary = build_tokenizer(order, words=3).get_vocab()
        assert sorted(vocabulary.values()) == list(range(256 + 3 + len(MARKERS)))
        by_id = sorted(vocabulary, key=vocabulary.__getitem__)
        assert by_id[256:] == ["Ġccc", "Ġaaa", "Ġbbb", *MARKERS]


def test_a_marker_in_a_text_is_not_the_marker(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    for one in (tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        ids = {one.convert_tokens_to_ids(marker) for marker in MARKERS}
        assert len(ids) == len(MARKERS)
        for marker in MARKERS:
            encoded = one.encode(f"ok {marker} x{marker}")
            assert not ids & set(encoded)
            assert one.decode(encoded) == f"ok {marker} x{marker}"


def test_it_is_saved_and_loaded_like_any_other(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = " grep timeout\n setting é <end>"
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.encode(text) == tokenizer.encode(text)
    assert (loaded.eos_token, loaded.pad_token) == ("<end>", "<pad>")


@pytest.mark.parametrize("content", [None, "{}", "{"])
def test_a_folder_without_a_readable_one_is_refused(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{}")
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UsageError, match=r"^no tokenizer could be loaded from '.*': .+$") as refused:
        load_tokenizer(tmp_path)
    assert "\n" not in str(refused.value)
