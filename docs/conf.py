"""Configure Sphinx for the site; in `make docs` every warning is an error."""

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
INCLUDED = ("commands", "config", "accelerators")  # by pages in reference/
exclude_patterns = ["_build", *(f"_generated/{name}.md" for name in INCLUDED)]

# Anchors of headings have the names that GitHub gives them, so that links work there too.
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]

autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"bert-jax {release}"
# Shell output is not code of any language.
highlight_language = "none"


def setup(app: Sphinx) -> None:
    """Point links to README.md and RESULTS.md, outside of this folder, to their copies."""
    app.connect("source-read", _to_copies)


def _to_copies(app: Sphinx, name: str, source: list[str]) -> None:
    source[0] = generated.to_copies(source[0])
