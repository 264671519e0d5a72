"""The life of the embedded server; `process.py` is the program that the tests run and kill."""
