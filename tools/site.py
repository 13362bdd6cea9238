"""Hooks of the documentation's site (mkdocs): its front page is README.md, and links that lead out of it become text.

`make docs` calls mkdocs, which calls these. The guide's pages are exported beside the site's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parents[1]
FURTHER = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
SHIM = re.compile(r"<script src=\S*iframe-worker/shim\S*></script>")
LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\(([^()\s]+)\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the front page and how to contribute, which are outside docs/."""
    for name, file in FURTHER.items():
        text = (ROOT / file).read_text("utf-8")
        files.append(File.generated(config, name, content=text.replace("](docs/", "](")))
    for path in sorted((ROOT / "docs" / "notebooks").glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.stem}.md", content=notebook(path)))
    return files


def notebook(path: Path) -> str:
    """A notebook as Markdown, with its kept outputs."""
    parts = []
    for cell in json.loads(path.read_text("utf-8"))["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        parts += [_output(one) for one in cell.get("outputs", ())]
    return "\n\n".join(parts)


def _output(output: Mapping[str, Any]) -> str:
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "image/png" in data:
        return f"![Output](data:image/png;base64,{data['image/png'].strip()})"
    if "text/html" in data:
        return "\n".join(line for line in "".join(data["text/html"]).splitlines() if line.strip())
    return "```text\n" + "".join(data["text/plain"]).strip("\n") + "\n```"


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """A page without the links to files that are no pages."""
    if page.file.src_uri.startswith(("evidence/", "notebooks/")):
        page.meta.setdefault("search", {"boost": 0.001})  # after the pages that explain
    if page.file.src_uri == "guide.md":  # exported beside the pages, after them
        markdown += '\n\n<a href="guide/index.html">The guide, exported: its pages without a server</a>\n'
    folder = (Path(config["docs_dir"]) / page.file.src_uri).parent

    def kept(link: re.Match[str]) -> str:
        text, target = link.groups()
        place = target.partition("#")[0]
        found = files.get_file_from_path(_inside(folder / place, config))
        return link.group() if not place or "://" in place or (found and found.inclusion.is_included()) else text

    return LINK.sub(kept, markdown)


def _inside(path: Path, config: Any) -> str:
    resolved = path.resolve()
    docs = Path(config["docs_dir"]).resolve()
    return resolved.relative_to(docs).as_posix() if resolved.is_relative_to(docs) else ""


def on_post_page(output: str, page: Any, config: Any) -> str:
    """The theme's shim for searching from a file is fetched from outside: ours takes its place. No header is empty."""
    output = re.sub(r"<th\b([^>]*)></th>", r"<td\1></td>", output)
    return SHIM.sub(f'<script src="{"../" * page.file.dest_uri.count("/")}worker.js"></script>', output)


def on_post_build(config: Any) -> None:
    """A site that is opened from files has no page for addresses that are not there."""
    (Path(config["site_dir"]) / "404.html").unlink()
