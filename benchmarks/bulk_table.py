"""The tables of a result of `benchmarks.bulk`, put into a Markdown page; written by command, never by hand."""

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- begin: written by python -m benchmarks.bulk, do not edit -->", "<!-- end -->"
SIZES = {"10 M": 10**7, "1 B": 10**9}
STAGES = {
    "reading_jsonl_gz": "reading `.jsonl.gz`",
    "reading_parquet": "reading Parquet",
    "hashing": "hashing the corpus",
    "tokenising": "tokenising",
    "model": "the model",
    "writing": "writing parts",
}
STORED = {"float32, as written": 4, "float16": 2, "int8": 1}


def tables(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    return "\n\n".join(
        "\n".join(lines)
        for lines in (
            _setting(result),
            _engines(result),
            _stages(result),
            _cost(result),
            _storage(result),
            _limits(result),
        )
    )


def put_between_markers(page: Path, text: str) -> None:
    """Replace what stands between the markers of a page.

    Raises:
        ValueError: if the page lacks them.
    """
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no lines {BEGIN!r} and {END!r} to put the figures between; add them")
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}")


def _unit(result: dict[str, Any]) -> str:
    return "core" if result["environment"]["device"] == "cpu" else "device"


def _setting(result: dict[str, Any]) -> list[str]:
    setup, checkpoint, place = result["settings"], result["checkpoint"], result["environment"]
    loads = (place["load_average_before"], place["load_average_after"])
    busy = " The machine was shared with other jobs, so rates by the clock are too low." if max(loads) > 3 else ""
    versions = ", ".join(f"{name} {place[name]}" for name in ("python", "torch", "transformers", "pyarrow", "ray"))
    return [
        f"`{checkpoint['name']}` ({checkpoint['sha256'][:12]}, {checkpoint['dtype']}), {setup['documents']} documents "
        f"of {setup['tokens_mean']} tokens on average (cut at {setup['tokens_most']}), {setup['context_documents']} "
        f"context documents, batches of {setup['batch_size']}. {place['machine']}, {place['device']}, {place['cores']} "
        f"cores, load average {loads[0]} before and {loads[1]} after; {versions}.{busy}",
    ]


def _engines(result: dict[str, Any]) -> list[str]:
    lines = [
        "| engine | processes, one thread each | documents a second | documents a core-second | first part after |",
        "|---|--:|--:|--:|--:|",
    ]
    for name, values in result["engines"].items():
        lines.append(
            f"| {name} | {values['processes']} | {values['documents_per_second']:.1f} | "
            f"{values['documents_per_core_second']:.1f} | {values['seconds_to_first_part']:.0f} s |"
        )
    return lines


def _stages(result: dict[str, Any]) -> list[str]:
    seconds = result["seconds_a_document"]
    whole = sum(seconds[name] for name in ("reading_jsonl_gz", "tokenising", "model", "writing"))
    lines = ["| stage | documents a second, one process | share of a run |", "|---|--:|--:|"]
    for name, label in STAGES.items():
        share = f"{seconds[name] / whole:.2%}" if name not in ("reading_parquet", "hashing") else ""
        lines.append(f"| {label} | {1 / seconds[name]:,.0f} | {share} |")
    return lines


def _cost(result: dict[str, Any]) -> list[str]:
    unit, rate = _unit(result), result["documents_per_unit_second"]
    lines = [f"| documents | {unit}-hours | arithmetic | on 64 | on 1,024 |", "|---|--:|---|--:|--:|"]
    for label, count in SIZES.items():
        hours = count / rate / 3600
        lines.append(
            f"| {label} | {hours:,.0f} | {count:,} / {rate:.1f} / 3,600 | {hours / 64:,.1f} h | {hours / 1024:,.1f} h |"
        )
    return lines


def _storage(result: dict[str, Any]) -> list[str]:
    width, sizes = result["settings"]["width"], result["bytes_a_document"]
    lines = ["| vectors | arithmetic | 10 M | 1 B |", "|---|---|--:|--:|"]
    for label, size in STORED.items():
        ten, thousand = (f"{count * width * size / 1e9:,.1f} GB" for count in SIZES.values())
        lines.append(f"| {label} | {width} * {size} bytes | {ten} | {thousand} |")
    ten, thousand = (f"{count * sizes['part'] / 1e9:,.1f} GB" for count in SIZES.values())
    lines.append(f"| parts, with ids | {sizes['part']:,.0f} bytes, measured | {ten} | {thousand} |")
    ten, thousand = (f"{count * sizes['text'] / 1e9:,.1f} GB" for count in SIZES.values())
    lines.append(f"| the texts themselves | {sizes['text']:,.0f} bytes, measured | {ten} | {thousand} |")
    return lines


def _limits(result: dict[str, Any]) -> list[str]:
    """Say at how many workers what does not grow with them takes as long as the embedding."""
    unit, rate = _unit(result), result["documents_per_unit_second"]
    seconds, sizes = result["seconds_a_document"], result["bytes_a_document"]
    lines = ["| what does not grow with the workers | 1 B | as long as embedding at |", "|---|--:|--:|"]
    for name, label in (
        ("reading_jsonl_gz", "the first pass, `.jsonl.gz`"),
        ("reading_parquet", "the first pass, Parquet"),
        ("hashing", "hashing, at every start, one file"),
    ):
        lines.append(f"| {label} | {1e9 * seconds[name] / 3600:,.1f} h | {1 / seconds[name] / rate:,.0f} {unit}s |")
    part = sizes["part"]
    most = 1e9 / (part * rate)
    lines.append(f"| writing to storage that takes 1 GB a second | {part / 3600:,.1f} h | {most:,.0f} {unit}s |")
    return lines
