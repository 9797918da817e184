"""The house rules as tests: what the documents promise, which way imports point, what is shipped."""
