"""A hook of mkdocs (mkdocs.yml): adds the pages that stand outside of docs/, and rewrites the links to them.

On a code host a link is relative to its file in the repository; in the site README.md is index.md.
"""

import posixpath
import re
from pathlib import Path

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
# Files of the repository, and where they are in the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE",
}
SOURCES = {page: source for source, page in OUTSIDE.items()}
LINK = re.compile(r"(?<=\]\()(?!\w+:|[#/])([^)#\s]+)")


def on_files(files, config):
    for source, page in OUTSIDE.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown, page, config, files):
    source = SOURCES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def link_in_site(link):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[0]))
        target = OUTSIDE.get(target, target.removeprefix("docs/"))
        return posixpath.relpath(target, posixpath.dirname(page.file.src_uri))

    return LINK.sub(link_in_site, markdown)
