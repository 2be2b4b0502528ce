"""The application: the routes about runs, the page, and how every error looks. `/v1` lives in `openai_api`."""

import asyncio
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from fastapi import Body, FastAPI, Header, Request
from fastapi.exceptions import HTTPException, RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.sse import EventSourceResponse
from pydantic import BaseModel, ConfigDict, Field

from cai.errors import CaiError, InputError
from cai.service import openai_api
from cai.service.auth import Gate, error_body
from cai.service.events import ended_before, list_events, run_events
from cai.service.jobs import Busy
from cai.service.listing import Told
from cai.service.office import Office, office_of
from cai.service.page import CSP, STATIC, render
from cai.service.submission import check_submission

REPORT_CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'; sandbox"
)
ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}


class NewRun(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    pipeline: str | dict[str, object]
    """The pipeline, as a mapping or as the text of a YAML file."""
    name: Annotated[str, Field(max_length=80)] | None = None
    """The run's name, instead of the pipeline's own."""


class Nothing(BaseModel):
    model_config = ConfigDict(extra="forbid")


def build_app(office: Office, hosts: Iterable[str]) -> FastAPI:
    app = FastAPI(title="cai", docs_url=None, redoc_url=None)
    app.state.office = office
    app.add_middleware(Gate, hosts=tuple(hosts))
    app.add_exception_handler(HTTPException, _http_error)
    # These two the router raises itself.
    app.add_exception_handler(404, _no_such_address)
    app.add_exception_handler(405, _no_such_method)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(CaiError, _cai_error)
    app.add_exception_handler(Exception, _bug)
    app.include_router(openai_api.router)
    app.get("/healthz")(healthz)
    app.get("/", response_class=HTMLResponse)(page)
    app.get("/static/{name}")(asset)
    app.get("/api/events")(all_events)
    app.get("/api/runs")(list_runs)
    app.post("/api/runs", status_code=202)(start_run)
    app.get("/api/runs/{run}")(one_run)
    app.post("/api/runs/{run}/cancel", status_code=202)(cancel_run)
    app.get("/api/runs/{run}/events", response_model=None)(events_of_run)
    app.get("/api/runs/{run}/report")(report)
    app.get("/api/runs/{run}/report.json")(report_json)
    return app


def healthz() -> dict[str, str]:
    return {"status": "ok"}


def page(request: Request) -> HTMLResponse:
    runs, address = office_of(request).listing.all(), str(request.base_url).rstrip("/")
    return HTMLResponse(render(runs, address), headers={"Content-Security-Policy": CSP})


def asset(name: str) -> FileResponse:
    if name not in ASSETS:
        raise HTTPException(404, "there is no such file")
    return FileResponse(STATIC / name, media_type=ASSETS[name])


def list_runs(request: Request) -> dict[str, object]:
    return {"object": "list", "data": office_of(request).listing.all()}


def start_run(asked: NewRun, request: Request, response: Response) -> Told:
    office = office_of(request)
    scratch = office.home / f"sent-{secrets.token_hex(8)}.yaml"
    sent = check_submission(asked.pipeline, asked.name, office.project, scratch)
    try:
        office.queue.add(sent.run, sent.text)
    except Busy:
        raise HTTPException(409, f"the run '{sent.run}' is waiting or running already") from None
    office.device.wake_from_thread()
    response.headers["Location"] = f"/api/runs/{sent.run}"
    return _found(office, sent.run)


def one_run(run: str, request: Request) -> Told:
    return _found(office_of(request), run)


async def cancel_run(run: str, request: Request, _: Annotated[Nothing | None, Body()] = None) -> Told:
    """Ask a run to stop; what it has done is kept, and starting it again goes on from there."""
    office = office_of(request)
    await asyncio.to_thread(_found, office, run)
    if not await office.device.cancel(run):
        raise HTTPException(409, f"the run '{run}' is neither waiting nor running here")
    return await asyncio.to_thread(_found, office, run)


async def events_of_run(run: str, request: Request, last_event_id: Annotated[str | None, Header()] = None) -> Response:
    office = office_of(request)
    await asyncio.to_thread(_found, office, run)
    after = _line_number(last_event_id)
    if last_event_id is not None and await asyncio.to_thread(ended_before, office.listing, run, after):
        return Response(status_code=204)
    return EventSourceResponse(run_events(office, run, after))


async def all_events(request: Request) -> EventSourceResponse:
    """The list of runs, whenever it changes."""
    return EventSourceResponse(list_events(office_of(request)))


def report(run: str, request: Request) -> FileResponse:
    path = _file(office_of(request), run, "report.html")
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_CSP})


def report_json(run: str, request: Request) -> FileResponse:
    return FileResponse(_file(office_of(request), run, "report.json"), media_type="application/json")


def _found(office: Office, run: str) -> Told:
    told = office.listing.one(run)
    if told is None:
        raise HTTPException(404, "there is no such run")
    return told


def _file(office: Office, run: str, name: str) -> Path:
    folder = office.listing.folder(run)
    path = folder / name if folder else None
    if path is None or not path.is_file() or path.is_symlink():
        raise HTTPException(404, "there is no such report (yet)")
    return path


def _line_number(text: str | None) -> int:
    if text is None:
        return 0
    if not text.isascii() or not text.isdecimal() or len(text) > 15:
        raise HTTPException(400, "Last-Event-ID is none of this stream")
    return int(text)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), error
    return JSONResponse(error_body(str(error.detail)), error.status_code, error.headers)


async def _no_such_address(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return await _http_error(request, error)
    return JSONResponse(error_body("there is nothing at this address"), 404)


async def _no_such_method(request: Request, error: Exception) -> Response:
    message = f"{request.method} is not possible at this address"
    return JSONResponse(error_body(message), 405, getattr(error, "headers", None))


async def _invalid(_: Request, error: Exception) -> Response:
    """The first thing that is wrong, by its name. What was sent is not repeated."""
    assert isinstance(error, RequestValidationError), error
    first = error.errors()[0]
    place = ".".join(str(step) for step in first["loc"][1:] if not isinstance(step, str) or step.islower())
    unknown = first["type"] == "extra_forbidden"
    message = "this parameter is not supported" if unknown else str(first["msg"])
    return JSONResponse(error_body(f"{place}: {message}" if place else message, param=place or None), 422)


async def _cai_error(_: Request, error: Exception) -> Response:
    status = 422 if isinstance(error, InputError) else 500
    kind = "invalid_request_error" if status == 422 else "server_error"
    return JSONResponse(error_body(str(error), kind), status)


async def _bug(_: Request, __: Exception) -> Response:
    """The server prints the traceback; the client learns nothing of the inside."""
    return JSONResponse(error_body("the service failed; its log says more", "server_error"), 500)
