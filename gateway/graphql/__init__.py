"""The GraphQL schema and its HTTP, SSE and WebSocket endpoints. The only room that imports strawberry."""
