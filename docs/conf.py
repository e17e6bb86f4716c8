"""Configuration of Sphinx; `nox -s docs` builds with it."""

import deadpool

project = "Deadpool"
author = "The Deadpool authors"
copyright = author
release = version = deadpool.__version__

extensions = ["sphinx.ext.autodoc"]
exclude_patterns = ["_build"]
html_theme = "alabaster"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
nitpicky = False
