"""Long texts are cut before they are tokenised: the tokens are those of the whole text, whatever the tokenizer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from cde_retriever import ContextualEncoder
from cde_retriever.corpus.text_start import SPLITTING_PATTERNS, safe_end
from cde_retriever.encoder import tokens
from cde_retriever.encoder.tokens import TextTokenizer
from tests.tiny import documents, tiny_encoder, tiny_tokenizer

LENGTH = 12
CORPUS = [*documents(60), "Über 東京 it's  two\nlines, naïve “words” 12345 don't\tstop…"] * 2


def trained(model, trainer, normalizer, splitter):
    """Train a tokenizer on a small corpus."""
    tokenizer = Tokenizer(model)
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])
    return tokenizer


def byte_level(splitter, normalizer=None):
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer = trained(models.BPE(), trainer, normalizer, splitter)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_tokens(["  ", "   "])  # as ModernBERT has them
    return tokenizer


def unigram(splitter):
    """As SentencePiece's models are converted: NFKC, runs of blanks as one, words behind a mark."""
    normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Strip(left=False, right=True), normalizers.Replace(Regex(" {2,}"), "▁")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    return trained(models.Unigram(), trainer, normalizer, splitter)


def of_pattern(pattern):
    parts = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return byte_level(pre_tokenizers.Sequence(parts), normalizers.NFC())


def bundled():
    return ContextualEncoder.from_pretrained(device="cpu").tokenizer


KINDS = {
    "WordPiece": tiny_tokenizer,
    "bundled": bundled,
    "ByteLevel": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), normalizers.NFC()),
    "prefix space": lambda: byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "Metaspace": lambda: unigram(pre_tokenizers.Metaspace()),
    "WhitespaceSplit": lambda: unigram(
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    ),
} | {
    f"pattern {i}": lambda pattern=pattern: of_pattern(pattern) for i, pattern in enumerate(sorted(SPLITTING_PATTERNS))
}


@pytest.fixture(scope="module")
def kinds():
    return {name: make() for name, make in KINDS.items()}


PIECES = [
    *[
        "baron",
        "kolak",
        "misim",
        "Über",
        "naïve",
        "it's",
        "don't",
        "x",
        "q" * 130,
        "東京都",
        "東",
        "한국어",
        "ไทย",
        "12345",
    ],
    *[
        "7",
        "½",
        "Σ",
        "ǅ",
        "ﬁ",
        " ",
        "  ",
        "   ",
        " " * 40,
        "\n",
        "\r\n",
        "\t",
        ".",
        ",",
        "...",
        "(",
        "“",
        "_",
        "▁",
        "##a",
    ],
    *[
        "\u0301",
        "\u200d",
        "\u200b",
        "\ufeff",
        "\x00",
        "\xad",
        "\u3164",
        "\u0600",
        "\u0d4e",
        "\u3000",
        "\xa0",
        "😀",
        "👩\u200d🚀",
    ],
    *["▁", "##a", "👩\u200d🚀", "<s>", "[SEP]", "[CLS]", "'s", "'"],
]


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.lists(st.sampled_from(PIECES), max_size=120), prompt=st.sampled_from(["", "query: ", "a"]))
@settings(max_examples=60, deadline=None)
def test_tokens_are_those_of_the_whole_text(kinds, kind, parts, prompt):
    tokenizer, text = kinds[kind], "".join(parts)
    ours = TextTokenizer(tokenizer, prompts={"document": prompt}, max_length=LENGTH, pad_token_id=0)
    assert ours._safe_end is not None, "this kind would be given texts whole"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokens, "CHARACTERS_A_TOKEN", 1)
        found = ours.tokenize(["short", text], "document")
    whole = ours.tokenizer.encode(prompt + text)
    assert found.ids[1] == whole.ids
    assert (1 in found.truncated) is bool(whole.overflowing)


@pytest.mark.parametrize("kind", KINDS)
def test_a_long_text_is_read_as_far_as_needed(kinds, kind, monkeypatch):
    ours = TextTokenizer(kinds[kind], prompts={"document": ""}, max_length=LENGTH, pad_token_id=0)
    read = []

    class Listening:
        def encode_batch_fast(self, texts):
            read.extend(map(len, texts))
            return ours.tokenizer.encode_batch_fast(texts)

    text = "baron kolak misim " * 500_000
    listening = TextTokenizer(kinds[kind], prompts={"document": ""}, max_length=LENGTH, pad_token_id=0)
    assert listening._safe_end is not None  # found before the tokenizer is another
    listening.tokenizer = Listening()
    found = listening.tokenize([text, " " * 3_000 + text], "document")
    assert max(read) < 20_000
    short = ours.tokenizer.encode_batch([text[:5_000], " " * 3_000 + text[:5_000]])
    assert found.ids == [encoding.ids for encoding in short]
    assert found.truncated == [0, 1]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Split(Regex(r"\w+ \w+"), "isolated")),
        lambda t: setattr(t, "pre_tokenizer", pre_tokenizers.Metaspace(split=False)),
        lambda t: setattr(t, "normalizer", normalizers.Replace(" ", "▁")),
        lambda t: setattr(t, "normalizer", normalizers.Replace(Regex(r"\w \w"), "")),
        lambda t: t.add_tokens(["New York"]),
    ],
)
def test_an_unknown_part_means_texts_are_tokenised_whole(change):
    tokenizer = tiny_tokenizer()
    change(tokenizer)
    assert safe_end(tokenizer) is None
    ours = TextTokenizer(tokenizer, prompts={"document": ""}, max_length=LENGTH, pad_token_id=0)
    text = "New York baron " * 200
    assert ours.tokenize([text], "document").ids == [ours.tokenizer.encode(text).ids]


def test_many_long_texts_are_tokenised_in_bounded_chunks(monkeypatch):
    encoder = tiny_encoder()
    texts = documents(40, words=30)
    expected = encoder.tokenize([*texts, "kolak " * 90])
    monkeypatch.setattr(tokens, "CHARACTERS_AT_ONCE", 100)
    assert encoder.tokenize([*texts, "kolak " * 90]) == expected
    assert expected.truncated[-1] == 40
    chunks = list(tokens._chunks(texts, 50))
    assert [text for chunk in chunks for text in chunk] == texts
    assert max(sum(min(len(text), 50) for text in chunk) for chunk in chunks) <= 100
    assert np.mean([len(chunk) for chunk in chunks]) > 1
