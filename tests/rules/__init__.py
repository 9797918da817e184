"""Rules of the code base as tests: documents, import directions, words, the wheel."""
