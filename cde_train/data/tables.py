"""Read the rows of files with columns: CSV, TSV, Parquet, and Hugging Face datasets on disk."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cde_retriever.corpus import delimited
from cde_retriever.corpus.delimited import read_delimited
from cde_retriever.corpus.listing import has_ending
from cde_retriever.errors import CorpusError
from cde_train.errors import TrainingDataError

TABLES = (*delimited.ENDINGS, ".parquet")
"""Endings of the files."""
Rows = Iterable[Mapping[str, Any]]


def read_dataset(path: Path) -> Rows:
    """Return the rows of a Hugging Face dataset that was saved with `save_to_disk`, or of its ``train`` split.

    Raises:
        TrainingDataError: if it has splits, but none of that name.
    """
    from datasets import Dataset, load_from_disk  # type: ignore[import-untyped]

    data = load_from_disk(str(path))
    if isinstance(data, Dataset):
        return data  # type: ignore[no-any-return]
    if "train" not in data:
        raise TrainingDataError(f"{path} has no split 'train'; there are {sorted(data)}")
    return data["train"]  # type: ignore[no-any-return]


def read_table(path: Path) -> Rows:
    """Return the rows of a file that ends in one of `TABLES`; in CSV and TSV every value is text.

    Raises:
        TrainingDataError: if it cannot be read; names the line of a CSV or TSV.
    """
    if not has_ending(path.name, (".parquet",)):
        try:
            return [row for _, row in read_delimited(path)]
        except CorpusError as error:
            raise TrainingDataError(str(error)) from error
    from pyarrow import ArrowException, parquet

    try:
        return parquet.read_table(path).to_pylist()  # type: ignore[no-any-return]
    except (ArrowException, OSError) as error:
        raise TrainingDataError(f"{path} cannot be read ({error}); is it whole?") from error
