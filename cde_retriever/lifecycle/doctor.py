"""Examine a corpus: what context is worth on it, and which setting to take.

Every text is embedded once, plain. All contexts are made of these vectors, so a setting costs seconds.

| setting | what ranks |
| --- | --- |
| plain | the encoder alone |
| BM25 | words alone |
| BM25 + plain | 0.4 BM25 + 0.6 plain, each scaled to 0 … 1 query by query |
| two parts, one vector | the encoder with a corpus head, under null, foreign or own context of J documents |
| documents as they are | their plain vectors, and queries fitted to the words of an own context |

On questions that people judged, two parts are also tried with words that count twice and half as much (`ALPHAS`).

nDCG@10 of each is measured on the same questions (`cde_retriever.lifecycle.trial`); intervals are of differences to
plain, question by question.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
from numpy.typing import NDArray

from cde_retriever.checkpoint.reading import QUERIES
from cde_retriever.context.context import Context
from cde_retriever.context.head_settings import FITTED_SIZE, HeadSettings
from cde_retriever.context.knowledge import Parts
from cde_retriever.context.making import make_context
from cde_retriever.context.sampling import sample_documents
from cde_retriever.encoder.corpus_head import CorpusHead
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.lifecycle.kept_vectors import Embed
from cde_retriever.lifecycle.trial import Scores, Trial, ndcg
from cde_retriever.search.bm25 import score_bm25
from cde_retriever.search.hybrid import score_one_form, weigh
from cde_retriever.search.mixture import WORD_SHARE, mixed

PLAIN, BM25, MIXTURE = "plain", "BM25", "BM25 + plain"
FORMS = {"both": "two parts", "one": "one vector", QUERIES: "documents as they are"}
SIZES = (16, 128, 512, 2048, FITTED_SIZE)
ALPHAS = (1 / 3, 2 / 3)
"""What vectors count beside words (`cde_retriever.search.hybrid.weigh`), beside what the context says."""
RESAMPLES = 2000
LEAD = 3.0
"""nDCG@10 x 100 by which made questions must put a setting above the usual one for it to be recommended."""


@dataclass(frozen=True)
class Setting:
    """A way to search, measured.

    Attributes:
        name: What ranks.
        model: Name of the encoder; empty for BM25.
        parts: ``"both"`` or ``"one"`` for those with a corpus head, ``"queries"`` for a context that changes queries
            alone (`HeadSettings.for_queries`), else empty.
        context: ``"null"``, ``"foreign"``, ``"own"``, or empty.
        size: Documents in the context.
        alpha: What vectors count beside words; 0.5 is what the context says.
        quality: nDCG@10 of each question, from 0 to 1.
        agreement: How far vectors and words agree on which of the context's documents are near
            (`cde_retriever.context.agreement`); None without own context.
    """

    name: str
    model: str
    parts: str
    context: str
    size: int
    quality: NDArray[np.float64]
    alpha: float = 0.5
    agreement: float | None = None

    @property
    def mean(self) -> float:
        """Mean nDCG@10 times 100."""
        return 100 * float(self.quality.mean())


def examine(
    encoder: ContextualEncoder,
    trial: Trial,
    embed: Embed,
    *,
    foreign: Sequence[str] | None = None,
    sizes: Sequence[int] = SIZES,
    language: str | None = None,
    seed: int = 0,
) -> list[Setting]:
    """Measure every setting of one encoder.

    Args:
        encoder: The encoder, with a corpus head.
        trial: Documents and questions.
        embed: Makes its plain vectors (`cde_retriever.lifecycle.kept_vectors`).
        foreign: Documents of another corpus, for the row of a foreign context; None for no such row.
        sizes: Documents in a context, for two parts. As one vector the largest is measured, of the documents drawn as
            large a share as it would hold of the corpus, since one vector is worth what its context holds.
        language: Language of the corpus, as `ContextualEncoder.fit_context` takes it.
        seed: Seed of contexts.

    Raises:
        ConfigError: for a model without a corpus head.
    """
    examination = _Examination(encoder, trial, embed, language, seed)
    settings = examination.without_context()
    null = encoder.null_context()
    settings += [examination.under(null, parts, "null") for parts in ("both", "one")]
    if foreign is not None:
        settings.append(
            examination.under(examination.fit(foreign, max(sizes), embed(foreign, "document")), "both", "foreign")
        )
    own = cache(lambda size: examination.fit(trial.documents, size, examination.documents))
    most = len(trial.documents)  # larger contexts are the same
    contexts = [own(min(size, most)) for size in sorted(sizes)]
    fitted = {context.size: context for context in contexts}
    settings += [examination.under(context, "both", "own") for context in fitted.values()]
    largest = fitted[max(fitted)]
    if trial.judged:
        settings += [examination.under(largest, "both", "own", alpha) for alpha in ALPHAS]
    forms = {"one": max(sizes)} | ({QUERIES: FITTED_SIZE} if examination.head.moves_documents else {})
    for parts, size in forms.items():
        held = own(min(max(round(size * trial.share), 1), most))
        settings.append(examination.under(held, parts, "own"))
    return settings


class _Examination:
    """One encoder's vectors of a trial, and rankings by them."""

    def __init__(self, encoder: ContextualEncoder, trial: Trial, embed: Embed, language: str | None, seed: int) -> None:
        self.encoder, self.trial, self.language, self.seed = encoder, trial, language, seed
        self.documents = embed(trial.documents, "document")
        self.texts = [question.text for question in trial.questions]
        self.queries = embed(self.texts, "query")
        self.head = HeadSettings.from_dict(encoder.config.corpus_head or {})

    def setting(
        self, name: str, scores: Scores, parts: str = "", context: str = "", size: int = 0, alpha: float = 0.5
    ) -> Setting:
        model = "" if name == BM25 else self.encoder.config.name
        return Setting(name, model, parts, context, size, ndcg(scores, self.trial.questions), alpha)

    def without_context(self) -> list[Setting]:
        """Return plain, BM25 and both together."""
        words = np.stack(list(score_bm25(self.trial.documents, self.texts)))
        scores = score_without_context(words, self.queries @ self.documents.T)
        return [self.setting(name, found) for name, found in scores.items()]

    def fit(self, texts: Sequence[str], size: int, vectors: NDArray[np.float32]) -> Context:
        """Return the context that `ContextualEncoder.fit_context` would make of texts, out of their vectors.

        It keeps all that exact words are weighed by, also where the head alone would not need it.
        """
        sample = sample_documents(texts, size, self.seed)
        place = {text: row for row, text in enumerate(texts)}
        rows = vectors[[place[text] for text in sample.texts]]
        words = self.encoder.count_words(sample.texts, self.language, whole=True)
        return make_context(sample, rows, self.encoder.identity, words=words)

    def under(self, context: Context, parts: str, kind: str, alpha: float = 0.5) -> Setting:
        """Return the ranking by a form of a setting's parts under a context, measured; `alpha` is for two parts."""
        width = self.documents.shape[1]
        settings, dimension, form = self.head, self.encoder.dimension, parts
        if parts == QUERIES:
            settings, dimension, form = settings.for_queries(), width, "one"
        head = CorpusHead(settings, context, width, dimension)
        documents = head.documents(self.documents, self.trial.documents, form)
        queries = head.queries(self.queries, self.texts, form)
        if isinstance(queries, Parts):
            queries = weigh(queries, alpha)
        name = f"{FORMS[parts]}, {kind} context" + (f" of {context.size}" if context.size else "")
        name += f", alpha {alpha:.2f}" if alpha != 0.5 else ""
        found = self.setting(name, score_one_form(queries, documents), parts, kind, context.size, alpha)
        return replace(found, agreement=head.agreement.value) if kind == "own" else found


def score_without_context(words: Scores, plain: Scores) -> dict[str, Scores]:
    """Return the scores, (q, n), of plain, BM25 and both together, given BM25's and inner products of plain vectors."""
    mixture = np.stack([mixed(*rows, WORD_SHARE) for rows in zip(words, plain, strict=True)])
    return {PLAIN: plain, BM25: np.where(words > 0, words, np.float32(-np.inf)), MIXTURE: mixture}


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the 95 % interval of a mean difference, times 100, questions drawn again."""
    rng = np.random.default_rng(0)
    rows = rng.integers(len(differences), size=(RESAMPLES, len(differences)))
    low, high = np.quantile(100 * differences[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def recommend(settings: Sequence[Setting], *, judged: bool) -> Setting:
    """Return the setting to take.

    On judged questions the best; of contexts that differ by chance alone the largest, of alphas 0.5. On questions
    made of documents the one that is best on most corpora, two parts under the largest own context, unless another
    is more than `LEAD` above it: made questions do not tell which of them people are better served by
    (`docs/figures/doctor.md`). A foreign context is never recommended, BM25 alone on judged questions only: those
    made of a document's own words flatter it.

    Args:
        settings: Those of one encoder or several, measured on the same questions.
        judged: Whether people judged the questions.
    """
    eligible = [one for one in settings if one.context != "foreign" and (judged or one.name != BM25)]
    best = max(eligible, key=lambda setting: setting.mean)
    usual = [] if judged else [one for one in eligible if (one.parts, one.context) == ("both", "own")]
    if usual:
        first = max(usual, key=lambda setting: (setting.size, setting.mean))
        if best.mean - first.mean <= LEAD:
            return first
    alike = [
        other
        for other in settings
        if (other.model, other.parts, other.context) == (best.model, best.parts, best.context)
        and interval(best.quality - other.quality)[0] <= 0
    ]
    return max(alike, key=lambda setting: (setting.size, setting.alpha == 0.5, setting.mean))


def merge(found: Sequence[Sequence[Setting]], names: Sequence[str] | None = None) -> list[Setting]:
    """Return the settings of several encoders as one list, with BM25, which needs none, once.

    Args:
        found: The settings of each.
        names: What each was opened by, which tells encoders of one name apart.
    """
    own = [next(setting.model for setting in settings if setting.model) for settings in found]
    merged: list[Setting] = []
    for number, settings in enumerate(found):
        name = names[number] if names and own.count(own[number]) > 1 else own[number]
        kept = [setting for setting in settings if not number or setting.name != BM25]
        merged += [replace(setting, model=setting.model and name) for setting in kept]
    return merged
