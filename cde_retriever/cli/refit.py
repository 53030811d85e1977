"""Define `cde refit`: give an index a new context."""

import argparse
from dataclasses import asdict
from pathlib import Path

from cde_retriever.cli.command_line import CommandLine, say, write_result
from cde_retriever.cli.model_options import add_model_options, add_pickle_option, read_model_options
from cde_retriever.cli.store_options import add_store_options, read_store_options

EXAMPLES = """\
  cde refit index --plan       how many documents, how long, and what would change
  cde refit index              embed them again and put the new index in place; killed, run it again to go on
  cde refit index --confirm    remove the old index
  cde refit index --undo       put the old index back
  cde refit handbook-context --chroma ./chroma --collection handbook    a collection; with --undo and --confirm too"""


def add_command(program: CommandLine) -> None:
    """Add the command to a program."""
    refit = program.add(
        "refit",
        "Embed an index again under a context of the documents that it holds now.",
        _refit,
        EXAMPLES,
        continues=True,
    )
    refit.add_argument(
        "index",
        metavar="INDEX",
        help="folder of a LlamaIndex index or a LangChain FAISS index, or the context_dir of a collection",
    )
    add_store_options(refit, "INDEX holds them")
    action = refit.add_mutually_exclusive_group()
    action.add_argument(
        "--plan", action="store_true", help="say what would be done, and change nothing (default: do it)"
    )
    action.add_argument("--confirm", action="store_true", help="remove the old index (default: a refit keeps it)")
    action.add_argument(
        "--undo",
        action="store_true",
        help="put the old index back, or drop a refit that is not done (default: go on with it)",
    )
    add_pickle_option(refit)
    add_model_options(refit)


def _refit(options: argparse.Namespace) -> None:
    from cde_retriever.lifecycle.refit import confirm_refit, plan_refit, refit, undo_refit

    options.continues = not options.plan
    index, collection = Path(options.index).expanduser(), read_store_options(options)
    if options.confirm:
        found = confirm_refit(index, collection=collection)
        say("the old index is gone" if found else "no old index was kept")
        write_result({"index": str(index), "removed": found})
        return
    if options.undo:
        found = undo_refit(index, collection=collection)
        say("the old index is back" if found else "the index is the one that it was")
        write_result({"index": str(index), "restored": found})
        return
    model, trusted = read_model_options(options), options.allow_dangerous_deserialization
    if options.plan:
        plan = plan_refit(index, collection=collection, model=model, trust_pickle=trusted)
        say(
            f"{plan.documents} documents, {_duration(plan.seconds)}; of {plan.context_documents} context "
            f"documents {plan.kept_documents} stay, and a vector's cosine with its new one is {plan.cosine:.3f} on "
            "average"
        )
        say(str(plan.drift))
        write_result({"index": str(index), **asdict(plan)})
        return
    done = refit(index, collection=collection, model=model, trust_pickle=trusted, show_progress=True)
    if done.kept is None:
        say("the documents give the context that the index has; nothing was done")
    else:
        kept = f", {done.kept_plain} of them by the plain vectors that the index keeps" if done.kept_plain else ""
        say(
            f"{done.documents} documents are under context {done.new[:12]}{kept}; --undo brings the old index back, "
            "--confirm removes it"
        )
    write_result(asdict(done))


def _duration(seconds: float) -> str:
    """Return a time to wait in words."""
    return "less than a minute" if seconds < 60 else f"about {seconds / 60:.0f} min"
