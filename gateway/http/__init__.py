"""HTTP functions that GraphQL and REST share: errors, bodies, request ids, browser safety, load shedding, health."""
