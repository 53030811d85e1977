"""Train an encoder on your documents: in one command, or step by step.

Results go to stdout as JSON lines, everything else to stderr. Exit codes: 0 done, 1 failed, 2 wrong use, 130
interrupted. Only a command that needs a framework loads it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cde_retriever.cli.command_line import CommandLine, Run, say, write_result
from cde_retriever.cli.output import output_file, output_folder
from cde_retriever.errors import ConfigError
from cde_train.errors import ArtifactError
from cde_train.evaluation.commands import EXAMPLES as EVALUATE
from cde_train.evaluation.commands import add_commands as add_evaluate
from cde_train.report.commands import EXAMPLES as PAGES
from cde_train.report.commands import add_commands as add_pages

if TYPE_CHECKING:  # help needs no extra
    from cde_train.data.pairs import TrainingPair
    from cde_train.run.sections import PhaseConfig, RunConfig
    from cde_train.vectors.text_vectors import TextVectors

PRESETS = sorted(file.stem for file in (Path(__file__).parent / "presets").glob("*.toml"))
EXAMPLES = (
    {
        "fit": """\
  cde-train fit ./docs -o my-cde                      a folder of documents, nothing else
  cde-train fit pairs.jsonl -o my-cde --config small --set phase.0.epochs=1
                                                      pairs, a preset, and one setting of your own""",
        "embed": """\
  cde-train embed pairs.jsonl -o vectors              with the first stage of cde-minilm-l6-v4
  cde-train embed pairs.jsonl -o vectors --surrogate sentence-transformers/all-MiniLM-L6-v2""",
        "cluster": """\
  cde-train cluster pairs.jsonl --vectors vectors -o clusters.safetensors
  cde-train cluster pairs.jsonl --vectors vectors -o clusters.safetensors --set clustering.cluster_size=256""",
        "pack": """\
  cde-train pack pairs.jsonl --vectors vectors --clusters clusters.safetensors -o batches.npy --batch-size 256
  cde-train pack pairs.jsonl --vectors vectors --clusters clusters.safetensors -o batches.npy --epochs 3""",
        "filter": """\
  cde-train filter pairs.jsonl --vectors vectors --batches batches.npy -o report.json
  cde-train filter pairs.jsonl --vectors vectors --batches batches.npy -o report.json --set filtering.margin=-0.05""",
        "validate": """\
  cde-train validate run.toml
  cde-train validate small --set phase.0.batch_size=512""",
    }
    | EVALUATE
    | PAGES
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    return program().main(arguments)


def program() -> CommandLine:
    """Return the program with all its commands."""
    assert __doc__ is not None
    made = CommandLine("cde-train", __doc__, failures=(ArtifactError, FloatingPointError), extra="cde-retriever[train]")
    _add_fit(made)
    _add_steps(made)
    add_evaluate(made)
    add_pages(made)
    validate = made.add("validate", "Check a configuration and name all its faults.", _validate, EXAMPLES["validate"])
    validate.add_argument("config", metavar="RUN.toml", help=f"settings file, or a preset: {', '.join(PRESETS)}")
    _overrides(validate)
    return made


def _add_fit(made: CommandLine) -> None:
    fit = _add_step(
        made,
        "fit",
        "Train on your data: from pairs or documents to a checkpoint.",
        _fit,
        ("OUT", "folder to write the result to; continues a started run"),
        continues=True,
    )
    fit.add_argument(
        "--base",
        metavar="MODEL",
        help="plain encoder or CDE checkpoint to start from, folder or Hub id (default: model.base of the settings)",
    )


def _add_steps(made: CommandLine) -> None:
    output = ("VECTORS", "folder to write the vectors to")
    summary = "Embed every text once with the surrogate, resumably."
    embed = _add_step(made, "embed", summary, _embed, output, continues=True)
    embed.add_argument(
        "--surrogate",
        metavar="MODEL",
        help="sentence-transformers model that embeds (default: surrogate.model of the settings)",
    )

    output = ("CLUSTERS", "file to write the clusters to, .safetensors")
    cluster = _add_step(made, "cluster", "Group pairs that are hard for each other, within domains.", _cluster, output)

    output = ("BATCHES", "file to write the row numbers of pairs to, .npy")
    pack = _add_step(made, "pack", "Turn clusters into full batches of one domain.", _pack, output)
    pack.add_argument("--clusters", required=True, metavar="CLUSTERS", help="file that cde-train cluster wrote")
    pack.add_argument(
        "--batch-size", type=int, metavar="N", help="pairs in one batch (default: phase.0.batch_size of the settings)"
    )
    pack.add_argument(
        "--order", help="order of the clusters, random or greedy (default: packing.order of the settings)"
    )
    pack.add_argument(
        "--epochs", type=int, metavar="N", help="number of epochs to pack (default: as long as the first phase trains)"
    )

    output = ("REPORT", "file to write the report to, .json")
    filtering = _add_step(made, "filter", "Report which false negatives the batches' loss leaves out.", _filter, output)
    filtering.add_argument("--batches", required=True, metavar="BATCHES", help="file that cde-train pack wrote")
    for step in (cluster, pack, filtering):
        step.add_argument("--vectors", required=True, metavar="VECTORS", help="folder that cde-train embed wrote")


def _add_step(
    made: CommandLine, name: str, summary: str, run: Run, output: tuple[str, str], *, continues: bool = False
) -> argparse.ArgumentParser:
    """Add a command that reads data and settings and writes one output, given what that is called and is."""
    step = made.add(name, summary, run, EXAMPLES[name], continues=continues)
    step.add_argument(
        "data",
        metavar="DATA",
        help="JSONL pairs (query, document, optional negatives, domain), a datasets folder, a BEIR folder, or a folder "
        "of documents",
    )
    step.add_argument("-o", "--output", required=True, metavar=output[0], help=output[1])
    step.add_argument(
        "--config",
        metavar="RUN.toml",
        help=f"settings file, or a preset: {', '.join(PRESETS)} (default: default)",
    )
    _overrides(step)
    return step


def _overrides(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="change one setting, with a value as in TOML; may be repeated (default: none)",
    )


def _configuration(options: argparse.Namespace, **settings: object) -> "RunConfig":
    """Return the run's configuration; settings are those that have an option of their own, None if not given."""
    from cde_train.run.config import load_run_config

    given = [f"{path.replace('__', '.')}={json.dumps(v)}" for path, v in settings.items() if v is not None]
    return load_run_config(options.config, [*options.overrides, *given])


def _first_phase(config: "RunConfig") -> "PhaseConfig":
    """Return the phase whose batches are made.

    Raises:
        ConfigError: if there is none.
    """
    if not config.phase:
        raise ConfigError("phase is empty, and batches are those of phase.0; give settings with a [[phase]]")
    return config.phase[0]


def _fit(options: argparse.Namespace) -> None:
    config = _configuration(options, model__base=options.base)
    if not Path(options.data).exists():  # said before the seconds that importing torch takes
        raise FileNotFoundError(f"{options.data} does not exist; expected training pairs or documents there")
    output = output_folder(options.output)
    from cde_train.run.fit import fit
    from cde_train.training.processes import is_first_process

    report = fit(options.data, output, config, say=say if is_first_process() else lambda _: None)
    if is_first_process():
        write_result(report)


def _embed(options: argparse.Namespace) -> None:
    config, output = _configuration(options, surrogate__model=options.surrogate), output_folder(options.output)
    from cde_train.data.pairs import texts_of
    from cde_train.data.readers import read_pairs
    from cde_train.run.base import resolve
    from cde_train.training.start import open_start
    from cde_train.vectors.surrogate import embed_texts, open_surrogate

    config = resolve(config)
    texts, settings = texts_of(read_pairs(options.data, say)), config.surrogate
    surrogate, identity = open_surrogate(settings, lambda: open_start(config.model.start, config.start_of("start")))
    vectors = embed_texts(
        texts,
        surrogate,
        output,
        identity=identity,
        prompt=settings.prompt,
        batch_size=settings.batch_size,
    )
    write_result({"vectors": str(output), "texts": len(vectors), "width": vectors.width, "surrogate": identity})


def _pairs_and_vectors(options: argparse.Namespace) -> "tuple[list[TrainingPair], TextVectors]":
    from cde_train.data.readers import read_pairs
    from cde_train.vectors.text_vectors import TextVectors

    return read_pairs(options.data, say), TextVectors.open(options.vectors)


def _cluster(options: argparse.Namespace) -> None:
    config, output = _configuration(options), output_file(options.output)
    from cde_train.batching.clustering import cluster_pairs
    from cde_train.batching.pair_vectors import views

    pairs, vectors = _pairs_and_vectors(options)
    clustering = cluster_pairs(*views(pairs, vectors), [pair.domain for pair in pairs], config.clustering)
    clustering.save(output)
    sizes = clustering.sizes
    write_result({"clusters": str(output), "pairs": len(pairs), "count": len(sizes), "largest": int(sizes.max())})


def _pack(options: argparse.Namespace) -> None:
    config = _configuration(
        options,
        phase__0__batch_size=options.batch_size,
        phase__0__epochs=options.epochs,
        phase__0__steps=None if options.epochs is None else 0,
        packing__order=options.order,
    )
    phase, output = _first_phase(config), output_file(options.output)
    from dataclasses import asdict

    from cde_train.batching.clustering import Clustering
    from cde_train.batching.packing import packer, save_batches

    pairs, vectors = _pairs_and_vectors(options)
    clustering = Clustering.load(options.clusters)
    packing = packer(pairs, vectors, clustering, config.packing_of(phase))
    batches = packing.run(steps=phase.steps, epochs=phase.epochs)
    save_batches(output, batches)
    report = {
        name if name != "batches" else "batches_an_epoch": value for name, value in asdict(packing.report).items()
    }
    write_result({"batches": str(output), "rows": len(batches), "batch_size": batches.shape[1], **report})


def _filter(options: argparse.Namespace) -> None:
    config = _configuration(options)
    phase, output = _first_phase(config), output_file(options.output)
    from dataclasses import asdict

    from cde_retriever.files.replacing import write_atomically
    from cde_train.batching.false_negatives import report_batches
    from cde_train.batching.packing import load_batches

    pairs, vectors = _pairs_and_vectors(options)
    batches = load_batches(options.batches, pairs=len(pairs))
    report = report_batches(
        pairs,
        batches,
        config.filtering,
        hard_negatives=phase.hard_negatives,
        queries=vectors,
        documents=vectors,
    )
    write_atomically(output, report.to_json().encode())
    write_result({"report": str(output), "margin": report.margin, **asdict(report.total)})


def _validate(options: argparse.Namespace) -> None:
    from cde_train.run.config import find_config, load_run_config, to_toml

    config = load_run_config(options.config, options.overrides)
    say(f"{find_config(options.config)} is a valid configuration; resolved, it reads:\n\n{to_toml(config)}")
    write_result({"valid": True, "config": str(find_config(options.config)), "phases": [p.name for p in config.phase]})


if __name__ == "__main__":
    sys.exit(main())
