"""No framework at all: the least that a server in Python can do with a binary body, as a limit of the machine rather than a peer."""

# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=2", "uvicorn[standard]"]
#
# [tool.serving]
# name = "bare ASGI"
# package = "uvicorn"
# paths = { "raw" = "/" }
# ///

import sys

import numpy as np
import uvicorn
from scorer import WIDTH, Scorer

port, scored = int(sys.argv[1]), Scorer(sys.argv[2])


async def app(_scope, receive, send):
    parts, more = [], True
    while more:
        message = await receive()
        parts.append(message["body"])
        more = message["more_body"]
    body = scored(np.frombuffer(b"".join(parts), np.float32).reshape(-1, WIDTH)).tobytes()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    uvicorn.run(app, port=port, log_level="warning", access_log=False, lifespan="off")
