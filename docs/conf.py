"""Configuration of Sphinx; `nox -s docs` builds with it."""

import subprocess
import sys
from pathlib import Path

import deadpool

HERE = Path(__file__).parent

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

# The changelog's page includes the changes that are not released yet.
unreleased = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "Unreleased"]
draft = subprocess.run(unreleased, cwd=HERE.parent, check=True, stdout=subprocess.PIPE)
(HERE / "_build").mkdir(exist_ok=True)
(HERE / "_build" / "unreleased.rst").write_bytes(draft.stdout)
