"""`cde-train`: the whole training, or one step of it.

    cde-train fit DATA -o OUT            from data to a checkpoint, resumable
    cde-train embed | cluster | pack | filter
                                         a step alone, from files to files
    cde-train evaluate CHECKPOINT SETS   retrieval quality beside every baseline
    cde-train validate RUN.toml          all faults of a configuration at once

Results go to stdout as JSON lines, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 130
interrupted. Only a command that needs a framework loads it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cde_retriever.errors import CDEError, ConfigError
from cde_train.errors import ArtifactError

try:
    from cde_train.run.config import find_config, load_run_config, preset_names, to_toml
    from cde_train.run.sections import RunConfig
except ModuleNotFoundError as missing:
    raise SystemExit(f'cde-train: {missing}; install it with: pip install "cde-retriever[train]"') from missing

FAILED, WRONG_USE, INTERRUPTED = 1, 2, 130
EXAMPLES = {
    "fit": """\
  cde-train fit ./docs -o my-cde                      a folder of documents, nothing else
  cde-train fit pairs.jsonl -o my-cde --config small --set phase.0.epochs=1
                                                      pairs, a preset, and one setting of your own""",
    "embed": """\
  cde-train embed pairs.jsonl -o vectors              with the first stage of the bundled checkpoint
  cde-train embed pairs.jsonl -o vectors --surrogate sentence-transformers/all-MiniLM-L6-v2""",
    "cluster": """\
  cde-train cluster pairs.jsonl --vectors vectors -o clusters.safetensors
  cde-train cluster pairs.jsonl --vectors vectors -o clusters.safetensors --set clustering.cluster_size=256""",
    "pack": """\
  cde-train pack --clusters clusters.safetensors -o batches.npy --batch-size 256
  cde-train pack --clusters clusters.safetensors -o batches.npy --batch-size 64 --order random --epochs 3""",
    "filter": """\
  cde-train filter pairs.jsonl --vectors vectors --batches batches.npy -o report.json
  cde-train filter pairs.jsonl --vectors vectors --batches batches.npy -o report.json --set filtering.margin=-0.05""",
    "evaluate": """\
  cde-train evaluate my-cde ./scifact                 one judged corpus
  cde-train evaluate my-cde ./beir -o results.json    every judged corpus in a folder""",
    "validate": """\
  cde-train validate run.toml
  cde-train validate small --set phase.0.batch_size=512""",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    try:
        options = _parser().parse_args(argv)
    except SystemExit as done:  # argparse has said what there is to say
        return int(done.code or 0)
    try:
        options.run(options)
    except KeyboardInterrupt:
        _say("interrupted; run the same command again to go on where it stopped")
        return INTERRUPTED
    except (ConfigError, FileNotFoundError) as error:
        return _fail(error, options, WRONG_USE)
    except ImportError as error:
        if (error.name or "").startswith("cde_"):
            raise
        return _fail(ImportError(f'{error}; cde-train needs: pip install "cde-retriever[train]"'), options, FAILED)
    except (CDEError, ArtifactError, ValueError, OSError, FloatingPointError) as error:
        return _fail(error, options, FAILED)
    return 0


def _fail(error: Exception, options: argparse.Namespace, code: int) -> int:
    if options.debug:
        raise error
    _say(f"cde-train {options.command}: {error}")
    return code


def _parser() -> argparse.ArgumentParser:
    assert __doc__ is not None
    summary, _, rest = __doc__.partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="cde-train", description=summary, epilog=rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    fit = _command(commands, "fit", _fit, "Train on your data: from pairs or documents to a checkpoint.")
    _data(fit)
    fit.add_argument("-o", "--output", required=True, metavar="OUT", help="folder of the result; a started one goes on")
    fit.add_argument("--base", help="plain encoder or CDE checkpoint to start from, folder or Hub id (model.base)")
    _settings(fit)

    embed = _command(commands, "embed", _embed, "Embed every text once with the surrogate; resumable.")
    _data(embed)
    embed.add_argument("-o", "--output", required=True, metavar="VECTORS", help="folder of the vectors")
    embed.add_argument("--surrogate", metavar="MODEL", help="sentence-transformers model (surrogate.model)")
    _settings(embed)

    cluster = _command(commands, "cluster", _cluster, "Group pairs that are hard for each other, within domains.")
    _data(cluster)
    cluster.add_argument("--vectors", required=True, metavar="VECTORS", help="folder that embed wrote")
    cluster.add_argument("-o", "--output", required=True, metavar="CLUSTERS", help="file of the clusters, .safetensors")
    _settings(cluster)

    pack = _command(commands, "pack", _pack, "Turn clusters into full batches of one domain.")
    pack.add_argument("--clusters", required=True, metavar="CLUSTERS", help="file that cluster wrote")
    pack.add_argument(
        "-o", "--output", required=True, metavar="BATCHES", help="file of the batches, .npy: row numbers of pairs"
    )
    pack.add_argument("--batch-size", type=int, metavar="N", help="pairs a batch (phase.0.batch_size)")
    pack.add_argument("--order", help="random or greedy (packing.order)")
    pack.add_argument("--epochs", type=int, default=1, metavar="N", help="how many epochs to pack, 1 by default")
    _settings(pack)

    filtering = _command(commands, "filter", _filter, "Report which false negatives the batches' loss leaves out.")
    _data(filtering)
    filtering.add_argument("--vectors", required=True, metavar="VECTORS", help="folder that embed wrote")
    filtering.add_argument("--batches", required=True, metavar="BATCHES", help="file that pack wrote")
    filtering.add_argument("-o", "--output", required=True, metavar="REPORT", help="file of the report, .json")
    _settings(filtering)

    evaluate = _command(commands, "evaluate", _evaluate, "Measure nDCG@10, recall@100 and MRR@10 beside baselines.")
    evaluate.add_argument("checkpoint", metavar="CHECKPOINT", help="folder or Hub id of a CDE checkpoint")
    evaluate.add_argument("sets", metavar="BEIR_FOLDER", help="judged corpus, or a folder of such")
    evaluate.add_argument("--start", metavar="CHECKPOINT", help="checkpoint that training started from")
    evaluate.add_argument("--against", metavar="CHECKPOINT", help="checkpoint of the same training without context")
    evaluate.add_argument("--dtype", help="float32 (default), bfloat16 or float16")
    evaluate.add_argument("--device", help="cpu, cuda, mps ...; by default the fastest there is")
    evaluate.add_argument("-o", "--output", metavar="RESULTS", help="file for the results, .json")

    validate = _command(commands, "validate", _validate, "Check a configuration; nothing is run.")
    validate.add_argument("config", metavar="RUN.toml", help=f"file, or preset: {', '.join(preset_names())}")
    _overrides(validate)
    return parser


def _command(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=summary,
        description=summary,
        epilog="examples:\n" + EXAMPLES[name],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show where an error came from")
    parser.set_defaults(run=run)
    return parser


def _data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data",
        metavar="DATA",
        help="JSONL pairs (query, document, optional negatives, domain), a datasets folder, a BEIR folder, or a folder "
        "of documents",
    )


def _settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="RUN.toml", help=f"settings: file, or preset: {', '.join(preset_names())}")
    _overrides(parser)


def _overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="one setting, value as in TOML; may be repeated",
    )


def _configuration(options: argparse.Namespace, **settings: object) -> RunConfig:
    """Return the run's configuration; settings are those that have an option of their own, None if not given."""
    given = [f"{path.replace('__', '.')}={json.dumps(v)}" for path, v in settings.items() if v is not None]
    return load_run_config(options.config, [*options.overrides, *given])


def _say(message: str) -> None:
    sys.stderr.write(message + "\n")


def _result(values: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


def _fit(options: argparse.Namespace) -> None:
    config = _configuration(options, model__base=options.base)
    if not Path(options.data).exists():  # said before the seconds that importing torch takes
        raise FileNotFoundError(f"{options.data} does not exist; expected training pairs or documents there")
    from cde_train.run.fit import fit
    from cde_train.training.processes import is_first_process

    report = fit(options.data, options.output, config, say=_say if is_first_process() else lambda _: None)
    if is_first_process():
        _result(report)


def _embed(options: argparse.Namespace) -> None:
    config = _configuration(options, surrogate__model=options.surrogate)
    from cde_train.data.pairs import texts_of
    from cde_train.data.readers import read_pairs
    from cde_train.run.base import resolve
    from cde_train.training.start import open_start
    from cde_train.vectors.surrogate import embed_texts, open_surrogate

    config = resolve(config)
    texts, settings = texts_of(read_pairs(options.data, _say)), config.surrogate
    surrogate, identity = open_surrogate(
        settings, lambda: open_start(config.model.base or None, config.start_of("start"))
    )
    vectors = embed_texts(
        texts,
        surrogate,
        options.output,
        identity=identity,
        prompt=settings.prompt,
        batch_size=settings.batch_size,
    )
    _result({"vectors": options.output, "texts": len(vectors), "width": vectors.width, "surrogate": identity})


def _cluster(options: argparse.Namespace) -> None:
    config = _configuration(options)
    from cde_train.batching.clustering import cluster_pairs
    from cde_train.batching.pair_vectors import views
    from cde_train.data.readers import read_pairs
    from cde_train.vectors.text_vectors import TextVectors

    pairs = read_pairs(options.data, _say)
    domains = [pair.domain for pair in pairs]
    clustering = cluster_pairs(*views(pairs, TextVectors.open(options.vectors)), domains, config.clustering)
    clustering.save(options.output)
    sizes = clustering.sizes
    _result({"clusters": options.output, "pairs": len(pairs), "count": len(sizes), "largest": int(sizes.max())})


def _pack(options: argparse.Namespace) -> None:
    config = _configuration(options, phase__0__batch_size=options.batch_size, packing__order=options.order)
    from dataclasses import asdict

    from cde_train.batching.clustering import Clustering
    from cde_train.batching.packing import Packer, save_batches

    packing = Packer(Clustering.load(options.clusters), config.packing_of(config.phase[0]))
    batches = packing.run(epochs=options.epochs)
    save_batches(options.output, batches)
    report = {
        name if name != "batches" else "batches_an_epoch": value for name, value in asdict(packing.report).items()
    }
    _result({"batches": options.output, "rows": len(batches), "batch_size": batches.shape[1], **report})


def _filter(options: argparse.Namespace) -> None:
    config = _configuration(options)
    from dataclasses import asdict

    from cde_retriever.files.replacing import write_atomically
    from cde_train.batching.false_negatives import report_batches
    from cde_train.batching.packing import load_batches
    from cde_train.data.readers import read_pairs
    from cde_train.vectors.text_vectors import TextVectors

    pairs = read_pairs(options.data, _say)
    vectors = TextVectors.open(options.vectors)
    batches = load_batches(options.batches, pairs=len(pairs))
    report = report_batches(pairs, batches, config.filtering, queries=vectors, documents=vectors)
    write_atomically(Path(options.output), report.to_json().encode())
    _result({"report": options.output, "margin": report.margin, **asdict(report.total)})


def _evaluate(options: argparse.Namespace) -> None:
    from dataclasses import asdict

    from cde_retriever.encoder.encoder import ContextualEncoder
    from cde_train.data.retrieval_sets import find_retrieval_sets, hash_retrieval_set, read_retrieval_set
    from cde_train.evaluation.comparison import compare
    from cde_train.evaluation.kept_results import KeptResults

    sets = [read_retrieval_set(path) for path in find_retrieval_sets(options.sets)]

    def load(name: str | None) -> ContextualEncoder | None:
        if name is None:
            return None
        return ContextualEncoder.from_pretrained(name, dtype=options.dtype, device=options.device)

    encoder = ContextualEncoder.from_pretrained(options.checkpoint, dtype=options.dtype, device=options.device)
    start, against = load(options.start), load(options.against)
    models = {"checkpoint": encoder, "start": start, "against": against}
    asked: dict[str, Any] = {role: model and model.identity.sha256 for role, model in models.items()}
    asked |= {"dtype": options.dtype or "float32", "sets": {data.name: hash_retrieval_set(data) for data in sets}}
    kept = KeptResults(options.output, asked, _say)
    comparison = compare(encoder, sets, start=start, against=against, kept=kept, show_progress=True)
    kept.write(comparison.to_dict())
    for row in comparison.rows():
        _result(row)
    for difference in comparison.differences():
        _result({"verdict": difference.verdict, **asdict(difference)})


def _validate(options: argparse.Namespace) -> None:
    config = load_run_config(options.config, options.overrides)
    _say(f"{find_config(options.config)} is a valid configuration; resolved, it reads:\n\n{to_toml(config)}")
    _result({"valid": True, "config": str(find_config(options.config)), "phases": [p.name for p in config.phase]})


if __name__ == "__main__":
    sys.exit(main())
