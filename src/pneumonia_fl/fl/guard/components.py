"""Guards in front of a server's and a site's processes: components of `local/resources.json`.

NVFlare makes these components in the parent process of a server or site, and again in each of its job processes.
"""

import secrets
from collections.abc import Callable
from typing import Any

from nvflare.apis.event_type import EventType
from nvflare.apis.fl_component import FLComponent
from nvflare.apis.fl_context import FLContext
from nvflare.app_common.executors.client_api import external_process_backend
from nvflare.fuel.f3.cellnet import cell as cells
from nvflare.fuel.f3.cellnet.defs import CellChannel, CellChannelTopic
from nvflare.fuel.f3.comm_error import CommError
from nvflare.fuel.f3.drivers.driver_params import DriverParams
from nvflare.fuel.f3.sfm.conn_manager import ConnManager
from nvflare.fuel.f3.sfm.constants import HandshakeKeys
from nvflare.fuel.utils.constants import Mode
from nvflare.private.defs import CellMessageHeaderKeys, ClientType, SysCommandTopic

from pneumonia_fl.fl.guard import listener
from pneumonia_fl.fl.guard.arrivals import Arrival, put_in_front
from pneumonia_fl.fl.guard.crowd import limit_connections
from pneumonia_fl.fl.guard.protocol import SERVER, Role, cell
from pneumonia_fl.fl.guard.shell import NoShell, PathRules, RightsRefused
from pneumonia_fl.fl.guard.site_failures import SiteFailures, participants
from pneumonia_fl.fl.parent.audit_log import tell_refusal

NOT_OURS = "a connection that this process does not have"
REGISTERS_AS = {Role.PERSON: ClientType.ADMIN, Role.SITE: ClientType.REGULAR}


class ServerGuard(FLComponent):
    """Let each participant send in its own name only, and sites and people to the server and its jobs only.

    So every command to a site comes from the server itself, which has asked who may give it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._engine: Any = None
        # NVFlare asks this before it ends the server's job because of one site: a message that the site says is too
        # large for it, or an answer that cannot be decoded.
        cells._is_server_job_cell = lambda _: False
        listener.install()
        limit_connections()
        put_in_front(self.judge)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Learn which jobs run; have one site's failure be that site's alone."""
        if event_type == EventType.SYSTEM_BOOTSTRAP:
            self._engine = fl_ctx.get_engine()
            self._engine.server.cell.register_request_cb(
                channel=CellChannel.SERVER_MAIN,
                topic=CellChannelTopic.REPORT_JOB_FAILURE,
                cb=SiteFailures(self._engine).process_report,
            )

    def judge(self, arrival: Arrival, message: Any) -> str:
        """Return why a message is refused by rules beyond the protocol's."""
        if arrival.own.role is Role.SERVER_JOB:  # what comes from elsewhere, the parent has judged
            return "" if not arrival.accepted and arrival.peer.name == SERVER else NOT_OURS
        if not arrival.peer.holds(arrival.origin):
            return speaks_for(arrival)
        if arrival.internal:
            return self._from_own_job(arrival, message)
        # People's certificates have an e-mail address, and their cells' names prove nothing.
        if ("@" in arrival.certificate) != (arrival.peer.role is Role.PERSON) or arrival.peer.root == SERVER:
            return f"says that it is {arrival.peer.role.value}"
        return registers_as_another(arrival, message) or self._takes_part(arrival)

    def _from_own_job(self, arrival: Arrival, message: Any) -> str:
        if arrival.peer.role is not Role.SERVER_JOB:
            return f"says that it is {arrival.peer.role.value}"
        job = message.get_header(CellMessageHeaderKeys.JOB_ID)
        # None: a job that died before it knew.
        if arrival.subject[0] == CellChannel.SERVER_PARENT_LISTENER and job not in (None, arrival.peer.job):
            return "speaks of another job than its own"
        return ""

    def _takes_part(self, arrival: Arrival) -> str:
        """Require that a site's job was deployed to that site; NVFlare answers for jobs that do not run."""
        job = arrival.destination.job
        process = self._engine.run_processes.get(job) if self._engine and job else None
        if process is None:
            return ""
        return "" if arrival.peer.root in participants(process) else "does not take part in this job"


class SiteGuard(FLComponent):
    """Have a site hear the server and its own processes only.

    NVFlare's trainer wants a listener in clear text from the job process. So its cell gets a name that nobody can
    guess; the name is in the file, for this account alone, from which the trainer learns where to connect.

    Args:
        shell: whether the own organisation's IT may look at files through the server.
    """

    def __init__(self, shell: bool = False) -> None:
        super().__init__()
        self._shell = shell
        self._trainer = f"trainer_{secrets.token_hex(16)}"
        external_process_backend._TRAINER_LEAF_PREFIX = self._trainer
        listener.install()
        admit_connections(self.may_connect)
        put_in_front(self.judge)

    def handle_event(self, event_type: str, fl_ctx: FLContext) -> None:
        """Remove the remote shell, or restrict it to the kit: NVFlare checks paths at the server only."""
        if event_type == EventType.SYSTEM_START:
            agent = fl_ctx.get_engine().admin_agent
            stock = agent.processors[SysCommandTopic.SHELL]
            agent.processors[SysCommandTopic.SHELL] = PathRules(stock) if self._shell else NoShell()
            # NVFlare registers this method with its cell, and may do so again after this event.
            agent._dispatch_request = RightsRefused(agent._dispatch_request).dispatch
            agent.register_cell_cb()

    def may_connect(self, own: str, peer: str) -> bool:
        """Return True when `peer` may connect to the internal listener of the cell `own`."""
        below = peer.removeprefix(f"{own}.").split(".")
        is_below = peer.startswith(f"{own}.") and len(below) == 1
        return is_below and (cell(own).role is Role.SITE or below[0].startswith(f"{self._trainer}_"))

    def judge(self, arrival: Arrival, message: Any) -> str:
        """Return why a message is refused by rules beyond the protocol's."""
        peer, origin = arrival.peer, arrival.origin
        if arrival.accepted:
            known = arrival.internal and self.may_connect(arrival.own.name, peer.name)
            mine = peer.holds(origin)
        else:
            known = peer.name in (SERVER, arrival.own.root) and peer.name != arrival.own.name
            mine = origin.root == SERVER or origin.name == peer.name
        if not known:
            return NOT_OURS
        return "" if mine else speaks_for(arrival)


def registers_as_another(arrival: Arrival, message: Any) -> str:
    """Refuse a registration for another name or kind of participant than the connection has proved."""
    if arrival.subject != (CellChannel.SERVER_MAIN, CellChannelTopic.Register):
        return ""
    name = message.get_header(CellMessageHeaderKeys.CLIENT_NAME)
    kind = message.get_header(CellMessageHeaderKeys.CLIENT_TYPE)
    proved = name == arrival.certificate and kind == REGISTERS_AS.get(arrival.peer.role)
    return "" if proved else "registers as what its certificate is not"


def speaks_for(arrival: Arrival) -> str:
    """Refuse a message that claims another sender."""
    return f"speaks for {arrival.origin.name}"


def admit_connections(may_connect: Callable[[str, str], bool]) -> None:
    """Close a connection whose cell may not be there, before NVFlare takes it for a way to that cell.

    Args:
        may_connect: told the name of this process's cell and of the one that connects.
    """
    update = ConnManager.update_endpoint

    def update_endpoint(self: Any, sfm_conn: Any, data: dict[str, Any]) -> None:
        peer, connection = str(data.get(HandshakeKeys.ENDPOINT_NAME, "")), sfm_conn.conn
        who = str(connection.get_conn_properties().get(DriverParams.PEER_CN.value) or peer)
        if connection.connector.mode == Mode.PASSIVE and not may_connect(self.local_endpoint.name, peer):
            connection.close()
            tell_refusal(who, listener.ACTION, f"{peer} is not a process of this site")
            return
        try:
            update(self, sfm_conn, data)
        except CommError:  # NVFlare has compared the certificate, and hung up
            tell_refusal(who, listener.ACTION, f"its certificate is not that of {peer}")
            raise

    ConnManager.update_endpoint = update_endpoint
