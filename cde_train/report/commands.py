"""Define `cde-train report` and `cde-train analyse`."""

import argparse
from pathlib import Path

from cde_retriever.cli.command_line import CommandLine, write_result
from cde_retriever.cli.output import output_folder

EXAMPLES = {
    "report": """\
  cde-train report my-cde                             my-cde/work/pages/report.html, while it trains or afterwards
  cde-train report my-cde -o seen""",
    "analyse": """\
  cde-train analyse my-cde ./beir -o seen             seen/analysis.html, and a CSV file beside it for each plot
  cde-train analyse cde-minilm-l6-v4 ./scifact -o seen""",
}


def add_commands(program: CommandLine) -> None:
    """Add both commands to a program."""
    report = program.add("report", "Show what a run did, as a page.", _report, EXAMPLES["report"])
    report.add_argument("folder", metavar="RUN", help="folder that cde-train fit wrote to, finished or not")
    report.add_argument(
        "-o", "--output", metavar="OUT", help="folder for page and tables (default: work/pages inside RUN)"
    )
    analyse = program.add(
        "analyse", "Show nDCG@10 under each corpus's context and by its size, as a page.", _analyse, EXAMPLES["analyse"]
    )
    analyse.add_argument("checkpoint", metavar="CHECKPOINT", help="model folder or Hub id")
    analyse.add_argument("sets", metavar="SETS", help="judged corpus in BEIR's layout, or a folder of such")
    analyse.add_argument("--device", help="device to compute on: cpu, cuda, mps (default: the fastest available)")
    analyse.add_argument("-o", "--output", required=True, metavar="OUT", help="folder for page and tables")


def _report(options: argparse.Namespace) -> None:
    from cde_train.report.run_page import write_run_page

    run = Path(options.folder).expanduser()
    output = output_folder(str(run / "work" / "pages") if options.output is None else options.output)
    write_result({"page": str(write_run_page(run).save(output / "report.html", tables=True))})


def _analyse(options: argparse.Namespace) -> None:
    from cde_retriever.encoder.encoder import ContextualEncoder
    from cde_train.data.retrieval_sets import find_retrieval_sets, read_retrieval_set
    from cde_train.report.analysis import analyse, write_analysis_page

    output = output_folder(options.output)
    sets = [read_retrieval_set(path) for path in find_retrieval_sets(options.sets)]
    encoder = ContextualEncoder.from_pretrained(options.checkpoint, device=options.device)
    found = analyse(encoder, sets, show_progress=True)
    page = write_analysis_page(encoder.config.name, found)
    file = page.save(output / "analysis.html", tables=True)
    own = found.by_context.diagonal().tolist()
    figures = {"null": found.by_context[-1].tolist(), "own": own, "mixture": found.mixture.tolist()}
    write_result({"page": str(file), "corpora": found.names, **figures})
