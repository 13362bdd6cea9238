"""The documentation assistant of the quickstart: it answers questions by quoting the docstrings of Python.

docs/assistant.md says how it works and how good it is. It is a recipe on top of `retrieve/folder`: how a Python's
documentation is collected (`collect.py`), what its small model reads (`pointer.py`), what that is tuned and measured
on, and its part of the report (`app.py`).
"""

CARD = {"title": "questions about Python, answered by quoting its documentation", "aliases": ["docstrings"]}
