"""The report of an export: summaries, model cards, Markdown, HTML, plots."""
