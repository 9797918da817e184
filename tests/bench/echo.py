"""A bare ASGI application that answers with recorded bytes: the cost of HTTP alone."""

import os
from pathlib import Path
from typing import Any

_ANSWERS = {f"/{file.name}": file.read_bytes() for file in Path(os.environ["ANSWERS"]).iterdir()}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    body = _ANSWERS[scope["path"]]
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
