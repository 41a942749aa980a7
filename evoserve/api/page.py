"""The page at /: files of the package `ui/`, sent as they are under a strict policy."""

import hashlib
from importlib.resources import files

from fastapi import Request, Response
from starlette.exceptions import HTTPException

START = "index.html"
MEDIA = {
    "html": "text/html",
    "css": "text/css",
    "js": "text/javascript",
    "svg": "image/svg+xml",
}
# Scripts, styles and requests of this origin only; trusted types leave no way from text to markup.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
    "Vary": "Accept",
}


def wants_page(request: Request) -> bool:
    """Does the client name HTML, as browsers do?"""
    return "text/html" in request.headers.get("accept", "").lower()


def page_file(request: Request, name: str = START) -> Response:
    """One of the page's files, or 304 if the client has it. Raises HTTPException 404."""
    known = {entry.name: entry for entry in (files("evoserve.api") / "ui").iterdir()}
    media = MEDIA.get(name.rpartition(".")[2])
    if name not in known or media is None:
        raise HTTPException(404, "Not Found")
    content = known[name].read_bytes()
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}
    if tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media, headers=headers)
