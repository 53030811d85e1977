"""Define `cde verify`: tell which network the authors' released weights belong to."""

import argparse
from dataclasses import asdict
from pathlib import Path

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_revision

EXAMPLES = """\
  cde verify jxm/cde-small-v2 --pairs biosses.jsonl    the model card says 86.71 on BIOSSES, 87.71 on STSBenchmark
  cde verify jxm/cde-small-v1 --pairs biosses.jsonl    the model card says 86.73 on BIOSSES"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    verify = program.add(
        "verify", "Score every network that released weights may belong to; the highest fits.", _verify, EXAMPLES
    )
    verify.add_argument("model", metavar="MODEL", help="released checkpoint, as folder or Hub id")
    add_revision(verify)
    verify.add_argument(
        "--pairs", required=True, metavar="FILE", help="judged pairs as JSONL rows of sentence1, sentence2 and score"
    )


def _verify(options: argparse.Namespace) -> None:
    from cde_retriever.checkpoint.folder import find_checkpoint
    from cde_retriever.encoder.variants import read_pairs, score_variants

    folder, _ = find_checkpoint(options.model, options.revision)
    scores = []
    for score in score_variants(folder, read_pairs(Path(options.pairs))):
        scores.append(score)
        residual, prompt = ("yes" if value else "no" for value in (score.residual, score.whole_text))
        say(f"{score.spearman:6.2f}  embedding norm {score.norms or '-'}, residual {residual}, prompt pooled {prompt}")
    best = max(scores, key=lambda score: score.spearman)
    write_result({"best": asdict(best), "scores": [asdict(score) for score in scores]})
