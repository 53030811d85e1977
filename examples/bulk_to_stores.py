"""Embed a file of documents in bulk, and put both parts of each into Qdrant, and into LanceDB.

python -m examples.bulk_to_stores
"""

import json
from pathlib import Path

import lancedb
import pyarrow.parquet
from qdrant_client import QdrantClient, models

from cde_retriever import Context, ContextualEncoder
from cde_retriever.bulk.parts import sparse_of, vectors_of
from cde_retriever.bulk.reading import read_parts
from cde_retriever.cli.main import main as cde
from cde_retriever.context.knowledge import Parts
from cde_retriever.search.hybrid import search, sparse_vectors
from examples.small_corpus import few_docstrings

QUESTION = "add a file to an archive"


def main() -> dict[str, str]:
    """Return the id of the best document in each store."""
    rows = [json.dumps({"id": name, "text": text}) + "\n" for name, text in few_docstrings("zipfile", "heapq").items()]
    Path("corpus.jsonl").write_text("".join(rows))
    cde(["embed", "corpus.jsonl", "-o", "vectors", "--parts", "both"])  # the command line, resumable

    encoder = ContextualEncoder.from_pretrained()
    encoder.set_context(Context.load("vectors"))  # the context of the vectors, and no other
    query = encoder.encode_queries([QUESTION], parts="both")
    found = {"Qdrant": in_qdrant(encoder.dense_dimension, query), "LanceDB": in_lancedb(query)}
    print(QUESTION, "->", found)
    return found


def in_qdrant(width: int, query: Parts) -> str:
    """Fill a collection with both parts and return the id that the sum of both scores ranks first."""
    client = QdrantClient(":memory:")  # or the address of a server
    client.create_collection(
        "documents",
        vectors_config={"dense": models.VectorParams(size=width, distance=models.Distance.DOT)},
        sparse_vectors_config={"words": models.SparseVectorParams()},
    )
    for part in read_parts("vectors"):
        for row, words in enumerate(sparse_vectors(part.sparse)):
            vector = {"dense": part.vectors[row].tolist(), "words": models.SparseVector(**words._asdict())}
            client.upsert("documents", [models.PointStruct(id=row, vector=vector, payload={"id": part.ids[row]})])
    (words,) = sparse_vectors(query.sparse)
    answer = client.query_points(
        "documents",
        prefetch=[
            models.Prefetch(query=query.dense[0].tolist(), using="dense", limit=1000),
            models.Prefetch(query=models.SparseVector(**words._asdict()), using="words", limit=1000),
        ],
        query=models.FormulaQuery(
            formula=models.SumExpression(sum=["$score[0]", "$score[1]"]),
            defaults={"$score[0]": 0.0, "$score[1]": 0.0},
        ),
        limit=1,
    )
    return str((answer.points[0].payload or {})["id"])


def in_lancedb(query: Parts) -> str:
    """Fill a table with both parts, find a thousand documents by the dense one, and order these by both."""
    table = lancedb.connect("lancedb").create_table("documents", pyarrow.parquet.read_table("vectors"))
    near = table.search(query.dense[0], vector_column_name="vector").distance_type("dot").limit(1000).to_arrow()
    words = sparse_of(near)
    assert words is not None  # as `--parts both` wrote them
    best = search(query, Parts(vectors_of(near), words.csr()), 1).positions[0][0]
    return str(near["id"][int(best)])


if __name__ == "__main__":
    main()
