"""Describe a corpus head: the few numbers by which a context changes plain vectors and weighs words."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from cde_retriever.errors import ConfigError

LATER = {
    "directions": 0,
    "levelling": 0.0,
    "pair_weight": 0.0,
    "query_noise": 0.0,
    "query_neighbours": 0,
    "attended": 0,
    "word_scale": 0.0,
}
"""What is not written where it is this, so that identities stay."""
_FIRST = {"rareness": 1.0, "sharing": 1.0, "skip_question_words": False, **LATER}
"""What holds for models that were stored, with all numbers of their time, before these were settings."""
LEVELLING = 0.11
"""Power by which main directions of less variance count for more, learned on 44 corpora with all-MiniLM-L6-v2."""
FITTED_ALONE: dict[str, Any] = {"query_noise": 0.05, "query_neighbours": 256}
"""By what queries are fitted where the vectors they are compared with hold no words."""
NOISY_WIDTH = 432
"""A projection to so many numbers has as much noise as it tells of words, so fewer are worth less."""
FITTED_SIZE = 8192
"""Context documents by which queries are fitted: more than moving documents needs, as each is a place where words are
known."""


@dataclass(frozen=True)
class HeadSettings:
    """Settings of a corpus head, part of a model's configuration; the same for every corpus and every encoder.

    "Spreads" are standard deviations of the cosines between distinct documents of the context, which is how far one
    encoder's similarities differ from another's.

    Attributes:
        language: Whose stemmer words go through, ``"none"`` for none; a context may say another.
        prior: Name of the word prior that comes with the package.
        prior_documents: How many documents the prior counts as.
        sharpness: How sharply documents attend to the context (`cde_retriever.context.neighbours`).
        amount: How far they move towards what they attend to.
        attended: How many context documents they attend to, and topics are found of, at most; 0 for all.
        rareness: Power of what a word says (`cde_retriever.words.weights`).
        sharing: Power of what all words of a query say, which each is divided by.
        skip_question_words: Whether "what", "does" and the like are left out of queries
            (`cde_retriever.words.stop_words`).
        word_weight: What exact words are worth beside a cosine, in spreads.
        gram_weight: The same for the grams of the words.
        pair_weight: The same for pairs of words that the context knows (`cde_retriever.words.pairs`).
        sketch: Numbers of the one vector that are a random projection of a text's words, beside the encoder's own; 0
            for a vector without words, where queries alone know them.
        sketch_weight: What words are worth there, in spreads.
        word_scale: What these numbers are multiplied by in documents, and divided by in queries, so that documents are
            about as long and cosines rank as inner products do; 0 for one number more, which makes them as long.
        topics: Numbers before them that stand for topics of the context, at most so many; the projection is of the
            rest then.
        topic_weight: What words within the topics are worth, in spreads.
        typical_spread: The spread where no context shows one.
        directions: So many numbers the encoder's own vector has in the one vector, those of the context's main
            directions (`cde_retriever.context.directions`), and more where topics are missing; 0 for all as they are.
        levelling: Power by which directions of less variance count for more.
        query_noise: λ by which queries of one vector are fitted to the context's exact words
            (`cde_retriever.context.fitted_queries`); 0 for not at all.
        query_neighbours: How many context documents, those nearest to a query, it is fitted to; 0 for all.
    """

    language: str = "english"
    prior: str = "english"
    prior_documents: float = 4.0
    sharpness: float = 3.0
    amount: float = 0.3
    rareness: float = 1.5
    sharing: float = 0.5
    skip_question_words: bool = True
    word_weight: float = 0.31
    gram_weight: float = 0.31
    pair_weight: float = 0.5
    topics: int = 0
    sketch: int = 384
    topic_weight: float = 0.85
    sketch_weight: float = 0.4
    typical_spread: float = 0.12
    directions: int = 0
    levelling: float = 0.0
    query_noise: float = 0.1
    query_neighbours: int = 128
    attended: int = 1024
    word_scale: float = 0.2

    def __post_init__(self) -> None:
        """Refuse numbers out of range, all faults in one message."""
        faults = list(self._faults())
        if faults:
            raise ConfigError("invalid corpus head: " + "; ".join(faults))

    def _faults(self) -> Iterator[str]:
        for name in ("prior_documents", "sharpness", "rareness", "typical_spread"):
            if not getattr(self, name) > 0:
                yield f"{name} is {getattr(self, name)}, expected above 0"
        for name in (
            "amount",
            "sharing",
            "word_weight",
            "gram_weight",
            "pair_weight",
            "topics",
            "sketch",
            "topic_weight",
            "sketch_weight",
            "directions",
            "levelling",
            "query_noise",
            "query_neighbours",
            "attended",
            "word_scale",
        ):
            if not getattr(self, name) >= 0:
                yield f"{name} is {getattr(self, name)}, expected at least 0"

    def sized(self, size: int, plain_width: int) -> "HeadSettings":
        """Return settings of a one vector of `size` numbers beside an encoder's `plain_width`.

        Fewer are the main directions of the context's documents; as many are the encoder's own; more are these and
        words.
        """
        usual, alone = HeadSettings(), self._without_words()
        if size == plain_width:
            return alone
        if size < plain_width:
            return replace(alone, directions=size, levelling=LEVELLING, word_scale=usual.word_scale)
        words = ("sketch", "sketch_weight", "word_scale", "query_noise", "query_neighbours")
        return replace(alone, **{name: getattr(usual, name) for name in words})._sketched(size - plain_width)

    def _without_words(self) -> "HeadSettings":
        """Return settings of a one vector that is the encoder's own."""
        return replace(self, topics=0, sketch=0, directions=0, levelling=0.0, word_scale=0.0, **FITTED_ALONE)

    def _sketched(self, width: int) -> "HeadSettings":
        """Return settings of a projection to so many numbers, the fewer the less they count."""
        if width == self.sketch:
            return self
        return replace(self, sketch=width, sketch_weight=self.sketch_weight * _told(width) / _told(self.sketch))

    @classmethod
    def short(cls, size: int) -> "HeadSettings":
        """Return settings of a one vector of `size` numbers, words among them, for queries that are not fitted.

        Two thirds are directions, one a length, the rest topics; what ``cde-train fit --config distil`` teaches.
        Levelling and topics' weight were learned on 44 corpora with all-MiniLM-L6-v2.
        """
        directions = 2 * size // 3
        return cls(
            directions=directions,
            levelling=LEVELLING,
            topics=size - directions - 1,
            sketch=0,
            topic_weight=0.63,
            word_scale=0.0,
            query_noise=0.0,
            query_neighbours=0,
            attended=0,
        )

    def for_queries(self) -> "HeadSettings":
        """Return settings by which a context changes queries alone, and documents keep the encoder's own vectors."""
        return replace(self._without_words(), amount=0.0, attended=0)

    @property
    def moves_documents(self) -> bool:
        """Whether documents' vectors depend on the context."""
        return self.amount > 0 or self.word_width > 0 or self.directions > 0

    @property
    def word_width(self) -> int:
        """How many numbers of the one vector are of words."""
        return self.topics + self.sketch

    @property
    def added_width(self) -> int:
        """How many numbers the one vector has beside those of the encoder: of words, and perhaps one for its length."""
        return self.word_width + self.lengthened

    @property
    def lengthened(self) -> bool:
        """Whether one number more makes all documents' vectors as long."""
        return not self.word_scale and (self.word_width > 0 or self.directions > 0)

    @property
    def topic_settings(self) -> dict[str, Any]:
        """What topics of given words depend on."""
        seen = {"attended": self.attended} if self.attended else {}
        return {name: getattr(self, name) for name in ("topics", "sketch", "prior", "prior_documents")} | seen

    def kept_width(self, plain_width: int) -> int:
        """Return how many numbers of an encoder's own, of `plain_width`, the one vector has at least."""
        return min(self.directions or plain_width, plain_width)

    def full_width(self, plain_width: int) -> int:
        """Return how many numbers the one vector has, given how many an encoder's own has."""
        return self.kept_width(plain_width) + self.added_width

    def cut(self, plain_width: int, dimension: int) -> "HeadSettings":
        """Return settings of a one vector of fewer numbers: the sketch goes first, then topics, then directions."""
        kept = self.kept_width(plain_width)
        room = max(dimension - kept - self.lengthened, 0)
        topics = min(self.topics, room)
        sketch = min(self.sketch, room - topics)
        cut = replace(self, topics=topics, directions=self.directions and min(kept, dimension))
        if self.query_noise and self.word_width and not topics + sketch:
            return replace(cut, sketch=0, **FITTED_ALONE)
        return cut._sketched(sketch) if self.word_scale else replace(cut, sketch=sketch)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "HeadSettings":
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: for an unknown key or a number out of range.
        """
        unknown = sorted(set(values) - {field.name for field in fields(cls)})
        if unknown:
            raise ConfigError(
                f"unknown keys {unknown} in corpus_head; expected {', '.join(f.name for f in fields(cls))}"
            )
        first = _FIRST if "word_weight" in values else {}
        return cls(**{**first, **values})

    def to_dict(self) -> dict[str, Any]:
        """Return plain values; of later settings only those that are used, so that identities stay."""
        return {name: value for name, value in asdict(self).items() if value or name not in LATER}


def _told(width: int) -> float:
    """Return which share of a projection to so many numbers tells of words, the rest being noise."""
    return width / (width + NOISY_WIDTH)
