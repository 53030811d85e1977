"""Define `cde-train evaluate`."""

import argparse
from typing import Any

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.output import output_file, output_folder
from cde_retriever.errors import ConfigError

EXAMPLES = {
    "evaluate": """\
  cde-train evaluate ./scifact                        the bundled model on one judged corpus
  cde-train evaluate my-cde ./beir -o results.json    a model of yours on every judged corpus in a folder""",
}


def add_commands(program: CommandLine) -> None:
    """Add the command to a program."""
    evaluate = program.add(
        "evaluate", "Measure nDCG@10, recall@100 and MRR@10 beside baselines.", _evaluate, EXAMPLES["evaluate"]
    )
    evaluate.add_argument(
        "checkpoint", nargs="?", metavar="CHECKPOINT", help="model folder or Hub id (default: the bundled model)"
    )
    evaluate.add_argument(
        "sets", nargs="?", metavar="SETS", help="judged corpus in BEIR's layout, or a folder of such (no default)"
    )
    evaluate.add_argument(
        "--mteb", nargs="+", metavar="TASK", help="instead of SETS: tasks and benchmarks of MTEB (default: none)"
    )
    evaluate.add_argument("--seed", type=int, default=0, help="with --mteb: seed of the contexts (default: 0)")
    evaluate.add_argument("--start", metavar="CHECKPOINT", help="model that training started from (default: none)")
    evaluate.add_argument(
        "--against",
        metavar="CHECKPOINT",
        help="another model: under each corpus's context, or the null context if it has no corpus head (default: none)",
    )
    evaluate.add_argument("--dtype", help="precision: float32, bfloat16 or float16 (default: float32)")
    evaluate.add_argument("--device", help="device to compute on: cpu, cuda, mps (default: the fastest available)")
    evaluate.add_argument(
        "-o",
        "--output",
        metavar="RESULTS",
        help="file to keep the results in, .json; with --mteb a folder (default: none; with --mteb that of MTEB)",
    )


def checkpoint_and_sets(options: argparse.Namespace) -> tuple[str | None, str]:
    """Return which model to evaluate, None for the bundled one, and on what; one argument alone is the latter.

    Raises:
        ConfigError: if there is none.
    """
    if options.checkpoint is None:
        raise ConfigError("expected SETS, a judged corpus or a folder of such, or --mteb with tasks of MTEB")
    return (options.checkpoint, options.sets) if options.sets is not None else (None, options.checkpoint)


def _evaluate(options: argparse.Namespace) -> None:
    options.continues = bool(options.output or options.mteb)
    if options.mteb is not None:
        _evaluate_mteb(options)
        return
    checkpoint, where = checkpoint_and_sets(options)
    output = output_file(options.output) if options.output is not None else None
    from dataclasses import asdict
    from functools import partial

    from cde_retriever.encoder.encoder import ContextualEncoder
    from cde_train.data.retrieval_sets import find_retrieval_sets, hash_retrieval_set, read_retrieval_set
    from cde_train.evaluation.comparison import compare
    from cde_train.evaluation.kept_results import KeptResults
    from cde_train.evaluation.verdicts import advise

    sets = [read_retrieval_set(path) for path in find_retrieval_sets(where)]

    load = partial(ContextualEncoder.from_pretrained, dtype=options.dtype, device=options.device)
    encoder = load(checkpoint)
    start, against = (name and load(name) for name in (options.start, options.against))
    models = {"checkpoint": encoder, "start": start, "against": against}
    asked: dict[str, Any] = {role: model and model.identity.sha256 for role, model in models.items()}
    asked |= {"dtype": options.dtype or "float32", "sets": {data.name: hash_retrieval_set(data) for data in sets}}
    kept = KeptResults(output, asked, say)
    comparison = compare(encoder, sets, start=start, against=against, kept=kept, show_progress=True)
    kept.write(comparison.to_dict())
    for row in comparison.rows():
        write_result(row)
    for difference in comparison.differences():
        write_result({"verdict": difference.verdict, **asdict(difference)})
    say(advise(comparison))


def _evaluate_mteb(options: argparse.Namespace) -> None:
    output = output_folder(options.output) if options.output is not None else None
    from cde_retriever.encoder.encoder import ContextualEncoder
    from cde_retriever.mteb import evaluate, tasks_named

    if options.sets or options.start or options.against:
        raise ConfigError("--mteb evaluates one checkpoint on tasks of MTEB; leave out SETS, --start and --against")
    tasks = tasks_named(options.mteb)
    encoder = ContextualEncoder.from_pretrained(options.checkpoint, dtype=options.dtype, device=options.device)
    for row in evaluate(encoder, tasks, seed=options.seed, results=output):
        write_result(row)
