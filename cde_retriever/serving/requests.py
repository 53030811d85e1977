"""Validate what callers ask for, and write answers in OpenAI's format."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

MOST_TEXTS = 2048
"""Most texts of one request, as OpenAI has it."""
Texts = Annotated[list[str], Field(min_length=1)]
EXPECTED = {
    "model": "'name@fingerprint' of a context that is served; GET /v1/contexts lists them",
    "input": f"a text, a list of 1 to {MOST_TEXTS} texts, or a list of lists of them, one a document; no token numbers",
    "input_type": "'query' or 'document' (of OpenAI's client: extra_body={'input_type': 'query'})",
    "encoding_format": "'float' or 'base64'",
    "dimensions": "the number that the server keeps, or nothing",
    "user": "a string, or nothing",
    "documents": "a list of texts, the corpus or a sample of it",
    "language": "the name of a stemmer, such as 'german', or nothing",
}


class EmbeddingRequest(BaseModel):
    """What ``POST /v1/embeddings`` takes: OpenAI's request, and which side of a search the texts are on."""

    model_config = ConfigDict(extra="forbid")
    model: str
    input: str | Texts | Annotated[list[Texts], Field(min_length=1)]
    input_type: Literal["query", "document"]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None
    user: str | None = None

    def texts(self) -> list[str]:
        """Return all texts, chunks of all documents in their order."""
        if isinstance(self.input, str):
            return [self.input]
        return [text for item in self.input for text in ([item] if isinstance(item, str) else item)]

    def places(self) -> list[dict[str, int]]:
        """Return of each text its number, and those of document and chunk where lists are nested."""
        if isinstance(self.input, str) or isinstance(self.input[0], str):
            return [{"index": number} for number in range(len(self.texts()))]
        pairs = [(document, chunk) for document, chunks in enumerate(self.input) for chunk in range(len(chunks))]
        return [{"index": number, "document": one, "chunk": two} for number, (one, two) in enumerate(pairs)]


class ContextRequest(BaseModel):
    """What ``POST /v1/contexts`` takes."""

    model_config = ConfigDict(extra="forbid")
    documents: list[str] = Field(min_length=1)
    language: str | None = None


def write_embeddings(
    request: EmbeddingRequest, vectors: NDArray[np.float32], *, model: str, tokens: int, cut: Sequence[int]
) -> dict[str, Any]:
    """Return the answer to a request.

    Args:
        request: The request.
        vectors: Of its texts, (n, d).
        model: ``name@fingerprint`` in full.
        tokens: How many tokens the model read.
        cut: Numbers of the texts that were longer than it reads.
    """
    if request.encoding_format == "base64":
        written: list[Any] = [base64.b64encode(row.astype("<f4").tobytes()).decode() for row in vectors]
    else:
        written = vectors.tolist()
    data = [
        {"object": "embedding", **place, "embedding": row} for place, row in zip(request.places(), written, strict=True)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": model, "usage": usage, "truncated": list(cut)}


def write_error(status: int, message: str) -> dict[str, Any]:
    """Return an error in OpenAI's format."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def fault_of(errors: Sequence[Any], fields: Sequence[str]) -> str:
    """Say in a sentence what is wrong with a request, given pydantic's errors and the fields it may have."""
    first = errors[0]
    if first["type"] == "json_invalid" or len(first["loc"]) < 2:
        return f"the body is no JSON object ({first['msg']}); send one with Content-Type: application/json"
    field = str(first["loc"][1])
    if first["type"] == "extra_forbidden":
        return f"{field[:100]} is unknown; expected {', '.join(fields)}"
    if first["type"] == "missing":
        return f"{field} is missing, expected {EXPECTED[field]}"
    return f"{field} is {repr(first['input'])[:100]}, expected {EXPECTED[field]}"
