"""Definitions: what pipelines collect, and every problem that validation finds."""
