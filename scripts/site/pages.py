"""The pages of the site that are not in docs/: those at the root of the repository, and those generated from code.

mkdocs calls :func:`on_files`. A link in a page leads to a file of the repository; on the site it leads to that file's
page, or to a copy of the file. So the same text works on the site and in the repository.
"""

from __future__ import annotations

import posixpath
import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parent))

import commands
import schema

ROOT = Path(__file__).parents[2]
AT_THE_ROOT = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security-policy.md",
}
GENERATED = {"reference/commands.md": commands.page, "reference/manifest.md": schema.page}

_LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)#:\s]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and make the links of all lead to where they are on the site."""
    pages = {f"docs/{file.src_uri}": file.src_uri for file in files.documentation_pages()} | AT_THE_ROOT
    for source, page in pages.items():
        text = _relinked((ROOT / source).read_text(encoding="utf-8"), source, page, pages, files, config)
        _put(files, File.generated(config, page, content=text))
    for page, make in GENERATED.items():
        _put(files, File.generated(config, page, content=make()))
    return files


def _relinked(text: str, source: str, page: str, pages: dict[str, str], files: Files, config: MkDocsConfig) -> str:
    """The text of a page whose links are relative to ``page``, the place on the site, not to ``source``."""

    def link(found: re.Match[str]) -> str:
        picture, label, target, anchor = found.groups()
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if (ROOT / path).is_dir():
            return label
        place = pages.get(path) or _copied(path, files, config)
        return f"{picture}[{label}]({posixpath.relpath(place, posixpath.dirname(page) or '.')}{anchor or ''})"

    return _LINK.sub(link, text)


def _copied(path: str, files: Files, config: MkDocsConfig) -> str:
    """Where a file of the repository is on the site: pictures of docs/ as they are, any other as text."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    place = f"files/{path}" + ".txt" * path.endswith(".py")
    if files.get_file_from_path(place) is None:
        files.append(File.generated(config, place, content=(ROOT / path).read_bytes()))
    return place


def _put(files: Files, file: File) -> None:
    """Add a file, in the place of one that has its name."""
    before = files.get_file_from_path(file.src_uri)
    if before is not None:
        files.remove(before)
    files.append(file)
