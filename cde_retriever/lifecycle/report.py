"""Write what the doctor found: one sentence, code to paste, and a table with intervals; a page with a plot too."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cde_retriever.checkpoint.reading import QUERIES
from cde_retriever.context.agreement import READ_FROM
from cde_retriever.context.head_settings import FITTED_SIZE
from cde_retriever.files.replacing import write_atomically
from cde_retriever.lifecycle.doctor import BM25, LEAD, MIXTURE, PLAIN, Setting, interval, recommend
from cde_retriever.lifecycle.trial import JUDGED, Trial
from cde_retriever.pages.page import Page
from cde_retriever.pages.plots import Table, intervals
from cde_retriever.search.mixture import WORD_SHARE

WITHOUT_CONTEXT = {
    PLAIN: "keep the encoder as it is",
    BM25: "search by words alone, as BM25 does",
    MIXTURE: f"your store's hybrid search with {WORD_SHARE} for BM25 and {1 - WORD_SHARE} for vectors",
}
FEW = 30
"""Questions below which a report says that it decides nothing."""


@dataclass(frozen=True)
class Report:
    """What was found, for programs and for people."""

    values: dict[str, Any]
    page: str


def write_report(folder: Path, trial: Trial, settings: Sequence[Setting], names: Sequence[str] | None) -> Report:
    """Write ``report.json``, ``report.md`` and ``report.html`` into a folder, and return the first two.

    Args:
        folder: Where to.
        trial: What was asked.
        settings: What was measured, of one model or several.
        names: What the models were opened by, in order; None for the bundled one.
    """
    report = make_report(trial, settings, names)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "report.json", (json.dumps(report.values, indent=1) + "\n").encode())
    write_atomically(folder / "report.md", (report.page + "\n").encode())
    make_page(report.values).save(folder / "report.html")
    return report


def make_page(values: Mapping[str, Any]) -> Page:
    """Return the page of a report, given what is in its ``report.json``."""
    rows = [(_label(row), row["over_plain"], *row["interval"]) for row in values["settings"]]
    table = [
        (row["name"], row["model"], row["ndcg_at_10"], *rest)
        for row, (_, *rest) in zip(values["settings"], rows, strict=True)
    ]
    chosen = values["setting"]
    plot = intervals(
        "Gain over the plain encoder, with 95 % intervals",
        f"Each setting's difference in nDCG@10 to the plain encoder; another mark shows the setting to take, "
        f"{_label(chosen)}, at {chosen['over_plain']:+.1f}.",
        rows,
        x="nDCG@10 (0 to 100) over plain",
        chosen=_label(chosen),
    )
    page = Page("What context is worth on this corpus").text(values["recommendation"], strong=True)
    page.code(values["code"]).plot(plot)
    page.table(Table(("setting", "model", "nDCG@10 (0 to 100)", "over plain", "from", "to"), table), "All settings")
    return page.text(_asked(values)).text(" ".join(values["doubts"]))


def _asked(values: Mapping[str, Any]) -> str:
    """Say what was asked, and of how many documents."""
    questions = ", ".join(f"{count} {kind}" for kind, count in values["questions"].items())
    return f"Questions: {questions}. Searched: {values['documents']} of {values['seen']} documents."


def _label(row: Mapping[str, Any]) -> str:
    return f"{row['name']}, {row['model']}" if row["model"] else str(row["name"])


def make_report(trial: Trial, settings: Sequence[Setting], names: Sequence[str] | None) -> Report:
    """Put the findings into a sentence, code and a table."""
    advice = recommend(settings, judged=trial.judged)
    plain = {one.model: one for one in settings if one.name == PLAIN}
    base = plain.get(advice.model) or next(iter(plain.values()))
    rows = [_row(one, base) for one in settings]
    kinds: dict[str, int] = {}
    for question in trial.questions:
        kinds[question.kind] = kinds.get(question.kind, 0) + 1
    mixture = next((one for one in settings if one.name == MIXTURE and one.model == base.model), None)
    sentence, code = _sentence(advice, base, mixture), _code(advice, settings, names)
    if len(trial.questions) < FEW:
        sentence = f"Fewer than {FEW} questions decide nothing; by these: {sentence}"
    values: dict[str, Any] = {"recommendation": sentence, "code": code, "setting": _row(advice, base), "settings": rows}
    values |= {"documents": len(trial.documents), "seen": trial.seen, "questions": kinds}
    values["doubts"] = [*_unread(settings), *_doubts(trial, kinds)]
    return Report(values, _text(values, base))


def _row(one: Setting, base: Setting) -> dict[str, Any]:
    low, high = interval(one.quality - base.quality)
    return {
        "name": one.name,
        "model": one.model,
        "ndcg_at_10": round(one.mean, 2),
        "over_plain": round(one.mean - base.mean, 2),
        "interval": [round(low, 2), round(high, 2)],
    }


def _sentence(advice: Setting, base: Setting, mixture: Setting | None) -> str:
    """Say what to take, and what it gains over the encoder alone and over hybrid search as it is elsewhere."""
    if advice is base:
        return f"Take {base.model} plain: nothing that may be recommended is above it here."
    doubt = "" if interval(advice.quality - base.quality)[0] > 0 else ", which may be chance"
    model = f" with {advice.model}" if advice.model else ""
    beside = "" if mixture is None or advice is mixture else f"; {_gain(advice, mixture)}, a usual hybrid search"
    return f"Take {advice.name}{model}: {_gain(advice, base)}{doubt}{beside}."


def _gain(one: Setting, other: Setting) -> str:
    low, high = interval(one.quality - other.quality)
    return f"{one.mean - other.mean:+.1f} nDCG@10 over {other.name} ({low:+.1f} to {high:+.1f})"


def _code(advice: Setting, settings: Sequence[Setting], names: Sequence[str] | None) -> str:
    """Return Python that embeds as recommended."""
    models = list(dict.fromkeys(one.model for one in settings if one.model))
    name = "" if names is None else repr(names[models.index(advice.model)]) if advice.model in models else ""
    if not advice.parts:
        return f"# {WITHOUT_CONTEXT[advice.name]}; no context is above it on these questions"
    parts = ', parts="both"' if advice.parts == "both" else ""
    size = f", context_size={advice.size}" if advice.parts == "both" else ""  # one vector: of the usual size
    fit = f"encoder.fit_context(documents{size})"
    said = [name, f'context_for="{QUERIES}"' if advice.parts == QUERIES else ""]
    lines = [
        "from cde_retriever import ContextualEncoder",
        "",
        f"encoder = ContextualEncoder.from_pretrained({', '.join(filter(None, said))})",
        fit if advice.context == "own" else "encoder.set_context(encoder.null_context())",
        f"vectors = encoder.encode_documents(documents{parts})",
        f"queries = encoder.encode_queries(questions{parts})",
    ]
    if advice.alpha != 0.5:
        lines.insert(1, "from cde_retriever.search.hybrid import weigh")
        lines[-1] = (
            f"queries = weigh(encoder.encode_queries(questions{parts}), {advice.alpha:.2f})  # alpha of retrievers"
        )
    return "\n".join(lines)


def _text(values: Mapping[str, Any], base: Setting) -> str:
    lines = [values["recommendation"], "", "```python", values["code"], "```", ""]
    lines += [f"| | model | nDCG@10 | over {base.name} | 95 % interval |", "|---|---|--:|--:|---|"]
    for row in values["settings"]:
        low, high = row["interval"]
        figures = f"{row['ndcg_at_10']:.1f} | {row['over_plain']:+.1f} | {low:+.1f} to {high:+.1f}"
        lines.append(f"| {row['name']} | {row['model']} | {figures} |")
    return "\n".join([*lines, "", _asked(values), *values["doubts"]])


def _unread(settings: Sequence[Setting]) -> Iterator[str]:
    """Yield of each encoder that seems not to read the corpus, by its largest context, that it does not."""
    by_size = sorted(settings, key=lambda one: one.size)
    agreed = {one.model: one.agreement for one in by_size if one.agreement is not None}  # the largest context's stays
    for model, agreement in agreed.items():
        if agreement < READ_FROM:
            yield (
                f"Vectors of {model} hardly agree with words on which documents are near ({agreement:.2f}, where 1 "
                f"is all and 0 chance; usual are {READ_FROM} and more), so it may not know their language or kind. "
                "Words count for more under an own context; an encoder that knows them ranks better: --model."
            )


def _doubts(trial: Trial, kinds: Mapping[str, int]) -> Iterator[str]:
    """Yield what the figures do not tell."""
    if trial.share < 1:
        yield "Among all of them every figure would be lower; what counts is the order. --documents takes more."
        if trial.seen > FITTED_SIZE:
            yield (
                f"A context of the usual size would hold {FITTED_SIZE} of these {trial.seen}; one vector, which is "
                "worth what its context holds, was measured under as large a share of the documents searched."
            )
    elif len(trial.documents) < trial.seen:
        yield "The others are empty or copies."
    if JUDGED not in kinds:
        yield (
            "People word questions otherwise than documents do. So what is best on most corpora, two parts under the "
            f"corpus's own context, is recommended unless another setting is more than {LEAD} above it here, and BM25 "
            "alone, which comes out too high, on judged questions only: --queries."
        )
