"""Whole programs in processes of their own: the command line, the demo, the examples."""
