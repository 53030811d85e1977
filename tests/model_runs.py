"""Count the texts that run through a model."""

from typing import Any

from cde_retriever.backends.pytorch import TorchBackend


def count_texts(monkeypatch: Any) -> list[int]:
    """Return a list that grows by how many texts the model is given at once."""
    embed, seen = TorchBackend.embed, []

    def counted(self: Any, input_ids: Any, *rest: Any, **named: Any) -> Any:
        seen.append(len(input_ids))
        return embed(self, input_ids, *rest, **named)

    monkeypatch.setattr(TorchBackend, "embed", counted)
    return seen
