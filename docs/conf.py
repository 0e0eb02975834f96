"""The site: `sphinx-build -W -c docs . site` makes it of the documents and docstrings.

Its pages are the files that are read in the repository too, at the same places, so that
links between them lead to the same there: README.md is the first page.
"""

import shutil
from pathlib import Path

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from jax.typing import ArrayLike, DTypeLike
from sphinx.util.typing import stringify_annotation

import jcnn
from jcnn._shapes import Padding

project = "jcnn"
author = "The jcnn maintainers"
copyright = author
version = release = jcnn.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
root_doc = "README"
include_patterns = ["*.md", "docs/**"]
exclude_patterns = [".*", "dist", "experiments", "jcnn", "runs", "site", "tests"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # a test executes the tutorial, and the file has its outputs

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
default_role = "py:obj"  # `code` in docstrings, a link where it is a public name
napoleon_use_ivar = True  # attributes as a list
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "jcnn"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"  # MathJax would be fetched from elsewhere

_CONTENTS = """

```{toctree}
:hidden:
:caption: Guides

docs/functions
Tutorial <docs/tutorial>
docs/training
docs/runs
docs/data
docs/scale
docs/accelerate
How to embed it <docs/embedding>
How it is fast <docs/speed>
How it is reproducible <docs/reproducibility>
docs/results
Comparison with others <docs/comparison>
```

```{toctree}
:hidden:
:caption: Reference

docs/api/functions
docs/api/layers
docs/api/training
docs/api/data
docs/api/inspect
docs/api/runs
```

```{toctree}
:hidden:
:caption: Project

Contributing, how to add … <CONTRIBUTING>
CHANGELOG
```
"""

_ALIASES = {
    stringify_annotation(hint, "smart"): name
    for name, hint in {
        "ArrayLike": ArrayLike,
        "DTypeLike": DTypeLike,
        "Padding": Padding,
    }.items()
}


def setup(app):
    app.connect("source-read", _add_contents)
    app.connect("autodoc-process-docstring", _escape_asterisks, priority=400)
    app.connect("autodoc-process-signature", _shorten_types)
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("build-finished", _copy_first_page)
    app.add_html_math_renderer("mathml", (_visit_math, None), (_visit_math, None))


def _add_contents(app, name, source):
    """The tree of pages, which a README does not show."""
    if name == root_doc:
        source[0] += _CONTENTS


def _escape_asterisks(app, what, name, obj, options, lines):
    """Shapes such as [N, *spatial, C] are no emphasis; examples are left alone."""
    example = False
    for number, line in enumerate(lines):
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example:
            lines[number] = line.replace("*", r"\*")


def _shorten_types(app, what, name, obj, options, signature, returned):
    for text, alias in _ALIASES.items():
        signature = signature and signature.replace(text, alias)
    return signature, returned


def _skip_fields(app, what, name, obj, skip, options):
    """The fields of a NamedTuple are in its signature."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _visit_math(translator, node):
    block = isinstance(node, nodes.math_block)
    translator.body.append(tex2mathml(node.astext(), as_block=block))
    raise nodes.SkipNode


def _copy_first_page(app, error):
    if error is None and app.builder.format == "html":
        shutil.copy(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))
