"""Write README.md and report.json of a trained checkpoint: what was done, and what came of it.

Nothing is claimed beyond the figures of the comparison, and the same input gives the same bytes.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cde_retriever.files.replacing import write_atomically
from cde_train.evaluation.results import Comparison
from cde_train.evaluation.verdicts import RIVALS, verdicts

CARD, REPORT = "README.md", "report.json"
MADE = (
    "The queries were made of the documents and share their words; people ask otherwise: judge by questions of your "
    "users with `cde-train evaluate`."
)
_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class ModelCard:
    """What a card says.

    Attributes:
        name: The model's name.
        comparison: Held-out figures.
        base_model: What training started from; the card names an id of the Hub, not a path.
        data: Source, pairs, domains, skipped counts, filter report: label to value.
        compute: Seconds, device, steps: label to value.
        settings: The settings that were used, as TOML.
        rivals: Whom the verdicts are about.
        advice: What to do with the model, in one sentence (`cde_train.evaluation.verdicts.advise`).
        what: What kind of model it is.
        queries_made: Whether queries were made of the documents.
        sample: What to know of the sample that figures were measured on; empty for the full corpus.
    """

    name: str
    comparison: Comparison
    base_model: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    compute: Mapping[str, Any] = field(default_factory=dict)
    settings: str = ""
    sample: str = ""
    rivals: tuple[str, ...] = RIVALS
    advice: str = ""
    what: str = "A two-stage contextual document encoder"
    queries_made: bool = False

    def markdown(self) -> str:
        """Return the README."""
        fence = "```"
        queries = {r.set: r.queries for r in self.comparison.results}
        parts = [
            self._front_matter(),
            f"# {self.name}\n\n{self.what}, made with `cde-train`.",
            *([f"**{self.advice}**" + (f" {MADE}" if self.queries_made else "")] if self.advice else []),
            f"## Use\n\n{fence}python\nfrom cde_retriever.llama_index import CDEEmbedding  # LlamaIndex\n"
            f"from cde_retriever.langchain import CDEEmbeddings  # LangChain\n\n"
            f'embedding = CDEEmbedding("path/to/{self.name}")\n'
            f'embeddings = CDEEmbeddings(model_name="path/to/{self.name}")\n{fence}',
            "## Held-out report\n\n" + "\n".join(f"- {line}" for line in verdicts(self.comparison, self.rivals)),
            f"100 times each measure. {self.sample or 'Measured on the full corpus.'} "
            + ", ".join(f"{name}: {count} queries" for name, count in queries.items())
            + ". Intervals: 95 %, over queries, not over training seeds.",
            self.comparison.markdown().strip(),
            "## Training data\n\n" + _table(self.data),
            "## Training\n\n" + _table(self.compute),
            "<details><summary>Settings that this run used; run.toml has all</summary>\n\n"
            f"{fence}toml\n{self.settings.strip()}\n{fence}\n\n"
            "</details>",
            f"## Limits\n\nTexts beyond {self.comparison.max_length} tokens are cut. Languages: unknown, those of the "
            "training data. Nothing was measured beyond the sets above.",
        ]
        return "\n\n".join(parts) + "\n"

    def _front_matter(self) -> str:
        lines = ["---", "library_name: cde-retriever", 'license: "other"']
        lines += ["tags:", *(f"- {tag}" for tag in ("sentence-similarity", "retrieval", "contextual-embeddings"))]
        if _HUB_ID.fullmatch(self.base_model) and not Path(self.base_model).exists():  # the Hub refuses a path
            lines.append(f"base_model: {json.dumps(self.base_model)}")
        return "\n".join([*lines, "---"])


def write_model_card(folder: str | os.PathLike[str], card: ModelCard) -> Path:
    """Write README.md and report.json into a folder, each all or nothing, and return the card's path."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / REPORT, (json.dumps(card.comparison.to_dict(), indent=1) + "\n").encode())
    write_atomically(folder / CARD, card.markdown().encode())
    return folder / CARD


def _table(values: Mapping[str, Any]) -> str:
    rows = [f"| {_words(key)} | {_cell(value)} |" for key, value in values.items()]
    return "\n".join(["| | |", "|---|---|", *rows]) if rows else "Not recorded."


def _cell(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_words(key)} {_cell(one)}" for key, one in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value).replace("|", "\\|").replace("\n", " ")


def _words(key: str) -> str:
    """Return the name of a figure in words; anything else, such as a file's name, as it is."""
    return key.replace("_", " ") if key.isidentifier() else key
