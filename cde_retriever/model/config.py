"""Validate what a two-stage model is built from, the content of a checkpoint's ``config.json``, and freeze it."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from cde_retriever.context.head_settings import FITTED_SIZE, HeadSettings
from cde_retriever.errors import ConfigError

FORMAT_VERSION = 1
CONTEXT_ATTENTIONS = ("cached", "joint", "late")
POSITIONS = ("text", "prompt_and_text", "sequence")
OUTPUT_HEADS = ("none", "mlp", "residual_mlp")
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PROJECTION_KEYS = {
    "dense": {"kind", "inputs", "outputs", "bias", "activation", "residual"},
    "layer_norm": {"kind", "outputs"},
    "normalize": {"kind"},
    "lengths": {"kind", "outputs", "longest"},
}
ROLES = ("query", "document")
ACTIVATIONS = ("gelu", "relu")
CUT, WINDOWS = "cut", "windows"
NULL_CONTEXTS = ("vector", "repeated", "none")
JOINT_ONLY = ("first_stage_head", "output_activation", "embedding_norm", "pool_after_token", "null_context")
"""What the authors' own weights need, and `joint` alone has."""
OPTIONAL = ("pooling", "pool_prompt", "projection", "corpus_head", "long_texts", "query_encoder", *JOINT_ONLY)
"""Fields that are written only where they are not at their default, so that older checkpoints keep their hashes."""


@dataclass(frozen=True)
class ModelConfig:
    """Architecture and text handling of a two-stage model.

    Attributes:
        name: The model's name; recorded in every context it makes.
        second_stage: Configuration of the second stage's backbone, as `transformers` writes it
            (``model_type`` and sizes).
        first_stage: The same for the first stage's backbone.
        context_attention: ``"cached"``: context tokens attend to the context, text tokens to context and text, so
            that the context's keys and values are computed once. ``"joint"``: every token attends to every token,
            as in the paper (section 4.2). ``"late"``: a plain encoder, whose output alone meets the
            context; needs unit dataset embeddings of its own width, no projection, no prompt tokens.
        context_moments: Whether under ``"late"`` the pooled vector is moved by the context's mean and covariance.
        term_statistics: Whether the context also counts in how many of its documents each token occurs, which decides
            what the tokens of a text weigh (`cde_retriever.model.terms`); needs ``"late"``.
        term_shrinkage: How far, in [0, 1), what tokens say in a context is drawn back to what they say in general; 0
            for not at all; needs `term_statistics`.
        sketch_width: Dimensions that term weights are projected to and stand beside the pooled vector; a multiple of 8,
            0 for none; needs `term_statistics`.
        context_size: How many context documents a corpus is sampled to (J). Under ``"joint"`` the trained number.
        prompt_tokens: Learned soft-prompt tokens between context and text.
        positions: Which tokens carry positions. ``"text"``: context and prompt stand at position 0, the text counts
            from 0, so the context is a set. ``"prompt_and_text"``: context at 0, prompt and text count on from J
            (released v1). ``"sequence"``: everything counts from 0, context order matters (released v2).
            The last two need ``context_attention="joint"``.
        context_projection: Whether a linear map leads from the first stage's vectors to the second stage's inputs;
            needed where the widths differ.
        output_head: What follows pooling: nothing, an MLP, or an MLP added to the pooled vector.
        normalize_first_stage: Whether dataset embeddings have unit length.
        share_word_embeddings: Whether both stages use one word-embedding matrix, stored once.
        share_backbone: Whether both stages are one encoder, stored once; needs ``"late"`` and equal settings.
        pooling: Ways in which token vectors are pooled (`POOLINGS`); the results of several stand side by side.
        pool_prompt: Whether the tokens of a prompt, special ones before it included, are pooled too.
        projection: Layers between pooling and the final normalisation, as `cde_retriever.model.projection` reads them;
            needs ``"late"``.
        corpus_head: Settings of what a context does to the vectors of a plain encoder, outside of any backend
            (`cde_retriever.context.head_settings.HeadSettings`); needs ``"late"`` without moments and term statistics.
            None for none.
        query_encoder: sha256 of the checkpoint in the folder ``queries``, whose encoder reads queries, where this one
            reads documents alone; None for one that reads both. Needs a `corpus_head`.
        first_stage_head: What follows pooling in the first stage: nothing (``"none"``), or an MLP (``"mlp"``).
        output_activation: Between the layers of the output head: ``"gelu"`` or ``"relu"``.
        embedding_norm: Whether the second stage's backbone normalises what enters it (ModernBERT); if not, its table
            holds words that are normalised already.
        pool_after_token: Leave out of pooling all up to the first token of this id, where a text has one; None pools
            all. The first place is never looked at.
        null_context: What stands for no context: one learned vector (``"vector"``), the vector in every place
            (``"repeated"``), or nothing, so that there is no null context (``"none"``).
        max_length: Longest text in tokens, prompt and special tokens included.
        long_texts: What becomes of longer ones: the rest is cut off (``"cut"``), or they are read whole as overlapping
            windows (``"windows"``, `cde_retriever.encoder.windows`), which needs a `corpus_head`.
        prompts: Text put before a query and before a document.
    """

    name: str
    second_stage: Mapping[str, Any]
    first_stage: Mapping[str, Any]
    context_attention: str = "cached"
    context_moments: bool = True
    term_statistics: bool = False
    term_shrinkage: float = 0.0
    sketch_width: int = 0
    context_size: int = 512
    prompt_tokens: int = 0
    positions: str = "text"
    context_projection: bool = True
    output_head: str = "none"
    normalize_first_stage: bool = True
    share_word_embeddings: bool = False
    share_backbone: bool = False
    pooling: tuple[str, ...] = ("mean",)
    pool_prompt: bool = True
    projection: tuple[Mapping[str, Any], ...] = ()
    corpus_head: Mapping[str, Any] | None = None
    first_stage_head: str = "none"
    output_activation: str = "gelu"
    embedding_norm: bool = True
    pool_after_token: int | None = None
    null_context: str = "vector"
    query_encoder: str | None = None
    max_length: int = 512
    long_texts: str = CUT
    prompts: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(ROLES, ""))

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, all faults in one message."""
        faults = list(self._faults())
        if faults:
            raise ConfigError("invalid model configuration: " + "; ".join(faults), faults)

    def _faults(self) -> Iterator[str]:
        for name, allowed in (
            ("context_attention", CONTEXT_ATTENTIONS),
            ("positions", POSITIONS),
            ("output_head", OUTPUT_HEADS),
            ("first_stage_head", OUTPUT_HEADS[:2]),
            ("output_activation", ACTIVATIONS),
            ("null_context", NULL_CONTEXTS),
            ("long_texts", (CUT, WINDOWS)),
        ):
            if getattr(self, name) not in allowed:
                yield f"{name} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}"
        for name, least in (("context_size", 1), ("prompt_tokens", 0), ("max_length", 3)):
            if getattr(self, name) < least:
                yield f"{name} is {getattr(self, name)}, expected at least {least}"
        for name in ("first_stage", "second_stage"):
            if "model_type" not in getattr(self, name):
                yield f"{name} has no model_type"
        if not isinstance(self.name, str):
            yield f"name is {self.name!r:.60}, expected text"
        if any(not isinstance(prompt, str) for prompt in dict(self.prompts).values()):
            yield f"prompts are {self.prompts!r:.60}, expected text"
        if set(self.prompts) != set(ROLES):
            yield f"prompts has the keys {sorted(self.prompts)}, expected {sorted(ROLES)}"
        yield from self._faults_of_pooling()
        yield from self._misfits()
        yield from self._faults_of_corpus_head()

    def _faults_of_pooling(self) -> Iterator[str]:
        unknown = [way for way in self.pooling if way not in POOLINGS]
        if unknown or not self.pooling:
            yield f"pooling is {list(self.pooling)}, expected some of {', '.join(POOLINGS)}"
        for number, layer in enumerate(self.projection):
            kind = layer.get("kind")
            if set(layer) != PROJECTION_KEYS.get(str(kind)):
                yield f"layer {number} of projection is {dict(layer)}, expected one of {', '.join(PROJECTION_KEYS)}"
        late = self.context_attention == "late"
        for name, fits in (("projection", not self.projection), ("pooling", len(self.pooling) < 2)):
            if not fits and not late:
                yield f"{name} has {len(getattr(self, name))} parts, which needs context_attention 'late'"
        if not self.pool_prompt and not late:
            yield "pool_prompt is false, which needs context_attention 'late'"

    def _faults_of_corpus_head(self) -> Iterator[str]:
        if self.corpus_head is None:
            for name in ("long_texts", "query_encoder"):
                if getattr(self, name) not in (None, CUT):
                    yield f"{name} is {getattr(self, name)!r}, which needs a corpus_head"
            return
        if self.context_attention != "late" or self.context_moments or self.term_statistics:
            yield "corpus_head needs context_attention 'late', context_moments false and term_statistics false"
        try:
            HeadSettings.from_dict(self.corpus_head)
        except ConfigError as error:
            yield str(error)

    def _misfits(self) -> Iterator[str]:
        """Say which settings do not go with the layout."""
        late = self.context_attention == "late"
        if self.positions != "text" and self.context_attention != "joint":
            yield f"positions is {self.positions!r}, which needs context_attention 'joint'"
        for name, value in (("context_projection", False), ("prompt_tokens", 0), ("normalize_first_stage", True)):
            if late and getattr(self, name) != value:
                yield f"{name} is {getattr(self, name)}, which context_attention 'late' needs to be {value}"
        for name in self.released_switches if self.context_attention != "joint" else ():
            yield f"{name} is {getattr(self, name)!r}, which needs context_attention 'joint'"
        yield from self._misfits_of_terms()
        widths = [stage.get("hidden_size") for stage in (self.first_stage, self.second_stage)]
        if widths[0] != widths[1] and (late or not self.context_projection):
            needs = "context_attention 'late' needs equal widths" if late else "that needs context_projection"
            yield f"the stages are {widths[0]} and {widths[1]} wide; {needs}"

    def _misfits_of_terms(self) -> Iterator[str]:
        """Say which settings of what only `late` has contradict each other."""
        late = self.context_attention == "late"
        for name in ("term_statistics", "share_backbone"):
            if getattr(self, name) and not late:
                yield f"{name} is true, which needs context_attention 'late'"
        if late and not self.context_moments and not self.term_statistics and self.corpus_head is None:
            yield (
                "context_moments and term_statistics are both false and corpus_head is None, which leaves 'late' "
                "without a context"
            )
        if not 0 <= self.term_shrinkage < 1:
            yield f"term_shrinkage is {self.term_shrinkage}, expected at least 0 and less than 1"
        elif self.term_shrinkage and not self.term_statistics:
            yield f"term_shrinkage is {self.term_shrinkage}, which needs term_statistics"
        if self.sketch_width < 0 or self.sketch_width % 8:
            yield f"sketch_width is {self.sketch_width}, expected a multiple of 8, or 0 for none"
        elif self.sketch_width and not self.term_statistics:
            yield f"sketch_width is {self.sketch_width}, which needs term_statistics"
        if self.share_backbone and dict(self.first_stage) != dict(self.second_stage):
            yield "share_backbone is true, but first_stage and second_stage differ"

    @classmethod
    def around(
        cls, encoder: Mapping[str, Any], head: HeadSettings | None, *, context_size: int = 0, **settings: Any
    ) -> "ModelConfig":
        """Return the configuration of one plain encoder that sees no context itself, with a corpus head or moments.

        Args:
            encoder: The encoder's own configuration.
            head: The head's; None for moments, which change nothing until they are trained.
            context_size: Most context documents; 0 for `FITTED_SIZE` where the head fits queries, else what is usual.
            settings: Fields that the layout does not decide.
        """
        usual = FITTED_SIZE if head is not None and head.query_noise else cls.context_size
        return cls(
            first_stage=encoder,
            second_stage=encoder,
            context_attention="late",
            context_size=context_size or usual,
            context_moments=head is None,
            context_projection=False,
            share_backbone=True,
            corpus_head=None if head is None else head.to_dict(),
            **settings,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
        """Read what `to_dict` wrote.

        Raises:
            ConfigError: for an unknown format version or key, or contradicting values.
        """
        values = dict(values)
        version = values.pop("cde_format_version", None)
        if version != FORMAT_VERSION:
            raise ConfigError(
                f"cde_format_version is {version!r}, this version reads {FORMAT_VERSION}; is this a CDE checkpoint?"
            )
        known = [f.name for f in fields(cls)]
        for key in values:
            if key not in known:
                nearest = difflib.get_close_matches(key, known, n=1)
                hint = f", did you mean {nearest[0]!r}?" if nearest else ""
                raise ConfigError(f"unknown key {key!r} in the model configuration{hint}")
        for name in ("pooling", "projection"):
            if isinstance(values.get(name), list):
                values[name] = tuple(values[name])
        try:
            return cls(**values)
        except TypeError as error:
            raise ConfigError(f"incomplete model configuration: {error}") from error

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that `from_dict` and JSON take."""
        values = {"cde_format_version": FORMAT_VERSION, **asdict(self)}
        for field_ in fields(self):
            if field_.name in OPTIONAL and values[field_.name] == field_.default:
                del values[field_.name]
        return values

    @property
    def released_switches(self) -> tuple[str, ...]:
        """Names of what is set that the authors' own weights alone need."""
        defaults = {field_.name: field_.default for field_ in fields(self)}
        return tuple(name for name in JOINT_ONLY if getattr(self, name) != defaults[name])

    @property
    def plain_width(self) -> int:
        """Width of a text's vector before the context has its say."""
        width = int(self.second_stage["hidden_size"]) * len(self.pooling)
        return next((int(layer["outputs"]) for layer in reversed(self.projection) if "outputs" in layer), width)

    @property
    def keeps_lengths(self) -> bool:
        """Whether a vector's last number stands for its length (`cde_retriever.model.projection.Lengths`)."""
        return bool(self.projection) and self.projection[-1]["kind"] == "lengths"

    @property
    def first_stage_width(self) -> int:
        """Width of the dataset embeddings."""
        return self.plain_width if self.context_attention == "late" else int(self.first_stage["hidden_size"])

    @property
    def order_matters(self) -> bool:
        """Whether permuting the context changes the output, so that its order belongs to its identity."""
        return self.positions == "sequence"
