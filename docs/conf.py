"""Settings of the documentation, which `make docs` builds."""

import os
import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).with_name("_ext")))

project = "skllm4es"
author = "The skllm4es developers"
copyright = author
version = release = version_of("skllm4es")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
    "message_page",
    "unbroken_figures",
]
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py", "benchmarks/*.md"]
templates_path = ["_templates"]
default_role = "literal"
# Messages and docstrings quote code: "--" and straight quotes are meant.
smartquotes = False

# Every reference must resolve. Names of other projects become links only with SKLLM4ES_DOCS_ONLINE=1, which fetches
# their inventories; the build itself needs no network.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*|std:.*", r"(sklearn|pandas|polars|numpy|torch|transformers|peft|matplotlib|joblib|openai|pyarrow)\..*"),
]
if os.environ.get("SKLLM4ES_DOCS_ONLINE"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "sklearn": ("https://scikit-learn.org/stable", None),
        "pandas": ("https://pandas.pydata.org/docs", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "matplotlib": ("https://matplotlib.org/stable", None),
        "peft": ("https://huggingface.co/docs/peft/main/en", None),
        "transformers": ("https://huggingface.co/docs/transformers/main/en", None),
    }

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3

# Copied examples have neither prompts nor output.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autosummary_generate = True
autodoc_typehints = "none"  # The docstrings have them.
numpydoc_show_class_members = False  # The class template lists them.

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "backreferences_dir": "auto_examples/backreferences",
    "doc_module": ("skllm4es",),
    "reference_url": {"skllm4es": None},
    "reset_modules": ("tutorial_defaults.set_defaults",),
    "image_srcset": ["2x"],
    "thumbnail_size": (500, 310),
    "within_subsection_order": "FileNameSortKey",
    "download_all_examples": False,
    "write_computation_times": False,
    "remove_config_comments": True,
    "show_memory": False,
    "min_reported_time": 1,
    "parallel": 2,
}

html_title = project
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_copy_source = False
toc_object_entries_show_parents = "hide"
# Pages without pages below them have nothing to list at their left.
html_sidebars = {"*": [], "api": ["sidebar-collapse", "sidebar-nav-bs"]}
html_theme_options = {
    "header_links_before_dropdown": 4,  # all in one line, at 1280 pixels, too
    "navigation_with_keys": False,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": []},
    "show_prev_next": True,
    "show_toc_level": 2,
}
