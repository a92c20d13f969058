"""Sphinx's settings; `python -m docs` builds: copies pages, writes the reference, runs Sphinx.

Nothing is loaded from elsewhere: fonts are the system's, the search is a file beside the pages.
"""

project = "Lethe"
author = "The contributors of Lethe"
copyright = author
extensions = ["myst_parser"]
root_doc = "docs/index"
source_suffix = {".md": "markdown"}
exclude_patterns = ["docs/generate"]
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
nitpicky = False  # links between pages are held by MyST; types of other packages are not ours
suppress_warnings = ["myst.strikethrough"]
html_theme = "furo"
html_title = "Lethe"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {"top_of_page_buttons": []}
