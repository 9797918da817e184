"""GraphiQL, an npm project, and the files that are served from memory."""
