"""The site of the documents (mkdocs.yml): its links lead somewhere, and its pages show what a code host shows."""

import re
from collections import Counter

import pytest
from markdown_it import MarkdownIt

from tests.helpers.documents import DOCUMENTS
from tests.helpers.runs import ROOT, command

pytest.importorskip("material", reason="needs the extra docs")

PAGES = {document: document.removeprefix("docs/").replace(".md", ".html") for document in DOCUMENTS}
PAGES |= {"README.md": "index.html", "CONTRIBUTING.md": "contributing.html", "CHANGELOG.md": "changelog.html"}


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built site. A link to a page or heading that isn't there is an error, as is a page outside of the menu."""
    folder = tmp_path_factory.mktemp("site")
    built = command("-m", "mkdocs", "build", "--strict", "--site-dir", str(folder), cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return folder


def test_a_page_has_the_headings_lists_tables_and_blocks_that_commonmark_finds(site):
    elements = re.compile(r"<(h\d|ol|ul|li|table|tr|td|pre|strong|img)\b")
    commonmark = MarkdownIt("commonmark").enable("table")
    for document, page in PAGES.items():
        _, _, article = (site / page).read_text(encoding="utf-8").partition("<article")
        shown = Counter(elements.findall(article.partition("</article>")[0]))
        expected = commonmark.render((ROOT / document).read_text(encoding="utf-8"))
        assert shown == Counter(elements.findall(expected)), page


def test_a_page_loads_nothing_from_outside(site):
    loading = re.compile(r"""<(?:link|script|img)\b[^>]*(?:src|href)="?(?:https?:)?//[^>]*>""")
    assert [found for page in site.rglob("*.html") for found in loading.findall(page.read_text(encoding="utf-8"))] == []
