"""Define `cde doctor`: tell what context is worth on a corpus, and which setting to take."""

import argparse
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from cde_retriever.cli.column_options import add_column_options, read_columns
from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.output import output_folder
from cde_retriever.context.whole_numbers import whole_number

if TYPE_CHECKING:  # help needs no extra
    from cde_retriever.corpus.rows import Document
    from cde_retriever.encoder.encoder import ContextualEncoder
    from cde_retriever.lifecycle.trial import Trial

Queries = list[tuple[str, Mapping[str, float]]]
SUMMARY = "Tell what context is worth on a corpus, and which setting to take; an interrupted run continues."
EXAMPLES = """\
  cde doctor ./docs -o checkup                         ask questions made of the documents
  cde doctor rows.jsonl -o checkup --queries asked.jsonl --model BAAI/bge-small-en-v1.5
                                                       ask your own, rows of text and the ids of their answers"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    doctor = program.add("doctor", SUMMARY, _doctor, EXAMPLES, continues=True, extra="cde-retriever[doctor]")
    doctor.add_argument("corpus", metavar="CORPUS", help="file or folder to examine, as for `cde embed`")
    doctor.add_argument(
        "-o",
        "--output",
        required=True,
        metavar="OUT",
        help="folder for report.json, report.md, report.html and kept vectors",
    )
    doctor.add_argument(
        "--model",
        action="append",
        metavar="MODEL",
        help="encoder, as folder or Hub id; give it again to compare several (default: the bundled model)",
    )
    doctor.add_argument(
        "--queries",
        metavar="FILE",
        help='your queries as JSONL rows of "text" and "relevant", a list of document ids (default: made of documents)',
    )
    doctor.add_argument(
        "--foreign", metavar="CORPUS", help="another corpus, to see what a foreign context does (default: none)"
    )
    doctor.add_argument("--language", metavar="NAME", help="language of the corpus (default: the model's)")
    add_column_options(doctor)
    doctor.add_argument(
        "--documents", type=int, default=2000, metavar="N", help="most documents to search, drawn (default: 2000)"
    )
    doctor.add_argument("--questions", type=int, default=300, metavar="N", help="most questions (default: 300)")
    doctor.add_argument("--seed", type=int, default=0, metavar="N", help="seed of all draws (default: 0)")


def _doctor(options: argparse.Namespace) -> None:
    from cde_retriever.encoder.encoder import ContextualEncoder
    from cde_retriever.lifecycle.doctor import examine, merge
    from cde_retriever.lifecycle.kept_vectors import kept_embedding
    from cde_retriever.lifecycle.report import write_report

    for name in ("documents", "questions"):
        whole_number(f"--{name}", getattr(options, name), 1)
    folder = output_folder(options.output)
    queries = None if options.queries is None else _queries(options.queries)
    models = options.model or [None]
    first = ContextualEncoder.from_pretrained(models[0])
    trial = _read_trial(options, queries, first)  # passages are cut to what the first model reads, and searched by all
    foreign = _foreign(options, first)
    say(f"{len(trial.questions)} questions, {len(trial.documents)} of {trial.seen} documents")
    found = []
    for number, model in enumerate(models):
        encoder = ContextualEncoder.from_pretrained(model) if number else first
        embed = kept_embedding(encoder, folder / "vectors", show_progress=True)
        found.append(examine(encoder, trial, embed, foreign=foreign, language=options.language, seed=options.seed))
    report = write_report(folder, trial, merge(found, options.model), options.model)
    say(report.page)
    write_result(report.values)


def _read_trial(options: argparse.Namespace, queries: Queries | None, encoder: "ContextualEncoder") -> "Trial":
    from cde_retriever.lifecycle.trial import automatic_trial, judged_trial

    documents = _documents(options.corpus, options, encoder)
    draws = {"documents": options.documents, "questions": options.questions, "seed": options.seed}
    if queries is None:
        return automatic_trial((document.text for document in documents), **draws)
    trial = judged_trial(documents, queries, **draws)
    asked = min(len(queries), options.questions)
    if len(trial.questions) < asked:
        say(
            f"{asked - len(trial.questions)} of {asked} queries are left out, as no document that answers them is in "
            "the corpus; do all ids match those of its rows?"
        )
    return trial


def _foreign(options: argparse.Namespace, encoder: "ContextualEncoder") -> "Sequence[str] | None":
    from cde_retriever.context.sampling import sample_documents

    if options.foreign is None:
        return None
    texts = (document.text for document in _documents(options.foreign, options, encoder))
    return sample_documents(texts, encoder.config.context_size, options.seed).texts


def _documents(corpus: str, options: argparse.Namespace, encoder: "ContextualEncoder") -> "Iterator[Document]":
    from cde_retriever.corpus.rows import are_documents, find_files, read_documents

    columns = read_columns(options)
    folder, names, _ = find_files(corpus)
    size = encoder.passage_size() if are_documents(names) else None
    for name in names:
        yield from read_documents(folder, name, columns, passages=size)


def _queries(file: str) -> Queries:
    from pathlib import Path

    from cde_retriever.corpus.json_lines import read_json_lines
    from cde_retriever.errors import CorpusError

    queries: Queries = []
    for number, row in read_json_lines(Path(file).expanduser()):
        text, relevant = row.get("text"), row.get("relevant")
        if not isinstance(text, str) or not text.strip() or not isinstance(relevant, list) or not relevant:
            raise CorpusError(
                f'{file}, line {number}: expected a "text" and "relevant", a list of ids of documents that answer it, '
                f"received {row!r:.80}; write both, or leave --queries out: what is not judged tells no settings apart"
            )
        queries.append((text, {str(name): 1.0 for name in relevant}))
    if not queries:
        raise CorpusError(
            f'{file} holds no queries; write one a line, {{"text": "...", "relevant": ["id of a document"]}}, or leave '
            "--queries out: questions are made of the documents then"
        )
    return queries
