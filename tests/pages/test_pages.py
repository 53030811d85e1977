"""Pages in a real browser: no errors, no network, controls, both colour schemes; empty, huge and hostile content."""

import json
import re

import pytest

from cde_retriever.lifecycle.report import make_page
from cde_retriever.pages.page import MOST_ROWS, Page
from cde_retriever.pages.plots import MOST_POINTS, Plot, Table, heat_map, intervals, lines, moves, points

HOSTILE = "</script><img src=x onerror=alert(1)>\ud800 & \"quoted\" 'x' \u202e"


def all_plots(count=5, text="a name"):
    """Return a plot of each kind of so many values."""
    numbers = [float(number % 17) for number in range(count)]
    few = numbers[:50]
    return [
        lines("Lines", "They rise.", {text: (numbers, numbers), "other": (numbers, numbers)}, x="step", y="loss"),
        intervals(
            "Intervals", "Points.", [(f"{text} {n}", n, n - 1, n + 2) for n in few], x="gain", chosen=f"{text} 1.0"
        ),
        points(
            "Map", "Dots.", {"all": [(n, n, text) for n in numbers], text: [(1, 2, text)] * bool(count)}, x="", y=""
        ),
        heat_map("Heat", "Cells.", ["one", text], [(f"{text} {n}", (n, 3.0)) for n in few], x="corpus", y="context"),
        moves("Moves", "Lines cross.", ["one", "two"], [(f"{text} {n}", (1, None)) for n in few]),
    ]


def page_of(plots, text="a name"):
    page = Page(f"Title {text}").heading(f"Section {text}").text(text, strong=True).code(text).folded(text, text)
    for plot in plots:
        page.plot(plot)
    return page.table(Table((text, "n"), [(text, 1234.5), (text, float("nan")), (text, None)]), text)


def test_a_page_opens_without_errors_or_network_in_both_schemes(opened, tmp_path):
    file = page_of(all_plots()).save(tmp_path / "page.html")
    found = opened.go(file)
    assert found.errors == []
    assert found.only_asked_for(file)
    assert found.page.locator(".plot svg.main-svg").count() >= 5
    colours = []
    for _ in range(2):
        colours.append(
            found.page.evaluate(
                "[getComputedStyle(document.body).backgroundColor, "
                "document.querySelector('.plot .xtick text').style.fill]"
            )
        )
        found.screenshot(f"plots-{len(colours)}")
        found.page.get_by_role("button", name="Dark or light").click()
    assert colours == [["rgb(255, 255, 255)", "rgb(27, 27, 27)"], ["rgb(21, 23, 26)", "rgb(232, 232, 232)"]]
    found.page.emulate_media(color_scheme="dark")
    found.go(file)
    assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 23, 26)"
    assert found.errors == []


def test_readers_of_screens_get_titles_descriptions_and_tables(opened, tmp_path):
    plots = all_plots()
    found = opened.go(page_of(plots).save(tmp_path / "page.html")).page
    assert found.title() == "Title a name"
    for plot in plots:
        assert found.get_by_role("img", name=plot.alt).count() == 1
        table = found.get_by_role("table", name=plot.title, exact=True)
        assert not table.is_visible()
        found.get_by_text(f"The numbers behind “{plot.title}”").click()
        assert table.is_visible()
        assert table.locator("tbody tr").count() == len(plot.table.rows)
    assert found.get_by_role("heading", name="Section a name").count() == 1
    assert found.get_by_role("cell", name="1234.50").count() == 1


@pytest.mark.parametrize("count", [0, 100_000])
def test_a_page_of_nothing_and_of_much_opens(opened, tmp_path, count):
    file = page_of(all_plots(count)).save(tmp_path / "page.html")
    found = opened.go(file)
    assert found.errors == []
    assert file.stat().st_size < 20e6
    drawn = found.page.evaluate("document.getElementById('plot-2').data[0].x.length")
    assert drawn == (0 if count == 0 else 2942)  # every 34th
    assert drawn <= MOST_POINTS
    rows = found.page.locator("#plot-2 ~ details tbody tr").count()
    assert rows == (0 if count == 0 else MOST_ROWS)
    assert found.page.get_by_text("more rows are left out here").count() == (0 if count == 0 else 2)


def test_what_texts_say_is_shown_and_never_run(opened, tmp_path):
    file = page_of(all_plots(text=HOSTILE), HOSTILE).save(tmp_path / "page.html")
    found = opened.go(file)
    assert found.errors == []
    assert found.only_asked_for(file)
    assert found.page.locator("img[src=x]").count() == 0
    assert "onerror=alert(1)" in found.page.locator("h2").inner_text()


def test_rows_of_long_tables_are_filtered(opened, tmp_path):
    rows = [(f"Row {number} of all", number) for number in range(40)]
    page = Page("t").table(Table(("", "n"), rows), "Long").table(Table(("", "n"), rows[:20]), "Short")
    found = opened.go(page.save(tmp_path / "page.html")).page
    shown = found.get_by_role("table", name="Long").locator("tbody tr:visible")
    assert shown.count() == 40
    found.get_by_label("Filter rows of Long").fill("ROW 3")
    assert shown.count() == 11  # 3 and 30 to 39
    found.get_by_label("Filter rows of Long").fill("")
    assert shown.count() == 40
    assert found.locator(".filter").count() == 1


def test_numbers_that_are_none_break_no_page(opened, tmp_path):
    bad = [float("nan"), float("inf"), -float("inf"), 1.0]
    plots = [
        lines("Lines", "a", {"one": (range(4), bad)}, x="", y=""),
        heat_map("Heat", "b", list("abcd"), [("row", bad)], x="", y=""),
        intervals("Intervals", "c", [("one", float("nan"), 0.0, 1.0)], x=""),
    ]
    found = opened.go(page_of(plots).save(tmp_path / "page.html"))
    assert found.errors == []
    with pytest.raises(ValueError, match="JSON"):
        Page("bad").plot(Plot("t", "a", [{"x": bad}], {}, Table((), []))).to_html()


def test_a_page_without_plots_holds_no_library():
    text = Page("t").text("x").to_html()
    assert len(text) < 20_000
    assert "http" not in re.sub(r"http-equiv", "", text)


def test_the_doctors_page_shows_its_report(opened, tmp_path):
    names = ("plain", "BM25", "two parts, own context of 512")
    settings = [
        {
            "name": name,
            "model": "" if name == "BM25" else "m",
            "ndcg_at_10": 50 + n,
            "over_plain": n,
            "interval": [n - 1, n + 1],
        }
        for n, name in enumerate(names)
    ]
    values = {"recommendation": "Take two parts.", "code": "encoder.fit_context(documents)", "setting": settings[2]}
    values |= {"settings": settings, "documents": 5, "seen": 50, "questions": {"lead": 7}, "doubts": ["Fewer than 30."]}
    assert json.loads(json.dumps(values)) == values
    found = opened.go(make_page(values).save(tmp_path / "report.html"))
    assert found.errors == []
    for text in ("Take two parts.", "encoder.fit_context(documents)", "Questions: 7 lead", "Fewer than 30."):
        assert found.page.get_by_text(text).first.is_visible()
    assert (
        found.page.locator(".plot").get_attribute("aria-label").endswith("two parts, own context of 512, m, at +2.0.")
    )
    found.screenshot("doctor")


def test_names_in_plots_are_text_and_no_markup(opened, tmp_path):
    names = ['<b>bold</b><br><a href="https://elsewhere">link</a>', "a List<T> &amp; &lt;i&gt;"]
    ways = ["<i>one</i>", "two & three"]
    page = Page("Names").plot(moves("Moves", "Lines.", ways, [(name, (1, 2)) for name in names]))
    found = opened.go(
        page.plot(points("Map", "Dots.", {names[0]: [(1, 2, "")]}, x="<b>x</b>", y="")).save(tmp_path / "p.html")
    )
    assert [one.text_content() for one in found.page.locator("#plot-0 .legendtext").all()] == names
    assert [one.text_content() for one in found.page.locator("#plot-0 .xtick text").all()] == ways
    assert found.page.locator("#plot-1 .xtitle").text_content() == "<b>x</b>"
    assert found.page.locator(".plot a").count() == 0
