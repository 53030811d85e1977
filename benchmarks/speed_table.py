"""The Markdown table of a result of `benchmarks.speed`; written by command, never by hand."""

from typing import Any

TARGET = 1.25
ROWS = {
    "query": ("one query", f"at most {TARGET}"),
    "documents": ("documents, in batches", f"at most {TARGET}"),
    "query_to_own_first_stage": ("one query, against our own plain encoder", ""),
    "documents_to_own_first_stage": ("documents, against our own plain encoder", ""),
    "joint_query": ("one query under the joint layout", ""),
    "set_context_to_embedding_it": ("`set_context`, against plainly embedding as many documents", ""),
}


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    setup, checkpoint = result["settings"], result["checkpoint"]
    lines = [
        "# Speed",
        "",
        f"Time of `{checkpoint['name']}` ({checkpoint['sha256'][:12]}, {checkpoint['dtype']}) with "
        f"{setup['context_documents']} context documents, divided by that of sentence-transformers with the same "
        f"backbone. {setup['repetitions']} interleaved repetitions after one of warm-up. "
        "Written by `python -m benchmarks.speed`, do not edit.",
        "",
        "| what | ratio | least to largest | target |",
        "|---|--:|---|---|",
    ]
    for name, (label, target) in ROWS.items():
        r = result["ratios"][name]
        lines.append(f"| {label} | {r['median']:.3f} | {r['least']:.3f} to {r['largest']:.3f} | {target} |")
    milliseconds, rate = result["query_milliseconds"], result["documents_per_second"]
    lines += ["", "| | query, ms | documents per second |", "|---|--:|--:|"]
    for name, value in milliseconds.items():
        per_second = f"{rate[name]:.1f}" if name in rate else "not measured"
        lines.append(f"| {name} | {value:.2f} | {per_second} |")
    lines += ["", *(f"- {name.replace('_', ' ')}: {value}" for name, value in setup.items())]
    lines += ["", ", ".join(f"{name} {value}" for name, value in result["environment"].items()), ""]
    return "\n".join(lines)
