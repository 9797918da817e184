"""The read compiler, through GraphQL."""
