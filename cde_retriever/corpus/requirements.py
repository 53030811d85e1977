"""Say which extra brings the packages that read folders of documents."""


def missing_package(missing: ModuleNotFoundError) -> ImportError:
    """Return the error for a package that is not installed."""
    return ImportError(f'{missing}; install it with: pip install "cde-retriever[bulk]"')
