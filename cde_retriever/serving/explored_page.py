"""Write what queries find in several ways as a page: ranks that move, reasons, a map.

One context leads: its results come first, and are explained and shown on the map.
"""

from collections.abc import Sequence
from dataclasses import replace

from cde_retriever.pages.page import Page
from cde_retriever.pages.plots import Plot, Table, moves, points
from cde_retriever.serving.exploration import OWN, Answer, Exploration, Reason

BEST, SHOWN, EXPLAINED = 5, 20, 5
"""Best documents of each way that are followed; ranks up to which they are; documents explained."""


def write_page(
    exploration: Exploration,
    answers: Sequence[Answer],
    *,
    note: str = "",
    field: str | None = None,
    leading: str = OWN,
) -> Page:
    """Return the page.

    Args:
        exploration: What was asked.
        answers: What was found.
        note: A sentence about the texts, such as how many were drawn.
        field: The query in a field that asks again, where a server shows the page; None for none.
        leading: The context that leads, one of `Exploration.contexts`.
    """
    context = exploration.contexts[leading]
    page = Page(f"Exploring an index of {len(exploration.texts)} texts")
    page.text(
        f"Model {context.model.name}, {leading} {context.fingerprint[:12]} of {context.size} documents, "
        f"{'two parts' if exploration.form == 'both' else 'one vector'} a text. {note}"
    )
    if field is not None:
        page.search_field(field, list(exploration.contexts), leading)
    for answer in answers:
        ways = [leading, *(way for way in answer.scores if way != leading)]
        _write_answer(page, exploration, replace(answer, scores={way: answer.scores[way] for way in ways}))
    return page


def _write_answer(page: Page, exploration: Exploration, answer: Answer) -> None:
    """Write an answer whose first way is the context that leads."""
    page.heading(f"“{answer.query}”")
    ranks = _ranks(answer)
    if not ranks:
        page.text("Nothing is found.")
        return
    page.plot(_moves(exploration, answer, ranks))
    rows = [(_short(exploration.texts[number]), *(ranks[number][way] for way in answer.scores)) for number in ranks]
    page.table(
        Table(("document", *answer.scores), rows),
        f"Ranks of the {BEST} best documents of each way; - is beyond rank {SHOWN}",
    )
    leading = next(iter(answer.scores))
    for rank, number in enumerate(answer.best(leading, EXPLAINED), start=1):
        reason = exploration.explain(answer.query, number, leading)
        context = exploration.contexts[leading]
        page.folded(
            f"Why is this number {rank}: {_short(exploration.texts[number])}",
            *_reason(exploration.texts[number], reason, context.size),
        )
    page.plot(_map(exploration, answer))


def _ranks(answer: Answer) -> dict[int, dict[str, int | None]]:
    """Return the ranks of the documents that are among the best by any way, in the order of the first way."""
    first = {way: answer.best(way, SHOWN) for way in answer.scores}
    places = {way: {number: rank for rank, number in enumerate(found, 1)} for way, found in first.items()}
    chosen = dict.fromkeys(number for found in first.values() for number in found[:BEST])
    leading = next(iter(places.values()))
    ordered = sorted(chosen, key=lambda number: leading.get(number, SHOWN + 1))
    return {number: {way: places[way].get(number) for way in answer.scores} for number in ordered}


def _moves(exploration: Exploration, answer: Answer, ranks: dict[int, dict[str, int | None]]) -> Plot:
    leading = next(iter(answer.scores))
    best = answer.best(leading, 1)
    said = ""
    if best:
        places = [f"{rank or f'beyond {SHOWN}'} by {way}" for way, rank in ranks[best[0]].items() if way != leading]
        said = f" The first under {leading}, {_short(exploration.texts[best[0]])}, is {', '.join(places)}."
    named = [
        (f"{place}. {_short(exploration.texts[number])}", list(row.values()))
        for place, (number, row) in enumerate(ranks.items(), 1)
    ]
    alt = f"A line for each of {len(ranks)} documents, from way to way, rank 1 at the top.{said}"
    return moves(f"Ranks by each way: {_short(answer.query)}", alt, list(answer.scores), named)


def _map(exploration: Exploration, answer: Answer) -> Plot:
    places, texts, leading = exploration.places, exploration.texts, next(iter(answer.scores))

    def group(numbers: Sequence[int]) -> list[tuple[float, float, str]]:
        return [(float(places[n][0]), float(places[n][1]), _short(texts[n])) for n in numbers]

    groups = {
        "documents": group(range(len(texts))),
        "in the context": group(exploration.in_context(leading)),
        f"results under {leading}": group(answer.best(leading, BEST)),
        "query": [(*answer.place, answer.query)],
    }
    alt = (
        f"{len(texts)} documents, {len(groups['in the context'])} of them in the context, {BEST} results and the query "
        "at the first two principal components of their plain vectors."
    )
    return points(f"Map for {_short(answer.query)}", alt, groups, x="first component", y="second component", equal=True)


def _reason(text: str, reason: Reason, size: int) -> tuple[str, Table]:
    score = " + ".join(f"{name} {value:.3f}" for name, value in reason.score.items())
    said = f"{text}\n\nScore {sum(reason.score.values()):.3f} = {score}\n"
    for label, near in (("topics", reason.topics), ("documents", reason.neighbours)):
        said += f"Moved towards {label} of the context:"
        said += "".join(f"\n  {share:.0%}  {_short(name)}" for name, share in near) + ("\n" if near else " none\n")
    rows = [(word.word, word.documents, word.by_word, word.by_grams) for word in reason.words]
    headings = ("words of the query", f"in documents of the context's {size}", "adds in two parts", "its grams add")
    return said, Table(headings, rows)


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 56 else flat[:55] + "…"
