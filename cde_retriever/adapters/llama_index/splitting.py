"""Split documents into nodes that the model reads whole.

LlamaIndex's own splitter makes nodes of 1,024 tokens of another tokenizer; a model that reads 256 would never see three
quarters of the text. Tokens are counted here as the model counts them, metadata that are embedded with a node included.
"""

from typing import Any

from llama_index.core.constants import DEFAULT_CHUNK_SIZE
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, MetadataMode, TransformComponent
from llama_index.core.settings import Settings

from cde_retriever.adapters.token_counter import token_counter, tokens_for_text
from cde_retriever.encoder.encoder import ContextualEncoder

SPLIT = (
    "split documents with transformations=[embed.sentence_splitter()], which CDEVectorStoreIndex does by default, and "
    "leave long metadata out with excluded_embed_metadata_keys"
)
"""What to do where texts were cut."""
OVERLAP = 8
"""Neighbouring nodes share one part in so many."""
LEAST = 4
"""Metadata leave at least one part in so many for the text; what is too long is cut, and told (`cut_texts`)."""


class ModelSentenceSplitter(SentenceSplitter):
    """A sentence splitter whose nodes fit a model, with the metadata that are embedded before their text."""

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex serialises the class under."""
        return "ModelSentenceSplitter"

    def split_text_metadata_aware(self, text: str, metadata_str: str) -> list[str]:
        """Return parts of a text of which each fits together with the metadata."""
        limit = max(self.chunk_size - len(self._tokenizer(metadata_str)), self.chunk_size // LEAST, 1)
        size = limit
        while True:
            parts: list[str] = self._split_text(text, size)
            excess = max((len(self._tokenizer(part)) for part in parts), default=0) - limit
            if excess <= 0 or size == 1:
                return parts
            size = max(1, size - excess)  # joined, sentences may have more tokens than each alone

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what a copy in another process is made from; LlamaIndex would count by its own tokenizer there."""
        fields = {name: value for name, value in vars(self).items() if name != "callback_manager"}
        return _restored, (type(self), {**fields, "tokenizer": self._tokenizer})

    def _get_metadata_str(self, node: BaseNode) -> str:
        return node.get_metadata_str(mode=MetadataMode.EMBED)


def _restored(cls: type[ModelSentenceSplitter], arguments: dict[str, Any]) -> ModelSentenceSplitter:
    return cls(**arguments)


def splitter_for(encoder: ContextualEncoder, chunk_overlap: int | None = None) -> ModelSentenceSplitter:
    """Return a splitter for a model.

    Args:
        encoder: The model.
        chunk_overlap: How many tokens neighbouring nodes share; None for an eighth of what the model reads.
    """
    size = tokens_for_text(encoder)
    return ModelSentenceSplitter(
        chunk_size=size,
        chunk_overlap=size // OVERLAP if chunk_overlap is None else chunk_overlap,
        tokenizer=token_counter(encoder.tokenizer),  # type: ignore[call-arg] # SentenceSplitter.__init__ takes it
    )


def transformations_for(encoder: ContextualEncoder) -> list[TransformComponent]:
    """Return what the user chose in LlamaIndex's `Settings`, else a splitter for the model."""
    chosen: list[TransformComponent] = Settings._transformations or []
    if chosen and not (len(chosen) == 1 and _by_default(chosen[0])):
        return chosen
    parser: Any = Settings._node_parser
    return [splitter_for(encoder)] if _by_default(parser) else [parser]


def _by_default(parser: Any) -> bool:
    """Tell whether nobody chose a parser: LlamaIndex puts its default into `Settings` when a stock index is built."""
    return parser is None or (type(parser) is SentenceSplitter and parser.chunk_size == DEFAULT_CHUNK_SIZE)
