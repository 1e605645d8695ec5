"""The server: a websocket for the world, uploads, gallery, recordings, and the Gradio page at /."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import FileResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.requests import HTTPConnection

from relic_app.connection import Connection, Services
from relic_app.uploads import MAX_BYTES, decode_picture, preview_jpeg

STATIC: Final = Path(__file__).parent / "static"
DEFAULT_HOST: Final = "127.0.0.1"
DEFAULT_PORT: Final = 7860
_PORTS_TRIED: Final = 20
_PREVIEW_SIZE: Final = (320, 192)


def create_api(services: Services) -> FastAPI:
    """Build the server without its page.

    Starting the app begins to load the world in the worker's thread and returns at once; stopping it stops
    the worker.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        services.manager.host.wake()
        yield
        await asyncio.to_thread(services.manager.host.worker.close)

    app = FastAPI(title="RELIC", lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    _add_websocket(app, services)
    _add_gallery(app, services)
    _add_uploads(app, services)
    _add_recordings(app, services)
    # Gradio has a /static of its own.
    app.mount("/ui", _FreshFiles(directory=STATIC), name="ui")
    return app


class _FreshFiles(StaticFiles):
    """Static files that the browser asks for again (by ETag), so that an update is seen at once."""

    def file_response(self, *args: object, **kwargs: object) -> Response:
        response = super().file_response(*args, **kwargs)  # type: ignore[arg-type]
        response.headers["Cache-Control"] = "no-cache"
        return response


def _same_origin(connection: HTTPConnection) -> bool:
    """Whether the request comes from our own page, or from no page at all."""
    origin = connection.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == connection.headers.get("host")


def _add_websocket(app: FastAPI, services: Services) -> None:
    @app.websocket("/ws")
    async def talk(websocket: WebSocket) -> None:
        if not _same_origin(websocket):
            await websocket.close()
            return
        await Connection(websocket, services).serve()


def _add_gallery(app: FastAPI, services: Services) -> None:
    gallery = services.gallery

    @app.get("/api/gallery")
    async def list_gallery() -> JSONResponse:
        return JSONResponse(
            [
                {
                    "id": picture.id,
                    "title": picture.title,
                    "prompt": picture.prompt,
                    "picture": f"gallery/{picture.id}",
                }
                for picture in gallery.pictures
            ]
        )

    @app.get("/gallery/{identifier}")
    async def show_picture(identifier: str) -> Response:
        try:
            return FileResponse(gallery.get(identifier).path)
        except ValueError as error:
            return _refusal(404, str(error))


def _add_uploads(app: FastAPI, services: Services) -> None:
    @app.post("/api/upload")
    async def upload(request: Request, name: str = "the file") -> Response:
        if not _same_origin(request):
            return _refusal(403, "uploads are taken from the page only")
        data = bytearray()
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BYTES:
                return _refusal(413, f"{name} is larger than {MAX_BYTES // 2**20} MB: choose another")
        try:
            picture = await asyncio.to_thread(decode_picture, bytes(data), name)
        except ValueError as error:
            return _refusal(400, str(error))
        identifier = services.uploads.add(picture)
        return JSONResponse({"id": identifier, "picture": f"uploads/{identifier}"})

    @app.get("/uploads/{identifier}")
    async def show_upload(identifier: str) -> Response:
        try:
            picture = services.uploads.get(identifier)
        except ValueError as error:
            return _refusal(404, str(error))
        data = await asyncio.to_thread(preview_jpeg, picture, *_PREVIEW_SIZE)
        return Response(data, media_type="image/jpeg")


def _add_recordings(app: FastAPI, services: Services) -> None:
    @app.get("/recordings/{name}")
    async def download(name: str) -> Response:
        path = services.recordings / name
        if Path(name).name != name or name.startswith(".") or not path.is_file():
            return _refusal(404, "this recording is no longer here")
        return FileResponse(path, filename=name)


def _refusal(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=status)


def bind(host: str, port: int | None) -> socket.socket:
    """Bind the server's socket and listen: a browser that comes early waits instead of failing.

    Args:
        host: address to listen on.
        port: the port; None takes `DEFAULT_PORT` or the next free one.

    Raises:
        ValueError: the port is taken or the address is not this machine's.
    """
    wanted = range(DEFAULT_PORT, DEFAULT_PORT + _PORTS_TRIED) if port is None else range(port, port + 1)
    reason = ""
    for candidate in wanted:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen()
        except OSError as error:
            listener.close()
            reason = error.strerror or str(error)
            continue
        return listener
    ports = f"{wanted[0]}" if len(wanted) == 1 else f"{wanted[0]} to {wanted[-1]}"
    raise ValueError(f"cannot listen on {host} port {ports} ({reason}): choose another --port or --host")
