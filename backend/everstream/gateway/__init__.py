"""Who is listening: HTTP and WebSocket."""
