"""The server's commands: each asks for a right, and every refusal is in the audit log.

Stock NVFlare 2.9 has commands that ask for no right, among them all of its network tools (`cells`, `speed`, `stress`),
and it writes nothing about a command or a login that it refuses.
"""

from typing import Any

from nvflare.apis.fl_constant import AdminCommandNames
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey
from nvflare.fuel.hci.conn import Connection
from nvflare.fuel.hci.proto import (
    InternalCommands,
    MetaKey,
    MetaStatusValue,
    ProtoKey,
    ReplyKeyword,
    make_meta,
)
from nvflare.fuel.hci.reg import CommandEntry
from nvflare.fuel.hci.server.authz import AuthzFilter
from nvflare.fuel.hci.server.builtin import BuiltInCmdModule
from nvflare.fuel.hci.server.constants import ConnProps
from nvflare.fuel.hci.server.login import LoginModule
from nvflare.fuel.hci.server.reg import CommandFilter, ServerCommandRegister
from nvflare.private.fed.server import admin

from pneumonia_fl.fl.parent.aborts import NoteAborts
from pneumonia_fl.fl.parent.audit_log import Peer, on_behalf_of, peer_of, tell_refusal

OPEN = {
    InternalCommands.CERT_LOGIN,
    InternalCommands.LOGOUT,
    InternalCommands.CHECK_SESSION,
    InternalCommands.GET_CMD_LIST,
}
"""What a session consists of; everything else that asks for no right is the project admin's."""
RESERVED = {AdminCommandNames.RESET_ERRORS}
"""Commands that ask NVFlare for the right to look, and change something: they erase a running job's error counts."""
PROJECT_ADMIN = "project_admin"


def watch_commands() -> None:
    """Make NVFlare's register of commands a `WatchedRegister`; call it before there is one."""
    admin.new_command_register_with_builtin_module = new_register


def new_register(app_ctx: Any) -> ServerCommandRegister:
    """Create NVFlare's `new_command_register_with_builtin_module` with our class."""
    register = WatchedRegister(app_ctx)
    register.register_module(BuiltInCmdModule(register))
    return register


class WatchedRegister(ServerCommandRegister):
    """NVFlare's register of commands with ours around and among its filters."""

    def add_filter(self, cmd_filter: CommandFilter) -> None:
        """Watch the filter; behind the one that knows who is logged in, ask for a role; note who ends a job."""
        super().add_filter(Watched(cmd_filter))
        if isinstance(cmd_filter, LoginModule):
            super().add_filter(Watched(AskForARole()))
        elif isinstance(cmd_filter, AuthzFilter):
            super().add_filter(Watched(NoteAborts()))


class AskForARole(CommandFilter):
    """Leaves commands that ask for no right, or for one that is too small, to the project admin."""

    def pre_command(self, conn: Connection, args: list[str]) -> bool:
        """Check the command's target and the role in the session's certificate."""
        entry = conn.get_prop(ConnProps.CMD_ENTRY)
        if not for_the_project_admin(entry) or conn.get_prop(ConnProps.USER_ROLE) == PROJECT_ADMIN:
            return True
        meta = make_meta(MetaStatusValue.NOT_AUTHORIZED, ReplyKeyword.NOT_AUTHORIZED)
        conn.append_error(f"{entry.name} is for the project admin only", meta=meta)
        return False


def for_the_project_admin(entry: CommandEntry) -> bool:
    """Return True when NVFlare would run the command for every user with a login or a read-only role."""
    return entry.name in RESERVED or (entry.authz_func is None and entry.name not in OPEN)


class Watched(CommandFilter):
    """One of the filters, with a line for whatever it stops, or that is stopped later: a login."""

    def __init__(self, inner: CommandFilter) -> None:
        super().__init__()
        self._inner = inner

    def pre_command(self, conn: Connection, args: list[str]) -> bool:
        """Run the filter; what it writes itself (NVFlare's `CommandAudit`) names the connection."""
        with on_behalf_of(_peer_of(conn)):
            passed = bool(self._inner.pre_command(conn, args))
            # NVFlare's filter also stops commands on jobs that do not exist or do not run: that is no refusal.
            status = conn.buffer.meta.get(MetaKey.STATUS)
            if not passed and (status == MetaStatusValue.NOT_AUTHORIZED or self._knows_people()):
                tell_refusal(conn.get_prop(ConnProps.USER_NAME, ""), " ".join(args), _said(conn))
        return passed

    def post_command(self, conn: Connection, args: list[str]) -> Any:
        """Audit a rejected login: for NVFlare it is a command that succeeded."""
        if (
            self._knows_people()
            and conn.get_prop(ConnProps.CMD_ENTRY).name == InternalCommands.CERT_LOGIN
            and _said(conn).startswith("REJECT")
        ):
            with on_behalf_of(_peer_of(conn)):
                tell_refusal("", " ".join(args), _said(conn))
        return self._inner.post_command(conn, args)

    def close(self) -> None:
        """Close the filter."""
        self._inner.close()

    def _knows_people(self) -> bool:
        return isinstance(self._inner, LoginModule)


def _peer_of(conn: Connection) -> Peer:
    """Return the peer that sent the command. (Commands are streams, which NVFlare passes on without a connection.)"""
    request, session = conn.get_prop(ConnProps.REQUEST), conn.get_prop(ConnProps.SESSION)
    origin = request.get_header(MessageHeaderKey.ORIGIN) if request else session and session.origin_fqcn
    agent = conn.get_prop(ConnProps.HCI_SERVER).cell.core_cell.agents.get(origin)
    return peer_of(agent.endpoint.name, agent.endpoint.conn_props) if agent else Peer()


def _said(conn: Connection) -> str:
    """Return the text that the caller gets."""
    texts = [item.get(ProtoKey.DATA) for item in conn.buffer.data]
    return " ".join(text for text in texts if isinstance(text, str))
