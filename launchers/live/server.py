"""The live page over HTTP: read-only, and for this machine alone unless it is told otherwise."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any
from wsgiref.types import WSGIApplication

from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from ccdcgan.dft.errors import UserError
from ccdcgan.dft.files import digest, to_json
from ccdcgan.launchers.live.form import asked_of, question_of
from ccdcgan.launchers.live.live import Kept, Live, View
from ccdcgan.launchers.live.page import live_page
from ccdcgan.launchers.report.hull import hull_figure
from ccdcgan.launchers.report.points import ON_HULL
from ccdcgan.launchers.report.viewer import Shown, balls
from ccdcgan.launchers.report.write import asset

logger = logging.getLogger("ccdcgan")

#: Nothing but the page's own scripts may run, and nothing be asked of anybody else.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; connect-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

#: Names by which a browser of this machine asks for it; any other is a page that poses as ours.
OWN_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})

#: Phases in the hull figure, nearest to the hull first.
MOST_POINTS = 600

#: Scripts of the page.
SCRIPTS = ("plotly.js", "viewer.js", "crystal.js", "live.js")

#: Timeout of a request that does not come to its end, s.
TIMEOUT = 30.0

Explain = Callable[[BaseException], str | None]


class App:
    """The WSGI application.

    Parameters
    ----------
    live
        What is shown.
    explain
        Makes one line of an error that is no bug.
    own_names
        The only names of a host that are answered; None for any.
    """

    def __init__(
        self, live: Live, explain: Explain, own_names: Set[str] | None = OWN_NAMES
    ) -> None:
        self._live, self._explain, self._own_names = live, explain, own_names
        self._hulls = Kept()

    @property
    def wsgi(self) -> WSGIApplication:
        """The application as servers call it."""
        return Request.application(self.answer)

    def answer(self, request: Request) -> Response:
        """The answer to a request."""
        try:
            response = self._answer(request)
        except HTTPException as error:
            response = Response(f"{error.code} {error.name}\n", error.code)
        except Exception as error:  # noqa: BLE001  it is told, and the server goes on
            line = self._told(error)
            response = Response(f"{line}\n", 400 if isinstance(error, UserError) else 500)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    def _told(self, error: BaseException) -> str:
        line = self._explain(error)
        if line is None:
            logger.error("a request failed", exc_info=error)
            line = f"the page cannot be made: {type(error).__name__}"
        return line

    def _answer(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise MethodNotAllowed(["GET", "HEAD"])
        if self._own_names is not None and _name(request) not in self._own_names:
            return Response("this server answers to localhost alone\n", 421)
        if not _is_own(request):
            return Response("this server does not answer to pages of others\n", 403)
        path = request.path.removeprefix("/")
        if path in SCRIPTS:
            return _script(path)
        pages = {
            "": self._page,
            "mark": self._mark,
            "hull": self._hull,
            "crystal": self._crystal,
            "report": self._report,
        }
        if path not in pages:
            raise NotFound
        return pages[path](request)

    def _view(self, request: Request) -> View:
        return self._live.view(question_of(asked_of(request.args)))

    def _page(self, request: Request) -> Response:
        asked, title = asked_of(request.args), self._live.source.title
        number = request.args.get("page", "")
        view, problem, status = None, None, 200
        try:
            view = self._view(request)
            if view.problem is not None:
                problem, status = self._told(view.problem), 503
        except Exception as error:  # noqa: BLE001  it is told
            problem, status = self._told(error), 400 if isinstance(error, UserError) else 503
        page = int(number) if number.isdecimal() and len(number) < 10 else 1
        content = live_page(title, view, asked, page, problem, _mark_of(view, problem))
        return Response(content, status, mimetype="text/html")

    def _mark(self, request: Request) -> Response:
        problem, view = None, None
        try:
            view = self._view(request)
            if view.problem is not None:
                problem = self._told(view.problem)
        except Exception as error:  # noqa: BLE001  it is told
            problem = self._told(error)
        return Response(_mark_of(view, problem), mimetype="text/plain")

    def _hull(self, request: Request) -> Response:
        view = self._view(request)
        drawn = self._hulls.get(view.key, lambda: self._drawn(view))
        return Response(drawn, mimetype="application/json")

    def _drawn(self, view: View) -> str:
        """The figure of the phases that are asked for, and of their hull, as JSON."""
        rows = view.rows[view.rows["e_above_hull"].notna()]
        if rows.empty:
            return to_json({"figure": None, "caption": "", "keys": []})
        if rows["campaign"].nunique() > 1 or rows["system"].nunique() > 1:
            caption = "Each campaign has a hull of its own: choose one to see it."
            return to_json({"figure": None, "caption": caption, "keys": []})
        nearest = rows.nsmallest(MOST_POINTS, "e_above_hull")
        campaign = nearest["campaign"].iloc[0]
        every = view.table[view.table["campaign"] == campaign]
        # Without what is on it the hull would be another one.
        members = every[every["e_above_hull"] <= ON_HULL]
        wanted = list(dict.fromkeys([*nearest["uid"], *members["uid"]]))
        found = {f"{campaign}:{phase.id}": phase for phase in self._live.source.phases(wanted)}
        system = str(rows["system"].iloc[0]).split("-")
        figure, caption = hull_figure(system, list(found.values()))
        if len(wanted) > len(nearest):
            caption += " What is on the hull is drawn, too."
        if len(rows) > len(nearest):
            caption += f" Of {len(rows)} phases the {len(nearest)} nearest to the hull are drawn."
        return to_json({"figure": figure, "caption": caption, "keys": list(found)})

    def _crystal(self, request: Request) -> Response:
        name = request.args.get("id", "")
        label, phase = None, None
        if name.startswith("relaxation:"):
            phase, label = self._live.source.relaxed(name.partition(":")[2]), "not placed yet"
        else:
            phase = next(iter(self._live.source.phases([name])), None)
        if phase is None:
            raise NotFound
        shown = Shown.of(phase)
        crystal = asdict(shown) | ({"label": label} if label else {})
        elements = {symbol: ball._asdict() for symbol, ball in balls([shown]).items()}
        return Response(
            to_json({"crystal": crystal, "elements": elements}), mimetype="application/json"
        )

    def _report(self, request: Request) -> Response:
        report = self._view(request).progress.report
        if report is None:
            raise NotFound
        response = Response(self._live.report(report), mimetype="text/html")
        # Its scripts are within it, and its own policy names each by its hash.
        policy = "frame-ancestors 'none'; base-uri 'none'; form-action 'none'; connect-src 'none'"
        response.headers["Content-Security-Policy"] = policy
        return response


def _is_own(request: Request) -> bool:
    """Whether a page of this server asks, or somebody who follows a link; not pages of others.

    Programs that are no browsers do not tell.
    """
    site = request.headers.get("Sec-Fetch-Site", "none")
    link = request.headers.get("Sec-Fetch-Dest") == "document"
    return site in ("none", "same-origin") or link


def _name(request: Request) -> str:
    """The host that is asked for, without its port."""
    host = request.headers.get("Host", "").lower()
    return host if host.endswith("]") else host.rpartition(":")[0] or host


def _mark_of(view: View | None, problem: str | None) -> str:
    """Another text where a page has changed."""
    return digest(repr((view and view.mark, problem)), 16)


def _script(name: str) -> Response:
    content = (
        (Path(__file__).parent / name).read_text("utf-8") if name == "live.js" else asset(name)
    )
    response = Response(content, mimetype="text/javascript")
    # It stays the same as long as this server runs: large, and asked for with each page.
    response.headers["Cache-Control"] = "private, max-age=60"
    return response


class _Handler(WSGIRequestHandler):
    """Says nothing of requests, and waits for nobody for ever."""

    timeout = TIMEOUT

    def log(self, type: str, message: str, *args: Any) -> None:
        """Nothing: addresses hold what people ask for."""

    def version_string(self) -> str:
        """Not what runs here, and in which version."""
        return "ccdcgan"


def is_loopback(host: str) -> bool:
    """Whether a name or an address is that of this machine for itself."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def bound(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises
    ------
    UserError
        The port is in use, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(64)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise UserError(f"port {port} is in use: choose another with --port") from None
        if isinstance(error, PermissionError):
            raise UserError(f"port {port} is not for users: choose one from 1024") from None
        raise UserError(f"cannot listen on {host}: {error.strerror or error}") from None
    return listening


def serve(app: App, listening: socket.socket) -> None:
    """Answer until the process is interrupted."""
    host, port = listening.getsockname()[:2]
    server = make_server(
        host, port, app.wsgi, threaded=True, request_handler=_Handler, fd=listening.fileno()
    )
    listening.close()
    # It ends at once with the process, whoever is still being answered.
    server.daemon_threads = True  # type: ignore[attr-defined]
    server.serve_forever()
