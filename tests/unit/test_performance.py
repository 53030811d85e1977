"""The performance benchmark: its ratios, exponents and FLOP, what is kept, and what its page says."""

import argparse
import json
from itertools import chain
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.performance import __main__ as performance
from benchmarks.performance.concurrent import judged, largest_difference, mixed_queries
from benchmarks.performance.context import fitting
from benchmarks.performance.documents import part_by_part, split
from benchmarks.performance.embed_stream import note_peak, peak_megabytes, read_peaks
from benchmarks.performance.flops import count_flops
from benchmarks.performance.hybrid import index_of, searching
from benchmarks.performance.options import QUICK, QUICK_OUTPUT, read_options, settings_of
from benchmarks.performance.page import write_page
from benchmarks.performance.rivals import set_fitted_context
from benchmarks.performance.sections import Sections, pending
from benchmarks.performance.targets import ROWS, Row, Target, judge
from benchmarks.performance.texts import short_documents, texts_of_length, token_ids
from benchmarks.performance.timing import fit_exponent, interleave, medians, per_text, ratio
from cde_retriever.encoder.encoder import ContextualEncoder
from cde_retriever.search.hybrid import inner_products, score
from tests.tiny import documents, headed_encoder, tiny_encoder

NAMES = list(performance.MODULES)
LINE = {"sizes": [8, 16], "seconds": [0.1, 0.4], "exponent": 2.0}
RESULTS = {
    "queries": {"milliseconds_a_query": {"torch": 9.25}},
    "documents": {"documents_per_second": {"onnx_int8": 123.4}},
    "hybrid": {"milliseconds_a_query": {"sparse": 0.75}},
    "context": {"milliseconds": {"fit_torch": 41.0}},
    "concurrent": {
        "queries_per_second": {"torch": {"alone": 80.0, "together": 200.0}},
        "about": {"largest_difference_to_asking_alone": {"torch": 3e-7}},
    },
    "training": {"seconds_a_step": {"frozen": 20.5}},
    "memory": {"peak_megabytes": {"10000": 812.0}},
    "startup": {
        "seconds_a_start": {"torch": 3.5},
        "seconds_of_checksums": {"onnx": 0.054},
        "installed_megabytes": {"serving": 150.0, "full": 2500.0},
    },
    "scaling": {name: {"torch": LINE} for name in ("tokens", "context", "corpus")},
    "flops": {
        "peak_flops": 2e11,
        "rows": {"query, torch": {"flop": 4e8, "seconds": 0.01, "flops": 4e10, "share_of_peak": 0.2}},
        "about": {"documents_a_batch": 32},
    },
    "profile": {
        "share_outside_the_model": 0.07,
        "share_of_tokenising": 0.03,
        "operators": [{"operator": "aten::addmm", "calls": 36, "share": 0.8}],
    },
}


def planted(*values):
    """Return a ratio as a section holds it."""
    middle = float(np.median(values))
    return {"median": middle, "least": min(values), "largest": max(values), "repetitions": len(values)}


def section(name, sha256="a" * 64, **settings):
    """Return a section with planted figures; every ratio of it is 1.15."""
    ratios = {row.key: planted(1.0, 1.15, 1.3) for row in ROWS if row.section == name}
    return {
        "checkpoint": {"name": "tiny", "sha256": sha256},
        "settings": settings,
        "date": "2026-01-02",
        "seconds": 90.0,
        "load_average": [0.1, 1.9],
        "environment": {"machine": "Linux x86_64", "cores": 2},
        "result": {"ratios": ratios, **RESULTS[name]},
    }


def write(file, *sections):
    store = Sections(file)
    for name, content in sections:
        store.put(name, content)
    return write_page(file).read_text()


# Figures


def test_a_ratio_is_taken_within_a_repetition():
    found = ratio({"ours": [1.0, 20.0, 3.0], "theirs": [2.0, 10.0, 3.0]}, "ours", "theirs")
    assert found == {"median": 1.0, "least": 0.5, "largest": 2.0, "repetitions": 3}
    with pytest.raises(ValueError, match="zip"):
        ratio({"ours": [1.0], "theirs": [1.0, 2.0]}, "ours", "theirs")


def test_subjects_take_turns_and_the_first_round_is_not_counted():
    order = []
    subjects = {name: lambda name=name: order.append(name) for name in ("ours", "theirs")}
    timings = interleave(subjects, 3, "turns")
    assert order == ["ours", "theirs"] * 4
    assert {name: len(seconds) for name, seconds in timings.items()} == {"ours": 3, "theirs": 3}
    assert min(seconds for row in timings.values() for seconds in row) >= 0


def test_times_are_shared_among_texts_and_their_middle_is_taken():
    timings = per_text({"ours": [8.0, 4.0, 40.0], "joint": [3.0, 2.0, 1.0]}, {"ours": 4, "joint": 1})
    assert timings == {"ours": [2.0, 1.0, 10.0], "joint": [3.0, 2.0, 1.0]}
    assert medians(timings) == {"ours": 2.0, "joint": 2.0}


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, -1.0])
def test_the_exponent_of_a_power_law_is_found(exponent):
    sizes = [8, 16, 64, 256]
    assert fit_exponent(sizes, [0.003 * size**exponent for size in sizes]) == pytest.approx(exponent, abs=1e-9)


def test_an_exponent_survives_noise_and_needs_two_sizes():
    noise = np.random.default_rng(0).lognormal(sigma=0.05, size=6)
    sizes = [2.0**i for i in range(6)]
    assert fit_exponent(sizes, [size**1.5 * n for size, n in zip(sizes, noise, strict=True)]) == pytest.approx(
        1.5, abs=0.05
    )
    with pytest.raises(ValueError, match="two different sizes"):
        fit_exponent([8, 8], [1.0, 2.0])


def test_flop_are_those_of_the_matrices_and_of_attention(tmp_path):
    # Loaded, so that it runs from packed weights.
    encoder = ContextualEncoder.from_pretrained(tiny_encoder().save_pretrained(tmp_path / "model"), device="cpu")
    encoder.set_context(encoder.null_context())
    text = documents(1, words=12)[0]
    tokens, layers, width, inner = len(token_ids(encoder, [text])[0]), 3, 32, 48
    linear = 2 * tokens * layers * (4 * width * width + 2 * width * inner)
    attention = layers * 2 * 2 * tokens * tokens * width
    counted = count_flops(encoder, lambda: encoder.encode_first_stage([text]))
    assert counted == pytest.approx(linear + attention, rel=0.02)
    assert counted >= linear + attention


def test_callers_ask_queries_of_all_lengths():
    encoder = tiny_encoder()
    queries = mixed_queries(encoder, documents(200), 12)
    lengths = [len(ids) for ids in token_ids(encoder, queries)]
    assert len(set(queries)) == 12
    assert lengths[0] < lengths[2] < lengths[4]
    assert lengths[5] < lengths[7] < lengths[9]


def test_callers_that_get_the_wrong_vector_are_noticed():
    alone = np.eye(3, dtype=np.float32)
    assert largest_difference(alone, [alone, alone[[1, 0, 2]]]) == 1
    assert judged(planted(3.0), 1e-7) == planted(3.0)
    assert judged(planted(3.0), 0.5)["fault"] == "vectors differ by 0.5"


def test_peaks_of_all_processes_are_kept(tmp_path):
    file = tmp_path / "peaks.json"
    file.write_text(json.dumps({"another": 1e6}))
    note_peak(file)
    assert max(read_peaks(file).values()) == 1e6
    assert len(read_peaks(file)) == 2
    assert 10 < peak_megabytes() < 1e5
    assert read_peaks(tmp_path / "nothing") == {}


# Texts


def test_every_document_is_timed_once():
    texts = documents(23)
    parts = split(texts, 5)
    assert list(chain(*parts)) == texts
    assert {len(part) for part in parts} == {4, 5}
    seen = []
    interleave({"ours": part_by_part(seen.append, parts)}, repetitions=5, label="Documents")
    assert seen[0] == seen[-1] == parts[0]  # the first is warm-up
    assert sorted(chain(*seen[1:])) == sorted(texts)
    with pytest.raises(ValueError, match="3 documents cannot be split into 5 parts"):
        split(texts[:3], 5)


def test_what_is_timed_runs_through_the_model(monkeypatch, tmp_path):
    """A fit keeps the vectors of its documents, which made a bench of version 2 a hundred times too fast."""
    encoder = ContextualEncoder.from_pretrained(headed_encoder().save_pretrained(tmp_path), device="cpu")
    texts, ran = documents(12), []
    embed = encoder.backend.embed
    monkeypatch.setattr(
        encoder.backend, "embed", lambda ids, *rest, **state: ran.append(len(ids)) or embed(ids, *rest, **state)
    )
    set_fitted_context(encoder, texts, 8)
    fit = fitting(encoder, texts, argparse.Namespace(context_size=8, batch_size=4))
    rounds = [lambda: encoder.encode_documents(texts), fit, fit, lambda: encoder.encode_documents(texts)]
    counts = []
    for run in rounds:
        ran.clear()
        run()
        counts.append(sum(ran))
    assert counts == [12, 8, 8, 12]


def test_each_way_to_ask_an_index_gives_its_own_exact_order():
    encoder = headed_encoder()
    texts, queries = documents(20), documents(3, seed=1)
    encoder.fit_context(texts)
    both = encoder.encode_documents(texts, parts="both")
    vectors = encoder.encode_documents(texts)
    ways = searching(encoder, queries, index_of([both], encoder), vectors)
    asked = encoder.encode_queries(queries, parts="both")
    orders = {
        "hybrid": score(asked, both),
        "sparse": inner_products(asked.sparse, both.sparse),
        "one": encoder.encode_queries(queries) @ vectors.T,
    }
    for name, way in ways.items():
        found = [[int(getattr(hit, "id", hit)) for hit in hits] for hits in way()]
        assert found
        for rows, scores in zip(found, orders[name], strict=True):
            np.testing.assert_allclose(scores[rows], np.sort(scores)[::-1][: len(rows)], atol=1e-6)
            assert len(rows) == (min(10, (scores > 0).sum()) if name == "sparse" else 10)


def test_texts_have_the_length_asked_for():
    encoder = tiny_encoder()
    texts = texts_of_length(encoder, documents(200), 16, 5)
    assert len(texts) == 5
    assert all(abs(len(ids) - 16) <= 4 for ids in token_ids(encoder, texts))
    with pytest.raises(ValueError, match="hold only"):
        texts_of_length(encoder, documents(3), 16, 500)


def test_short_documents_are_distinct_short_and_the_same_again():
    texts = documents(50)
    found = list(short_documents(texts, 100))
    assert found == list(short_documents(texts, 100))
    assert len(set(found)) == 100
    assert {len(text.split()) for text in found} == {2, 3, 4}
    with pytest.raises(ValueError, match="distinct short spans"):
        list(short_documents(texts[:2], 10_000))


# What is kept


def options(*arguments):
    return read_options(NAMES, list(arguments))


def test_a_section_is_kept_while_checkpoint_and_settings_are_the_same(tmp_path):
    file = tmp_path / "docs" / "figures" / "performance.json"
    Sections(file).put("queries", section("queries", queries=40))
    Sections(file).put("memory", section("memory", memory_documents=[10, 20]))
    wanted = {"queries": {"queries": 40}, "flops": {}, "memory": {"memory_documents": [10, 30]}}
    assert pending(Sections(file), wanted, "a" * 64, None) == ["flops", "memory"]
    assert pending(Sections(file), wanted, "b" * 64, None) == ["queries", "flops", "memory"]
    assert pending(Sections(file), wanted, "a" * 64, ["queries"]) == ["queries"]


def test_a_file_tells_of_one_checkpoint(tmp_path):
    file = tmp_path / "performance.json"
    for name, sha256 in (("queries", "a"), ("memory", "a"), ("flops", "b")):
        Sections(file).put(name, section(name, sha256=sha256))
    assert list(Sections(file).found) == ["flops"]


def test_settings_are_those_of_the_section_as_json_holds_them():
    chosen = settings_of(
        options("--documents", "7", "--serving-python", "/a/machine/p"), ("documents", "serving_python")
    )
    assert chosen == {"documents": 7, "serving_python": "p"}
    assert json.loads(json.dumps(chosen)) == chosen
    every = {name: performance.settings(name, options()) for name in NAMES}  # each names options that exist
    assert json.loads(json.dumps(every)) == every


def test_a_quick_run_is_small_and_leaves_the_documentation_alone():
    quick = options("--quick", "--documents", "9")
    assert (quick.documents, quick.queries, quick.output) == (9, QUICK["queries"], QUICK_OUTPUT)
    assert options().output.as_posix() == "docs/figures/performance.json"
    with pytest.raises(SystemExit):
        options("--only", "nothing")


def test_a_run_that_stops_or_fails_goes_on_where_it_was(tmp_path, checkpoint, monkeypatch, capsys):
    measured, power, spoilt = [], ["fails once"], {"memory"}

    def fake(name):
        def measure(asked):
            assert isinstance(asked, argparse.Namespace)
            if name == "documents" and power:
                raise KeyboardInterrupt(power.pop())
            if name in spoilt:
                raise OSError("no space left")
            measured.append(name)
            return section(name)["result"]

        return SimpleNamespace(measure=measure, READS=("documents",))

    monkeypatch.setattr(performance, "MODULES", {name: fake(name) for name in ("queries", "documents", "memory")})
    monkeypatch.setenv("CDE_CACHE", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    arguments = ["--checkpoint", str(checkpoint), "--output", str(tmp_path / "performance.json")]
    with pytest.raises(KeyboardInterrupt):
        performance.main(arguments)
    assert measured == ["queries"]
    assert performance.main(arguments) == 1
    assert measured == ["queries", "documents"]
    assert "could not measure memory" in capsys.readouterr().err
    spoilt.clear()
    assert [performance.main(arguments) for _ in range(2)] == [0, 0]
    assert measured == ["queries", "documents", "memory"]
    performance.main([*arguments, "--only", "memory"])
    assert measured[3:] == ["memory"]
    performance.main([*arguments, "--documents", "5"])
    assert measured[4:] == ["queries", "documents", "memory"]
    page = (tmp_path / "performance.md").read_text()
    performance.main([*arguments, "--table"])
    assert (tmp_path / "performance.md").read_text() == page


# The page


@pytest.mark.parametrize(
    ("at_most", "value", "met"),
    [(True, 1.1, "met"), (True, 1.101, "not met"), (False, 1.1, "met"), (False, 1.099, "not met")],
)
def test_a_target_is_met_by_the_median(at_most, value, met):
    row = Row("queries", "torch", "work", "other", Target(1.1, at_most, "its time"))
    assert judge(row, planted(0.01, value, 99.0)) == met


def test_a_row_without_figure_or_target_or_with_a_fault_is_not_met():
    row = Row("queries", "torch", "work", "other", Target(1.1, True, ""))
    assert judge(row, None) == "not measured"
    assert judge(row, planted(1.0) | {"fault": "vectors differ by 0.5"}) == "not met: vectors differ by 0.5"
    assert judge(Row("queries", "torch", "work", "other"), planted(1.0)) == ""


def test_the_page_holds_every_section_and_judges_every_row(tmp_path):
    page = write(tmp_path / "performance.json", *((name, section(name, context_size=512)) for name in NAMES))
    assert "(aaaaaaaaaaaa) under a context of 512 documents" in page
    rows = [line for line in page.splitlines() if line.startswith("| ")][1 : len(ROWS) + 1]
    assert len(rows) == len(ROWS)
    for row, line in zip(ROWS, rows, strict=True):
        limit = row.target and row.target.limit
        met = {None: "", 12: "not met", 2: "not met", 1.2: "met", 1.3: "met", 1.1: "not met"}.get(limit)
        if limit == 1.0:
            met = "not met" if row.target.at_most else "met"
        assert line == f"| {row.work} | {row.against} | 1.150 (1.000 to 1.300) | {row.target or ''} | {met} |"
    for said in (
        "9.250",
        "0.054",
        "123.400",
        "200.0",
        "3e-07",
        "| 2.00 |",
        "aten::addmm",
        "20 %",
        "7.0 %",
        "cores 2",
        "2500",
    ):
        assert said in page
    assert all(f"- **{name}**" in page for name in NAMES)
    assert "<svg" in (tmp_path / "performance-scaling.svg").read_text()


def test_a_page_of_few_sections_says_what_was_not_measured(tmp_path):
    memory = section("memory")
    memory["result"]["ratios"]["stream"] = planted(1.05)
    page = write(tmp_path / "performance.json", ("memory", memory))
    assert page.count("not measured") == len(ROWS) - 1
    assert "| 1.050 (one run) | ≤ 1.1 \N{MULTIPLICATION SIGN} its peak | met |" in page
    assert "scaling.svg" not in page


def test_the_page_names_the_notes_that_say_what_was_done(tmp_path):
    (tmp_path / "performance-notes.md").write_text("We bought a faster one.\n")
    page = write(tmp_path / "performance.json", ("profile", section("profile")))
    assert "What was done about the slowest part: [notes](performance-notes.md)." in page


def test_sections_of_unlike_machines_say_so(tmp_path):
    other = section("memory") | {"environment": {"machine": "Darwin arm64", "cores": 8}}
    page = write(tmp_path / "performance.json", ("queries", section("queries")), ("memory", other))
    assert "queries: machine Linux x86_64, cores 2." in page
    assert "memory: machine Darwin arm64, cores 8." in page
