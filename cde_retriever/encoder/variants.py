"""Score every network that released weights may belong to, on pairs of sentences judged by people."""

import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import CorpusError

PROMPT = "classification: "
"""What the authors put before both sentences of a pair."""


@dataclass(frozen=True)
class JudgedPairs:
    """Pairs of sentences and how alike people found them."""

    first: list[str]
    second: list[str]
    scores: list[float]


@dataclass(frozen=True)
class VariantScore:
    """A network and its rank correlation with people's judgements, in hundredths."""

    norms: str | None
    residual: bool
    whole_text: bool
    spearman: float


def read_pairs(path: Path) -> JudgedPairs:
    """Read JSONL rows of ``sentence1``, ``sentence2`` and ``score``.

    Raises:
        CorpusError: if a row is none; names its number.
    """
    pairs = JudgedPairs([], [], [])
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        try:
            row = json.loads(line)
            texts, score = (str(row["sentence1"]), str(row["sentence2"])), float(row["score"])
        except (ValueError, KeyError, TypeError) as error:
            raise CorpusError(
                f"row {number} of {path} is no judged pair ({error!r}); expected sentence1, sentence2 and score"
            ) from error
        pairs.first.append(texts[0])
        pairs.second.append(texts[1])
        pairs.scores.append(score)
    if len(set(pairs.scores)) < 2:
        raise CorpusError(f"{path} holds {len(pairs.scores)} pairs of one score; ranks need several")
    return pairs


def score_variants(folder: Path, pairs: JudgedPairs) -> Iterator[VariantScore]:
    """Yield the score of each network; the pairs' own sentences, in their order, are the context.

    Raises:
        CheckpointError: if the folder holds no released checkpoint, or not a whole one.
    """
    from scipy.stats import spearmanr

    from cde_retriever.checkpoint.kinds import read_json
    from cde_retriever.checkpoint.released import MODERN, Variant, build_variant, refuse_others

    modern = refuse_others(folder, read_json(folder / "config.json")) == MODERN
    norms = ("words", "twice", "once") if modern else (None,)
    whole = (False, True) if modern else (True,)
    for norm, residual, whole_text in itertools.product(norms, (False, True), whole):
        model, tokenizer = build_variant(
            folder, Variant("", residual, whole_text, norm), folder.name, {"query": PROMPT, "document": PROMPT}
        )
        encoder = ContextualEncoder.from_model(model, tokenizer)
        sentences = list(dict.fromkeys([*pairs.first, *pairs.second]))
        encoder.list_context(sentences[: encoder.config.context_size])
        cosines = (encoder.encode_documents(pairs.first) * encoder.encode_documents(pairs.second)).sum(axis=1)
        yield VariantScore(norm, residual, whole_text, 100 * float(spearmanr(cosines, pairs.scores).statistic))
