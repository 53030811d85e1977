"""The same texts under many contexts, for the price of one where the layout allows it.

Under `late` the backbone does not see the context, so its hidden states are computed once and only the head runs once
a context. The other layouts run whole. The vectors are those of `encode_documents` and `encode_queries`.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm.auto import tqdm

from cde_retriever.backends.pytorch import TorchBackend
from cde_retriever.context.context import Context
from cde_retriever.encoder.batches import batches_of
from cde_retriever.encoder.encoder import DEFAULT_BATCH, ContextualEncoder
from cde_retriever.model.late import LateSecondStage

Vectors = NDArray[np.float32]


def encode_under(
    encoder: ContextualEncoder,
    texts: Sequence[str],
    role: str,
    contexts: Sequence[Context],
    *,
    show_progress: bool = False,
) -> list[Vectors]:
    """Embed texts under each context.

    Args:
        encoder: The checkpoint; keeps whatever context it has.
        texts: The texts.
        role: ``"query"`` or ``"document"``.
        contexts: Contexts of this model.
        show_progress: Whether to show progress bars on stderr.

    Returns:
        Unit vectors, (n, d) float32, one array a context.
    """
    forks = [encoder.fork() for _ in contexts]
    for fork, context in zip(forks, contexts, strict=True):
        fork.set_context(context)
    backend = encoder.backend
    second = backend.running.second_stage if isinstance(backend, TorchBackend) else None
    if not isinstance(second, LateSecondStage) or encoder.truncate_dim is not None:
        names = {"query": "encode_queries", "document": "encode_documents"}
        return [getattr(fork, names[role])(texts, show_progress=show_progress) for fork in forks]
    tokenizer = encoder.text_tokenizer(encoder.config.max_length)
    ids = tokenizer.tokenize(texts, role).ids
    output = [np.zeros((len(texts), encoder.dimension), np.float32) for _ in contexts]
    states = [fork._require_active().state for fork in forks]
    with torch.inference_mode(), tqdm(total=len(ids), desc="Embedding", unit="text", disable=not show_progress) as bar:
        for rows in batches_of(ids, DEFAULT_BATCH):
            input_ids, mask = (
                torch.as_tensor(array, device=encoder.device) for array in tokenizer.pad([ids[i] for i in rows], role)
            )
            hidden = second.hidden_states(input_ids, mask, states[0])
            for vectors, state in zip(output, states, strict=True):
                vectors[rows] = second.contextualise(hidden, input_ids, mask, state).float().cpu().numpy()
            bar.update(len(rows))
    return output
