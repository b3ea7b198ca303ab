"""What the site needs of what lies beside docs/: results and scripts that pages link to, and the gallery's figures."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parent.parent

LINK = re.compile(r"\]\(\.\./((?:\.\./)*)((?:results|examples)/[^)#]+)\)")
"""To a file beside docs/, which is within it in the site."""


def on_files(files: Any, config: Any) -> Any:
    """Take the results into the site that some page links to."""
    text = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs").rglob("*.md"))
    for name in sorted({found[1] for found in LINK.findall(text)}):
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(ROOT / "examples" / "gallery.py"), "cube-300", "--n", "2000", "--out", out]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        for figure in sorted(Path(out).glob("*.svg")):
            files.append(File.generated(config, f"gallery/{figure.name}", content=figure.read_bytes()))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Point links at where they are in the site: one folder nearer."""
    return LINK.sub(r"](\1\2)", markdown)
