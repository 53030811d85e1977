"""What every run of the ablation is trained on: a fixed draw of pairs, and the surrogate's vectors of their texts."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.pair_domains import by_domain
from cde_train.data.pairs import TrainingPair
from cde_train.data.readers import read_pairs
from cde_train.data.retrieval_sets import RetrievalSet
from cde_train.vectors.surrogate import embed_texts, load_surrogate, surrogate_identity
from cde_train.vectors.text_vectors import TextVectors


@dataclass(frozen=True)
class DataConfig:
    """The draw.

    Attributes:
        pairs: Folder of pairs.
        surrogate: Folder of the surrogate.
        length: Longest text the surrogate reads, in tokens.
        pairs_per_domain: Most pairs of a domain.
        leave_out: Domains not used, as the pairs name them.
        seed: Seed of the draw.
    """

    pairs: str
    surrogate: str
    length: int
    pairs_per_domain: int
    leave_out: tuple[str, ...]
    seed: int = 0


def draw_pairs(config: DataConfig) -> list[TrainingPair]:
    """Return the same pairs every time: at most so many of each domain, domains in alphabetical order.

    Raises:
        ValueError: if a domain to leave out is not there.
    """
    drawn: list[TrainingPair] = []
    domains = by_domain(read_pairs(config.pairs))
    unknown = sorted(set(config.leave_out) - set(domains))
    if unknown:
        raise ValueError(f"leave_out names {', '.join(unknown)}, which are not among the domains: {', '.join(domains)}")
    for domain, pairs in domains.items():
        if domain not in config.leave_out:
            rng = random.Random(f"{config.seed}/{domain}")
            drawn += rng.sample(pairs, min(len(pairs), config.pairs_per_domain))
    return drawn


def unseen_sets(config: DataConfig, domains: int = 6, size: int = 400) -> list[RetrievalSet]:
    """Return retrieval over pairs of the training domains that were not drawn, for the domains with most of them."""
    drawn = {(pair.query, pair.document) for pair in draw_pairs(config)}
    known = {document for _, document in drawn}
    left = {
        domain: [pair for pair in pairs if pair.document not in known]
        for domain, pairs in by_domain(read_pairs(config.pairs)).items()
        if domain not in config.leave_out
    }
    sets = []
    for domain in sorted(left, key=lambda name: (-len(left[name]), name))[:domains]:
        pairs = random.Random(f"unseen/{domain}").sample(left[domain], size)
        sets.append(_retrieval_set(domain, pairs))
    return sets


def held_out_sets(config: DataConfig, domains: Sequence[str], size: int = 2000) -> list[RetrievalSet]:
    """Return retrieval over at most so many pairs of each of some domains, which are to be left out of the draw.

    Raises:
        ValueError: if one is not.
    """
    if drawn := sorted(set(domains) - set(config.leave_out)):
        raise ValueError(f"held_out names {', '.join(drawn)}, which are drawn; name them in leave_out too")
    found = by_domain(read_pairs(config.pairs))
    samples = {
        name: random.Random(f"held out/{name}").sample(found[name], min(size, len(found[name]))) for name in domains
    }
    return [_retrieval_set(name, pairs) for name, pairs in samples.items()]


def _retrieval_set(domain: str, pairs: Sequence[TrainingPair]) -> RetrievalSet:
    corpus = {text: f"d{i}" for i, text in enumerate(dict.fromkeys(pair.document for pair in pairs))}
    relevant: dict[str, dict[str, int]] = {}
    for pair in pairs:
        relevant.setdefault(pair.query, {})[corpus[pair.document]] = 1
    names = {query: f"q{i}" for i, query in enumerate(relevant)}
    return RetrievalSet(
        domain,
        tuple(corpus.values()),
        tuple(corpus),
        tuple(names.values()),
        tuple(names),
        {names[query]: gains for query, gains in relevant.items()},
    )


def embed_pairs(pairs: list[TrainingPair], config: DataConfig, folder: Path) -> TextVectors:
    """Return the surrogate's vectors of all queries and documents; resumes."""
    surrogate = load_surrogate(config.surrogate)
    surrogate.max_seq_length = config.length  # type: ignore[attr-defined]
    surrogate.bfloat16()  # type: ignore[attr-defined]
    texts = [text for pair in pairs for text in (pair.query, pair.document)]
    identity = surrogate_identity(surrogate, Path(config.surrogate).name)
    return embed_texts(texts, surrogate, folder, identity=identity, batch_size=64)
