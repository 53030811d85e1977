"""What the documentation shows is what its programs write."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

from benchmarks.comparison import page

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"


def drawn_pictures():
    specification = importlib.util.spec_from_file_location("pictures", DOCS / "site" / "pictures.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return {f"{name}.svg": module.drawn(picture) for name, picture in module.PICTURES.items()}


def test_pictures_are_those_that_their_program_draws():
    assert {file.name: file.read_text() for file in (DOCS / "pictures").iterdir()} == drawn_pictures()


@pytest.mark.parametrize("svg", drawn_pictures().values(), ids=drawn_pictures())
def test_a_picture_says_what_it_shows_to_those_who_do_not_see_it(svg):
    assert 'role="img"' in svg
    assert len(svg.split("<desc", 1)[1].split(">", 1)[1].split("</desc>")[0]) > 80


def test_no_page_of_the_site_draws_by_a_script_from_elsewhere():
    """The theme would fetch Mermaid's from another host."""
    assert [page.name for page in DOCS.glob("*.md") if "```mermaid" in page.read_text()] == []


def test_the_comparison_is_made_of_the_figures_that_were_measured():
    assert (DOCS / "comparison.md").read_text() == page()


@pytest.mark.parametrize("place", ["docs/serving.md", "examples/Dockerfile"])
def test_a_server_without_pytorch_installs_all_that_the_package_needs_but_pytorch(place):
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = {re.match(r"[\w-]+", line)[0] for line in dependencies}
    needed -= {"torch", "transformers", "huggingface-hub", "safetensors"}
    assert {"numpy", "tokenizers", "scipy"} <= needed
    named = set(re.findall(r"[\w-]+", (ROOT / place).read_text().split("--no-deps")[1]))
    assert needed - named == set()


PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted(DOCS.rglob("*.md"))]


def links(page: Path) -> list[Path]:
    """Return the files that a page links to, whether they are there or not."""
    found = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    return [(page.parent / target).resolve() for target in found if not target.startswith("http")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    assert [target for target in links(page) if not target.exists()] == []


def test_the_index_of_the_documentation_and_that_of_the_figures_name_every_page():
    figures = DOCS / "figures"
    assert set(DOCS.glob("*.md")) - {DOCS / "README.md"} <= set(links(DOCS / "README.md"))
    assert set(figures.glob("*.md")) - {figures / "README.md"} <= set(links(figures / "README.md"))
    assert figures / "README.md" in links(DOCS / "README.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_begins_with_a_title_and_a_sentence(page):
    title, empty, sentence = page.read_text().splitlines()[:3]
    assert title.startswith("# ")
    assert empty == ""
    assert re.match(r"[A-Z0-9a-z`]", sentence), f"{page.name} begins with {sentence!r}"


def test_the_readme_names_the_two_commands():
    """One installs what it needs and runs the main job, one runs the tests; both are targets."""
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    assert {"demo", "test"} <= set(re.findall(r"^make (\w+)", (ROOT / "README.md").read_text(), re.M)) <= set(targets)
