"""Evaluate a contextual encoder with MTEB; the public door to `cde_retriever.adapters.mteb`."""

try:
    from cde_retriever.adapters.mteb import CDEModel, evaluate, tasks_named
except ImportError as error:
    if str(error.name).startswith("cde_retriever"):  # a fault of ours, nothing missing
        raise
    raise ImportError(f'cde_retriever.mteb needs mteb ({error}); pip install "cde-retriever[mteb]"') from error

__all__ = ["CDEModel", "evaluate", "tasks_named"]


def __dir__() -> list[str]:
    """List the public names alone."""
    return __all__
