"""The login of the MLflow server beside a federation's server.

On a shared machine every account reaches the loopback address. So every request but `/health` needs the one login whose
password lies in the server's kit: pages, REST, GraphQL, artifacts, and whatever later versions of MLflow add.
"""

import hmac
import secrets
from base64 import b64encode
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia_fl.config.environment import tracking_login
from pneumonia_fl.errors import KitError
from pneumonia_fl.files import write_atomic

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

APP = "pneumonia-fl"
"""The name of `create_app` among MLflow's apps (`pyproject.toml`)."""
USER = "pneumonia-fl"
PASSWORD_FILE = "password"  # noqa: S105 - its name
OPEN = {"/health"}
REFUSAL = "this MLflow needs a login; `pneumonia-fl ui mlflow KIT` says where it is\n"
ASK = {"WWW-Authenticate": 'Basic realm="MLflow of pneumonia-fl", charset="UTF-8"'}


def make_password(folder: Path) -> str:
    """Return the password that is kept in `folder`; the first call makes it."""
    file = folder / PASSWORD_FILE
    known = file.read_text(encoding="ascii").strip() if file.is_file() else ""
    if not known:
        known = secrets.token_urlsafe(32)
        write_atomic(file, f"{known}\n".encode("ascii"))
    return known


def create_app() -> "ASGIApp":
    """Return MLflow's own server behind the login from the environment; `mlflow server --app-name` calls this.

    Raises:
        KitError: the environment has no login, so that nothing is served without one.
    """
    login = tracking_login()
    if login is None:
        raise KitError("MLflow has no login to ask for; start it with `pneumonia-fl up`")
    from mlflow.server.fastapi_app import app

    return LoginRequired(app, *login)


class LoginRequired:
    """An ASGI application that answers those who know the login, and refuses everybody else."""

    def __init__(self, app: "ASGIApp", user: str, password: str) -> None:
        from starlette.responses import PlainTextResponse  # of MLflow's process, not of those who ask for it

        self._app = app
        self._refusal = PlainTextResponse(REFUSAL, status_code=401, headers=ASK)
        self._wanted = b"Basic " + b64encode(f"{user}:{password}".encode())

    async def __call__(self, scope: "Scope", receive: "Receive", send: "Send") -> None:
        """Answer one request."""
        if scope["type"] == "lifespan" or self._may(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._refusal(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _may(self, scope: "Scope") -> bool:
        if scope["type"] == "http" and scope["path"] in OPEN:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and hmac.compare_digest(given[0], self._wanted)
