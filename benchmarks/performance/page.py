"""The page of a file of figures, made of that file alone; written by command, never by hand."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.performance.plots import PANELS, draw_scaling
from benchmarks.performance.sections import Section
from benchmarks.performance.targets import figure, target_table

MEDIANS = {
    "queries": ("milliseconds_a_query", "one query, ms"),
    "documents": ("documents_per_second", "documents a second"),
    "hybrid": ("milliseconds_a_query", "one query of an index, ms"),
    "context": ("milliseconds", "context, ms"),
    "training": ("seconds_a_step", "training step, s"),
    "startup": ("seconds_a_start", "start-up, s"),
    "memory": ("peak_megabytes", "peak memory by documents, MB"),
}
INTRODUCTION = """
Each ratio is the median over interleaved repetitions (ours, theirs, ours, theirs ...) of the ratio within one, after
one round of warm-up: one process, the same threads, the same longest text, the same weights on both sides. It is of
times, ours over theirs, where less is better; of throughput and of queries a second, ours over others', and for `joint`
its time over ours, where more is. Start-up and memory are those of processes of their own. **Met** is judged by the
median; a range across the target means that this machine cannot tell. Documents, queries and their numbers are in the
last section.
""".strip().replace("\n", " ")


def write_page(file: Path) -> Path:
    """Write page and plots of a JSON file beside it; return the page's path."""
    sections: dict[str, Section] = json.loads(file.read_text())["sections"]
    notes = file.with_name(f"{file.stem}-notes.md")
    page = file.with_suffix(".md")
    lines = render(sections, f"{file.stem}-scaling.svg", notes.name if notes.is_file() else "")
    if "scaling" in sections:
        draw_scaling(sections["scaling"]["result"], file.with_name(f"{file.stem}-scaling.svg"))
    page.write_text("\n".join(lines) + "\n")
    return page


def render(sections: Mapping[str, Section], picture: str, notes: str = "") -> list[str]:
    """Return the lines of the page.

    Args:
        sections: The figures.
        picture: Name of the plot's file.
        notes: Name of the page that says what was done about the slowest part.
    """
    checkpoint = next(iter(sections.values()))["checkpoint"]
    lines = [
        f"# Speed and memory of {checkpoint['name']}",
        "",
        f"`{checkpoint['name']}` ({checkpoint['sha256'][:12]}){under(sections)} against what people use today. "
        "Written by `make bench` (`python -m benchmarks.performance`), do not edit.",
        "",
        *target_table(dict(sections)),
        "",
        INTRODUCTION,
        "",
        *machine(sections),
    ]
    lines += absolute(sections)
    if "scaling" in sections:
        lines += scaling(sections["scaling"]["result"], picture)
    if "flops" in sections:
        lines += flops(sections["flops"]["result"])
    if "profile" in sections:
        lines += profile(sections["profile"]["result"], notes)
    return [*lines, *how(sections)]


def under(sections: Mapping[str, Section]) -> str:
    """Say how many documents the contexts hold, if the sections agree."""
    sizes = {
        section["settings"]["context_size"] for section in sections.values() if "context_size" in section["settings"]
    }
    return f" under a context of {sizes.pop()} documents" if len(sizes) == 1 else ""


def machine(sections: Mapping[str, Section]) -> list[str]:
    """Return the machine and versions, once if all sections have the same."""
    lines = ["## Machine", ""]
    environments: dict[str, list[str]] = {}
    for name, section in sections.items():
        environments.setdefault(json.dumps(section["environment"]), []).append(name)
    for content, names in environments.items():
        of = "" if len(environments) == 1 else f"{', '.join(names)}: "
        lines += [of + ", ".join(f"{name} {value}" for name, value in json.loads(content).items()) + ".", ""]
    lines += ["| Section | Measured | Minutes | Load average before | after |", "|---|---|--:|--:|--:|"]
    for name, section in sections.items():
        before, after = section["load_average"]
        lines.append(f"| {name} | {section['date']} | {section['seconds'] / 60:.1f} | {before:.2f} | {after:.2f} |")
    return [*lines, ""]


def absolute(sections: Mapping[str, Section]) -> list[str]:
    """Return the medians behind the ratios."""
    lines = ["## Medians", ""]
    for name, (key, label) in MEDIANS.items():
        if name in sections:
            lines += _table(label, sections[name]["result"][key])
    if "concurrent" in sections:
        found = sections["concurrent"]["result"]
        differences = found["about"]["largest_difference_to_asking_alone"]
        lines += ["| queries a second | sequential | concurrent | largest difference |", "|---|--:|--:|--:|"]
        for name, rates in found["queries_per_second"].items():
            cells = f"{rates['alone']:.1f} | {rates['together']:.1f} | {differences[name]:.1g}"
            lines.append(f"| {name.replace('_', ' ')} | {cells} |")
        lines.append("")
    startup = sections.get("startup", {}).get("result", {})
    for key, label in (
        ("seconds_of_checksums", "of a start, checksums of the model's files alone, s"),
        ("installed_megabytes", "installed packages, MB"),
    ):
        lines += _table(label, startup[key]) if key in startup else []
    return lines


def _table(label: str, values: Mapping[str, float]) -> list[str]:
    rows = [f"| {name.replace('_', ' ')} | {figure(value)} |" for name, value in values.items()]
    return [f"| {label} | |", "|---|--:|", *rows, ""]


def scaling(result: Mapping[str, Any], picture: str) -> list[str]:
    """Return the plot and the exponents."""
    lines = ["## How cost grows", "", f"![Time against length, context and corpus]({picture})", ""]
    lines += ["| Time against | of | from | to | exponent |", "|---|---|--:|--:|--:|"]
    for name, label in PANELS.items():
        for line, found in result[name].items():
            sizes = found["sizes"]
            lines.append(
                f"| {label} | {line.replace('_', '-')} | {min(sizes):g} | {max(sizes):g} | {found['exponent']:.2f} |"
            )
    return [*lines, "", "Time = a · size^exponent, least squares on the logarithms of the medians.", ""]


def flops(result: Mapping[str, Any]) -> list[str]:
    """Return the FLOP beside the time."""
    lines = [
        "## FLOP",
        "",
        f"The fastest float32 matmul in the same run: {result['peak_flops'] / 1e9:.0f} GFLOP/s. Time is that of the "
        f"whole call, tokenising included; a batch is {result['about']['documents_a_batch']} documents.",
        "",
        "| | GFLOP | ms | GFLOP/s | of the peak |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, row in result["rows"].items():
        lines.append(
            f"| {name} | {row['flop'] / 1e9:.3f} | {1000 * row['seconds']:.2f} | {row['flops'] / 1e9:.1f} | "
            f"{100 * row['share_of_peak']:.0f} % |"
        )
    return [*lines, ""]


def profile(result: Mapping[str, Any], notes: str) -> list[str]:
    """Return where the time of embedding documents goes."""
    outside, tokenising = result["share_outside_the_model"], result["share_of_tokenising"]
    lines = [
        "## Profile: embedding documents on PyTorch",
        "",
        f"{100 * outside:.1f} % of the time is spent outside the model (tokenising, padding, arrays); tokenising "
        f"alone would take {100 * tokenising:.1f} %.",
        "",
        "| Operator | calls | share of all operators' own time |",
        "|---|--:|--:|",
    ]
    for row in result["operators"]:
        lines.append(f"| `{row['operator']}` | {row['calls']} | {100 * row['share']:.1f} % |")
    return [*lines, "", *([f"What was done about the slowest part: [notes]({notes}).", ""] if notes else [])]


def how(sections: Mapping[str, Section]) -> list[str]:
    """Return what every section was measured on."""
    lines = ["## What was measured", ""]
    for name, section in sections.items():
        values = {**section["settings"], **section["result"].get("about", {})}
        said = ", ".join(
            f"{key.replace('_', ' ')} {_value(value)}" for key, value in values.items() if value is not None
        )
        lines.append(f"- **{name}**: {said}")
    return lines


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{key} {_value(entry)}" for key, entry in value.items()) + ")"
    if isinstance(value, list):
        return " ".join(map(str, value))
    return f"{value:.3g}" if isinstance(value, float) and abs(value) < 1 else str(value)
