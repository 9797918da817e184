"""The GraphQL schema and its HTTP, SSE and WebSocket endpoints. The only package that imports strawberry."""
