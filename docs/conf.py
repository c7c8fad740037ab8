"""How Sphinx makes the site; `make docs` runs it, and any warning fails."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import generated  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

import bert_jax  # noqa: E402

generated.write(HERE / "_generated")

project = "bert-jax"
author = "the authors of bert-jax"
release = bert_jax.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "_generated/commands.md", "_generated/config.md"]

# Links to headings are written as GitHub makes their names, so that they work there too.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"bert-jax {release}"
# Lines that a shell prints are no code in any language.
highlight_language = "none"


def setup(app: Sphinx) -> None:
    """Leads links to README.md and RESULTS.md, which are not in this folder, to their copies."""
    app.connect("source-read", _to_copies)


def _to_copies(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = generated.to_copies(source[0])
