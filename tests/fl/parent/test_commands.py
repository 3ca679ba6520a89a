"""The server's commands, on NVFlare's own registry: who may run those that ask for no right."""

import pytest
from nvflare.fuel.f3.cellnet.cell import Cell
from nvflare.fuel.hci.conn import Connection
from nvflare.fuel.hci.proto import MetaKey, MetaStatusValue
from nvflare.fuel.hci.reg import CommandEntry
from nvflare.fuel.hci.server.authz import AuthzFilter
from nvflare.fuel.hci.server.builtin import new_command_register_with_builtin_module
from nvflare.fuel.hci.server.constants import ConnProps
from nvflare.fuel.hci.server.login import LoginModule
from nvflare.fuel.hci.server.reg import ServerCommandRegister
from nvflare.fuel.sec.audit import AuditService
from nvflare.fuel.sec.authz import AuthzContext, Person
from nvflare.private.fed.server import admin
from nvflare.private.fed.server.server_cmd_modules import ServerCommandModules

from conftest import ROOT
from pneumonia_fl.fl.parent.commands import AskForARole, Watched, for_the_project_admin, watch_commands
from pneumonia_fl.fl.provision.rights import authorizer

NETWORK_TOOLS = {
    "cells",
    "route",
    "peers",
    "conns",
    "url_use",
    "speed",
    "stress",
    "msg_stats",
    "process_info",
}
NETWORK_TOOLS |= {"list_pools", "show_pool", "show_comm_config", "show_config_vars"}
SESSION = {"_cert_login", "_logout", "_check_session", "_commands"}


@pytest.fixture(scope="module")
def register(tmp_path_factory: pytest.TempPathFactory) -> ServerCommandRegister:
    """The register of NVFlare's own admin server, made as a server makes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            admin, "new_command_register_with_builtin_module", new_command_register_with_builtin_module
        )
        patch.setattr(AuditService, "the_auditor", None)
        watch_commands()
        AuditService.initialize(str(tmp_path_factory.mktemp("server") / "audit.log"))
        cell = Cell(fqcn="server", root_url="tcp://localhost:1", secure=False, credentials={})
        server = admin.FedAdminServer(cell, None, ServerCommandModules.cmd_modules, "", "")
        AuditService.close()
    return server.cmd_reg


def commands(register: ServerCommandRegister) -> dict[str, CommandEntry]:
    return {name: entry for scope in register.scopes.values() for name, entry in scope.entries.items()}


def run_as(role: str, entry: CommandEntry) -> Connection:
    """The connection after our filter looked at a command."""
    conn = Connection(props={ConnProps.CMD_ENTRY: entry, ConnProps.USER_ROLE: role})
    conn.set_prop("passed", AskForARole().pre_command(conn, [entry.name]))
    return conn


def test_every_command_that_asks_for_no_right_is_the_project_admins(register: ServerCommandRegister) -> None:
    found = commands(register)
    guarded = {name for name, entry in found.items() if for_the_project_admin(entry)}
    assert guarded == NETWORK_TOOLS | {"list_sessions", "reset_errors"}
    assert {name for name, entry in found.items() if entry.authz_func is None} - guarded == SESSION


LOOKS = {"check_status", "get_job_meta", "list_jobs", "report_version", "show_scopes", "show_stats"}
LOOKS |= {"show_errors", "reset_errors"}  # our filter, which stands before the rights, keeps the latter
OWN_JOBS = {"abort_job", "clone_job", "configure_job_log", "delete_job", "download_job", "get_job_log"}
OWN_JOBS |= {"download_job_components", "list_job"}


@pytest.mark.parametrize(
    ("role", "submitter", "may"),
    [
        ("member", "me", LOOKS),
        ("lead", "me", LOOKS | OWN_JOBS | {"submit_job"}),
        ("lead", "another", LOOKS | {"submit_job"}),
        ("nobody", "me", set()),
    ],
)
def test_every_other_command_is_refused_by_rights(
    register: ServerCommandRegister, role: str, submitter: str, may: set[str]
) -> None:
    rights = authorizer(ROOT / "provisioning" / "server" / "authorization.json", "consortium")
    people = Person("me", "consortium", role), Person(submitter, "consortium", "lead")
    asked = {name for name, entry in commands(register).items() if entry.authz_func}
    assert len(asked) > 40
    assert {name for name in asked if rights.authorize(AuthzContext(name, *people))[0]} == may


@pytest.mark.parametrize("role", ["member", "lead"])
def test_studies_are_not_changed_by_people_without_it(register: ServerCommandRegister, role: str) -> None:
    found = {name: entry for name, entry in commands(register).items() if "study" in name}
    assert {"register_study", "remove_study", "add_study_site", "add_study_user"} < found.keys()
    for name, entry in found.items():
        conn = Connection(props={ConnProps.CMD_ENTRY: entry, ConnProps.USER_ROLE: role})
        assert not AuthzFilter().pre_command(conn, [name])


@pytest.mark.parametrize("role", ["member", "lead", "org_admin", "", None])
@pytest.mark.parametrize("name", [*sorted(NETWORK_TOOLS), "reset_errors"])
def test_network_tools_and_what_erases_errors_are_refused(
    register: ServerCommandRegister, role: str, name: str
) -> None:
    conn = run_as(role, commands(register)[name])
    assert not conn.get_prop("passed")
    assert conn.buffer.meta[MetaKey.STATUS] == MetaStatusValue.NOT_AUTHORIZED


def test_the_project_admin_may_use_them(register: ServerCommandRegister) -> None:
    assert all(run_as("project_admin", entry).get_prop("passed") for entry in commands(register).values())


@pytest.mark.parametrize(
    "name", ["list_jobs", "get_job_meta", "check_status", "submit_job", *sorted(SESSION)]
)
def test_what_has_its_own_right_is_left_to_nvflare(register: ServerCommandRegister, name: str) -> None:
    assert run_as("member", commands(register)[name]).get_prop("passed")


def test_the_role_is_asked_for_between_login_and_rights(register: ServerCommandRegister) -> None:
    assert all(isinstance(each, Watched) for each in register.filters)
    kinds = [type(each._inner) for each in register.filters]
    assert kinds[:3] == [LoginModule, AskForARole, AuthzFilter]
