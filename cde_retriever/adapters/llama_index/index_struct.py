"""Record in the index store that an index is ours, and under which context, so that stock functions open it as ours.

`load_index_from_storage` looks up the class of an index by the type in its stored record. With a type of its own the
index comes back as a `CDEVectorStoreIndex`, which checks what it is opened with; where this module was not imported,
LlamaIndex does not know the type and opens nothing.
"""

from dataclasses import asdict, dataclass
from typing import Any, cast

from llama_index.core.data_structs.data_structs import IndexDict
from llama_index.core.data_structs.registry import INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS
from llama_index.core.data_structs.struct_type import IndexStructType
from llama_index.core.indices.base import BaseIndex
from llama_index.core.indices.registry import INDEX_STRUCT_TYPE_TO_INDEX_CLASS

TYPE = cast(IndexStructType, "cde_vector_store")


@dataclass
class CDEIndexDict(IndexDict):
    """The record of an index.

    Attributes:
        stamp: Stamp of the vectors (`cde_retriever.adapters.stamps`); None before there are any.
        growth: What joined since the context was fitted, as `Growth.record` gives it; None for nothing.
    """

    stamp: str | None = None
    growth: dict[str, Any] | None = None

    @classmethod
    def get_type(cls) -> IndexStructType:
        """Return the type that is stored with the record."""
        return TYPE

    @classmethod
    def of(cls, struct: IndexDict) -> "CDEIndexDict":
        """Return a record as one of ours; those of version 0.1.0 are of LlamaIndex's own type."""
        return struct if isinstance(struct, cls) else cls(**asdict(struct))


def register(index_class: type[BaseIndex[Any]]) -> None:
    """Make LlamaIndex open records of this type as this class."""
    INDEX_STRUCT_TYPE_TO_INDEX_STRUCT_CLASS[TYPE] = CDEIndexDict
    INDEX_STRUCT_TYPE_TO_INDEX_CLASS[TYPE] = index_class
