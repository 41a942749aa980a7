"""Who may ask: the key of the models, and the other one, of those who change what is served."""

import ipaddress
import re

from fastapi import Request
from starlette.exceptions import HTTPException

from evoserve.api.record import current_record
from evoserve.api.service import service_of

# A Host header: a name or an address, and perhaps a port; browsers send nothing else.
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?")


async def check_key(request: Request) -> None:
    """Raises HTTPException 401 unless the bearer token is one of the keys, if there are any."""
    keys = service_of(request).keys
    if keys.is_open:
        return
    name = keys.find(_bearer(request))
    if name is None:
        raise _refusal("API")
    current_record().key_name = name


async def check_rate(request: Request) -> None:
    """Count a request that asks for work, after its key is known. Raises RateLimited."""
    if request.method == "POST":
        service_of(request).rates.take_request(current_record())


async def check_scraper(request: Request) -> None:
    """At /metrics: as `check_key` if that is wanted."""
    if service_of(request).settings.guard_metrics:
        await check_key(request)


async def check_admin(request: Request) -> None:
    """Raises HTTPException 401 without an admin key; 403 where there is none to send.

    Without an admin key a server that listens on loopback alone takes changes from this machine,
    with the API key if it has one, but not from web pages that a browser shows here.
    """
    service = service_of(request)
    if not service.admin_keys.is_open:
        name = service.admin_keys.find(_bearer(request))
        if name is None:
            raise _refusal("admin")
        current_record().key_name = name
        return
    host = service.settings.host
    if not is_loopback(host):
        raise HTTPException(
            403,
            "Recipes and aliases cannot be managed here: the server listens on "
            f"'{host}' and has no admin key (EVOSERVE_ADMIN_KEY).",
        )
    _check_local(request)
    await check_key(request)


def is_loopback(host: str) -> bool:
    """Does the address, or the name localhost, lead to this machine alone?"""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def _check_local(request: Request) -> None:
    """Browsers name the page's origin and the host they were told; foreign ones are refused."""
    host = ",".join(request.headers.getlist("host"))
    found = _HOST.fullmatch(host)
    if found is None or not is_loopback(found[1].lower()):
        raise HTTPException(403, f"Host '{host:.80}' is not this machine; set an admin key.")
    for origin in request.headers.getlist("origin"):
        if origin not in (f"http://{host}", f"https://{host}"):
            raise HTTPException(
                403, f"Origin '{origin:.80}' may not manage recipes; set an admin key."
            )


def _bearer(request: Request) -> bytes:
    """The token, empty if there is none. Headers are bytes that were read as Latin-1."""
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    return given.strip().encode("latin-1") if scheme.lower() == "bearer" else b""


def _refusal(kind: str) -> HTTPException:
    return HTTPException(
        401,
        f"Incorrect {kind} key provided; send 'Authorization: Bearer KEY'.",
        headers={"WWW-Authenticate": "Bearer"},
    )
