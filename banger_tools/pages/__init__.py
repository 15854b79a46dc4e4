"""Pages of the manual that belong to no program: a module each, whose docstring is the page."""
