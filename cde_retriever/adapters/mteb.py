"""`CDEModel`: a contextual encoder as a model of MTEB, which fits a context to each task before it embeds for it.

Of a task with a corpus (retrieval, reranking) the corpus is sampled, when MTEB has it indexed and before any query. Of
all other tasks MTEB shows a model nothing but texts to embed; there the context is sampled from the first:

| task | context |
| --- | --- |
| classification | the training texts of the subset, for its test texts too |
| clustering, STS, pair classification and others | the first texts of the subset and split; of pairs their left sides |

All texts but queries are embedded as documents.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import mteb
import numpy as np
from mteb._create_dataloaders import create_dataloader
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.cache import ResultCache
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta, ScoringFunction
from mteb.models.search_wrappers import SearchEncoderWrapper
from mteb.types import PromptType
from numpy.typing import NDArray

from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.errors import ConfigError

ONE_CONTEXT_FOR_SPLITS = ("Classification", "MultilabelClassification")
"""Types of tasks whose splits are compared with each other."""


class CDEModel(AbsEncoder):  # type: ignore[misc]  # mypy does not read mteb
    """A contextual encoder that MTEB can evaluate on any of its tasks on texts.

    Seed and size of the context are part of the model's revision, under which MTEB keeps results.

    Args:
        encoder: The encoder; it keeps the context it has.
        seed: Seed of the contexts' samples.
        context_size: Most context documents; None for the model's own number.
    """

    mteb_model_meta: ModelMeta

    def __init__(self, encoder: ContextualEncoder, *, seed: int = 0, context_size: int | None = None) -> None:
        self._encoder = encoder.fork()
        self._seed, self._context_size = seed, context_size
        self._fitted: tuple[str, ...] | None = None
        identity, size = encoder.identity, context_size or encoder.config.context_size
        self.mteb_model_meta = ModelMeta.create_empty(
            {
                "name": f"cde/{identity.name.replace('/', '__')}",
                "revision": f"{identity.sha256[:12]}-{encoder.dimension}d-seed{seed}-J{size}",
                "embed_dim": encoder.dimension,
                "max_tokens": encoder.config.max_length,
                "similarity_fn_name": ScoringFunction.COSINE,
            }
        )
        self._search = SearchEncoderWrapper(self)

    def index(
        self, corpus: Any, *, task_metadata: TaskMetadata, hf_split: str, hf_subset: str, **settings: Any
    ) -> None:
        """Fit the context to a corpus and keep it for `search`; see MTEB's ``SearchProtocol``."""
        loader = create_dataloader(corpus, task_metadata=task_metadata, prompt_type=PromptType.document)
        self._fit(_texts(loader), _key(task_metadata, hf_split, hf_subset))
        self._search.index(corpus, task_metadata=task_metadata, hf_split=hf_split, hf_subset=hf_subset, **settings)

    def search(self, queries: Any, **settings: Any) -> Any:
        """Rank the corpus, or what of it was ranked before, for each query; see MTEB's ``SearchProtocol``."""
        return self._search.search(queries, **settings)

    def encode(
        self,
        inputs: Any,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        prompt_type: PromptType | None = None,
        **settings: Any,
    ) -> NDArray[np.float32]:
        """Return vectors, (n, d) float32, under the task's context; see MTEB's ``EncoderProtocol``."""
        texts = list(_texts(inputs))
        key = _key(task_metadata, hf_split, hf_subset)
        if key != self._fitted:
            self._fit(texts, key)
        encode = self._encoder.encode_queries if prompt_type == PromptType.query else self._encoder.encode_documents
        return encode(
            texts,
            batch_size=settings.get("batch_size", 32),
            show_progress=bool(settings.get("show_progress_bar", False)),
        )

    def _fit(self, texts: Iterable[str], key: tuple[str, ...]) -> None:
        self._encoder.fit_context(texts, seed=self._seed, context_size=self._context_size)
        self._fitted = key


def _key(task: TaskMetadata, split: str, subset: str) -> tuple[str, ...]:
    """Return what tells contexts of tasks apart."""
    return (task.name, subset) if task.type in ONE_CONTEXT_FOR_SPLITS else (task.name, subset, split)


def _texts(loader: Iterable[Any]) -> Iterator[str]:
    for batch in loader:
        yield from batch["text"]


def tasks_named(names: Sequence[str]) -> list[Any]:
    """Return tasks by their names and those of benchmarks, such as ``"NanoBEIR"``, ``"BEIR"`` or ``"SciFact"``.

    Raises:
        ConfigError: if there is no such task or benchmark.
    """
    found: list[Any] = []
    for name in names:
        try:
            found += mteb.get_benchmark(name).tasks
        except KeyError:
            try:
                found.append(mteb.get_task(name))
            except KeyError as error:
                raise ConfigError(f"MTEB has no task or benchmark {name!r}: {error.args[0]}") from error
    return found


def evaluate(
    encoder: ContextualEncoder,
    tasks: Sequence[Any],
    *,
    seed: int = 0,
    context_size: int | None = None,
    results: Path | None = None,
) -> Iterator[dict[str, Any]]:
    """Evaluate an encoder on tasks, one after the other; yield one row for each split and subset.

    Args:
        encoder: The encoder.
        tasks: MTEB's tasks (`tasks_named`).
        seed: As for `CDEModel`.
        context_size: As for `CDEModel`.
        results: Folder in which MTEB keeps results, and finds those of before; None for its own.
    """
    model, cache = CDEModel(encoder, seed=seed, context_size=context_size), ResultCache(results)
    for task in tasks:
        (result,) = mteb.evaluate(model, task, cache=cache).task_results
        for split, scores in result.scores.items():
            for row in scores:
                yield {
                    "task": result.task_name,
                    "split": split,
                    "subset": row["hf_subset"],
                    "measure": task.metadata.main_score,
                    "score": row["main_score"],
                    "revision": model.mteb_model_meta.revision,
                }
