"""Define `cde wrap`: write any encoder as a checkpoint."""

import argparse
from pathlib import Path

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_revision
from cde_retriever.model.config import POOLINGS

EXAMPLES = """\
  cde wrap BAAI/bge-small-en-v1.5 -o bge-cde           keep its own pooling, prompts and maximum length
  cde wrap ./my-encoder -o mine --pooling mean         say how an encoder of transformers is pooled"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    wrap = program.add("wrap", "Write an encoder as a checkpoint that knows its corpus.", _wrap, EXAMPLES)
    wrap.add_argument("model", metavar="MODEL", help="sentence-transformers model or encoder, as folder or Hub id")
    add_revision(wrap)
    wrap.add_argument("-o", "--output", required=True, metavar="OUT", help="folder to write the checkpoint to")
    wrap.add_argument("--pooling", choices=POOLINGS, help="how token vectors become one (default: what the model says)")
    wrap.add_argument("--max-length", type=int, metavar="N", help="longest text in tokens (default: the model's own)")
    wrap.add_argument("--query-prompt", metavar="TEXT", help="text put before queries (default: the model's own)")
    wrap.add_argument("--document-prompt", metavar="TEXT", help="text put before documents (default: the model's own)")


def _wrap(options: argparse.Namespace) -> None:
    from cde_retriever.encoder.encoder import ContextualEncoder

    given = {"query": options.query_prompt, "document": options.document_prompt}
    encoder = ContextualEncoder.from_pretrained(
        options.model,
        revision=options.revision,
        device="cpu",
        pooling=options.pooling,
        max_length=options.max_length,
        prompts={role: prompt for role, prompt in given.items() if prompt is not None} or None,
    )
    folder = encoder.save_pretrained(Path(options.output).expanduser())
    say(f"{folder} holds {encoder.identity.name}, {encoder.dimension} numbers a vector; CDEEmbedding({str(folder)!r})")
    said = {"output": str(folder), "sha256": encoder.identity.sha256, "dimension": encoder.dimension}
    write_result({**said, "max_length": encoder.config.max_length})
