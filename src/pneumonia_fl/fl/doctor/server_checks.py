"""Checks of a server only: its port, and the MLflow server that it reports to."""

import errno
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from urllib.parse import urlsplit

import psutil

from pneumonia_fl.config.environment import TRACKING_VARIABLE, tracking_uri
from pneumonia_fl.findings import Finding
from pneumonia_fl.fl.doctor.instance import started_with
from pneumonia_fl.fl.kit.grpc_proxy import LOOPBACK
from pneumonia_fl.fl.kit.kit_processes import main_of
from pneumonia_fl.fl.kit.startup_kit import Kit

TRACKING_SECONDS = 3.0


def port(kit: Kit) -> Iterator[Finding]:
    """Check that the server's port is free or used by this server; connections being closed do not count."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", kit.port))
        yield Finding("ok", f"port {kit.port} is free")
    except OSError as error:
        what = (
            f"port {kit.port} cannot be used ({error.strerror}); ports below 1024 need root: choose another"
        )
        yield _taken(kit) if error.errno == errno.EADDRINUSE else Finding("fail", what)


def tracking(kit: Kit) -> Iterator[Finding]:
    """Check that the MLflow server named by the environment or the settings answers.

    A running server's is the one that it was started with.
    """
    uri = started_with(kit, TRACKING_VARIABLE) or tracking_uri() or kit.settings().tracking_uri
    if uri is None:
        yield Finding(
            "ok", "no tracking_uri in local/pneumonia_fl.yml: `pneumonia-fl up` starts an MLflow server here"
        )
    elif urlsplit(uri).scheme in ("http", "https"):
        yield _answers(uri)
    else:
        yield Finding("ok", f"metrics go to {uri}")


def _taken(kit: Kit) -> Finding:
    if main_of(kit):
        return Finding("ok", f"this server listens at port {kit.port}")
    return Finding("fail", f"port {kit.port} is taken by {_listener(kit.port)}; stop that program first")


def _listener(number: int) -> str:
    try:
        connections = psutil.net_connections(kind="tcp")
    except psutil.Error:
        return "another program"
    for connection in connections:
        listens = connection.status == psutil.CONN_LISTEN
        if listens and getattr(connection.laddr, "port", 0) == number and connection.pid:
            return f"process {connection.pid} ({psutil.Process(connection.pid).name()})"
    return "another program"


def _answers(uri: str) -> Finding:
    """Check that MLflow's server answers OK at /health."""
    # A password in the URI must not reach the screen.
    shown = uri.replace(f"{urlsplit(uri).netloc.rpartition('@')[0]}@", "") if "@" in uri else uri
    try:
        status = health(uri, TRACKING_SECONDS)
    except urllib.error.HTTPError as error:
        status = error.code
    except OSError as error:
        reason = getattr(error, "reason", error)
        cure = "start it or correct tracking_uri in local/pneumonia_fl.yml; jobs run without it"
        return Finding("warn", f"no MLflow server at {shown} ({reason}); {cure}")
    if status == 200:
        return Finding("ok", f"MLflow answers at {shown}")
    return Finding("warn", f"{shown} answers, but not as MLflow does (HTTP {status}); check the address")


def health(uri: str, seconds: float) -> int:
    """Return the HTTP status of an MLflow server's /health; no proxy is used on this machine.

    Raises:
        OSError, ValueError: nothing answers there, or it is no address.
    """
    here = urlsplit(uri).hostname in LOOPBACK.split(",")
    opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if here else []))
    with opener.open(f"{uri.rstrip('/')}/health", timeout=seconds) as response:
        return int(response.status)
