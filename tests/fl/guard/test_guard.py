"""Who may say what to whom; the remote shell; one site's failure; kits without a guard."""

import os
import socket
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.apis.fl_constant import RunProcessKey
from nvflare.fuel.common.exit_codes import ProcessExitCode
from nvflare.private.admin_defs import Message, MsgHeader, ReturnCode
from nvflare.private.defs import SysCommandTopic
from nvflare.private.fed.client.shell_cmd import ShellCommandProcessor
from provisioning import SERVER, SITES, Kits
from run_folders import write_json

from conftest import read_json
from pneumonia_fl.errors import KitError
from pneumonia_fl.fl.doctor.guards import guards, missing
from pneumonia_fl.fl.guard.listener import owner_of
from pneumonia_fl.fl.guard.protocol import Role, cell, objection
from pneumonia_fl.fl.guard.shell import NoShell, PathRules
from pneumonia_fl.fl.guard.site_failures import SiteFailures
from pneumonia_fl.fl.kit.startup_kit import open_kit
from pneumonia_fl.fl.services.participant import Service
from pneumonia_fl.fl.services.preflight import check

PERSON = "_admin_00000000-0000-4000-8000-000000000000"
JOB, OTHER_JOB = "e4bfe460-cbd8-44e5-b0a8-fd0c658f8af6", "82903e11-a259-4bdb-ab31-69a250eaaa15"


@pytest.mark.parametrize(
    ("name", "role", "root", "job"),
    [
        (PERSON, Role.PERSON, PERSON, ""),
        ("server", Role.SERVER, "server", ""),
        (f"server.{JOB}", Role.SERVER_JOB, "server", JOB),
        (f"server.{JOB}.x", Role.SERVER_JOB, "server", JOB),
        ("asia", Role.SITE, "asia", ""),
        (f"asia.{JOB}", Role.SITE_JOB, "asia", JOB),
        (f"asia.{JOB}.t", Role.TRAINER, "asia", JOB),
        (f"asia.{JOB}.t.x", Role.TRAINER, "asia", JOB),
        ("", Role.SITE, "", ""),
        ("server.", Role.SERVER_JOB, "server", ""),
    ],
)
def test_what_a_cell_is_by_its_name(name: str, role: Role, root: str, job: str) -> None:
    found = cell(name)
    assert (found.role, found.root, found.job) == (role, root, job)


@pytest.mark.parametrize(
    ("origin", "destination", "channel", "topic"),
    [
        (PERSON, "server", "hci_channel", "command"),
        ("asia", "server", "task", "heart_beat"),
        ("server", "asia", "admin", "anything"),
        (f"asia.{JOB}", f"server.{JOB}", "server_command", "submit_update"),
        (f"asia.{JOB}", "asia", "admin", "train.notify_job_status"),
        (f"server.{JOB}", "server", "server_parent_listener", "get_clients"),
        (f"server.{JOB}", f"asia.{JOB}", "aux_communication", "__end_run__"),
        (f"asia.{JOB}.t", f"asia.{JOB}", "client_api", "client_api.hello"),
    ],
)
def test_said(origin: str, destination: str, channel: str, topic: str) -> None:
    assert objection(cell(origin), cell(destination), (channel, topic), is_request=True) == ""
    assert objection(cell(origin), cell(destination), (channel, "x"), is_request=False) == ""


@pytest.mark.parametrize(
    ("origin", "destination", "channel", "topic"),
    [
        (PERSON, "asia", "admin", "train.shutdown"),
        (PERSON, f"asia.{JOB}", "client_command", "abort"),
        (PERSON, f"server.{JOB}", "server_command", "abort"),
        (PERSON, "server", "server_parent_listener", "get_clients"),
        (PERSON, "server", "aux_communication", "fed.event"),
        (PERSON, "server", "cellnet.channel", "bulk"),
        (PERSON, "server", "_net_manager", "stop"),
        ("us", "asia", "admin", "sys.shell"),
        (f"us.{JOB}", f"asia.{JOB}", "aux_communication", "__end_run__"),
        (f"asia.{JOB}", f"server.{OTHER_JOB}", "server_command", "get_task"),
        (f"asia.{JOB}", f"server.{JOB}", "server_command", "abort"),
        (f"asia.{JOB}", "server", "server_parent_listener", "update_run_status"),
        ("asia", "server", "server_parent_listener", "get_clients"),
        ("asia", f"server.{JOB}", "server_command", "get_task"),
        (f"server.{JOB}", "asia", "admin", "train.start_job"),
        (f"asia.{JOB}", "asia", "admin", "sys.shell"),
        (f"asia.{JOB}.t", "asia", "admin", "train.notify_job_status"),
        (f"asia.{JOB}.t", "server", "task", "heart_beat"),
        ("server", "asia", "_net_manager", "stop"),
        ("server", "asia", "_net_manager", "change_root"),
        ("server", "asia", "cellnet.channel", "bulk"),
        ("server", "asia", "client_command", "abort"),
        ("", "server", "", ""),
        ("asia", "", "task", "heart_beat"),
    ],
)
def test_not_said(origin: str, destination: str, channel: str, topic: str) -> None:
    reason = objection(cell(origin), cell(destination), (channel, topic), is_request=True)
    assert "says nothing to" in reason or "may not ask this of" in reason


def test_sites_and_people_are_not_even_answered_by_each_other() -> None:
    for origin, destination in [(PERSON, "asia"), ("us", "asia"), (f"us.{JOB}", f"asia.{JOB}")]:
        assert objection(cell(origin), cell(destination), ("admin", "x"), is_request=False)


# The remote shell.


@pytest.mark.parametrize(
    "line",
    [
        "cat /etc/hostname", "cat ../x.txt", "cat local/../../x.txt", "ls /", "ls ..", "cat startup/fed_client.json",
        "cat ~/x.txt", "head -n 1 startup/client.key", "grep x startup/rootCA.pem", "tail x.bin", "rm x.txt", "sh",
        "", "cat 'x", "ls startup", "ls ./startup", "cat x.txt y.txt",
    ],
)  # fmt: skip
def test_a_relaxed_sites_shell_stays_in_the_kit(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "startup").mkdir()
    (tmp_path / "startup" / "fed_client.json").write_text("secret")
    reply = PathRules(ShellCommandProcessor()).process(Message(SysCommandTopic.SHELL, line), None)
    assert reply.get_header(MsgHeader.RETURN_CODE) == ReturnCode.ERROR
    assert "secret" not in str(reply.body)


def test_a_relaxed_sites_shell_shows_text_in_the_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.txt").write_text("a line")
    reply = PathRules(ShellCommandProcessor()).process(Message(SysCommandTopic.SHELL, "cat log.txt"), None)
    assert "a line" in str(reply.body)


def test_a_strict_site_has_no_shell() -> None:
    reply = NoShell().process(Message(SysCommandTopic.SHELL, "pwd"), None)
    assert "no remote shell" in str(reply.body)


# A site whose part of a job has failed.


@pytest.mark.parametrize(
    ("min_sites", "failing", "ends"),
    [(2, ["asia"], False), (2, ["asia", "asia"], False), (2, ["asia", "us"], True), (0, ["asia"], True)],
)
def test_a_job_goes_on_while_its_quorum_can_be_reached(
    min_sites: int, failing: list[str], ends: bool
) -> None:
    heard: list[Any] = []
    job = SimpleNamespace(meta={"custom_props": {"pneumonia_fl": {"config": {"min_sites": min_sites}}}})
    sites = {name: SimpleNamespace(name=name) for name in ("asia", "europe", "us")}
    engine = SimpleNamespace(
        run_processes={JOB: {RunProcessKey.PARTICIPANTS: sites}},
        job_runner=SimpleNamespace(running_jobs={JOB: job}),
        server=SimpleNamespace(process_job_failure=lambda request: heard.append(request.payload["code"])),
    )
    reports = SiteFailures(engine)
    for site in failing:
        payload = {"job_id": JOB, "code": ProcessExitCode.EXCEPTION, "reason": "x"}
        reports.process_report(SimpleNamespace(payload=payload, get_header=lambda *_, site=site: site))
    assert (heard[-1] == ProcessExitCode.EXCEPTION) == ends


# This machine.


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux")
def test_the_account_at_the_other_end_of_a_local_connection() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert owner_of(client.getsockname(), client.getpeername()) == os.getuid()
        assert owner_of(client.getsockname(), ("127.0.0.1", 1)) is None


# Kits.


def without(kit: Path, file: str, change: Any) -> None:
    values = read_json(kit / "local" / file)
    change(values)
    write_json(kit / "local" / file, values)


def drop(component: str) -> Any:
    return lambda values: values.update(components=[c for c in values["components"] if c["id"] != component])


GAPS = {
    "guard": ("resources.json", drop("guard")),
    "launcher": ("resources.json", drop("process_launcher")),
    "gate": ("resources.json", lambda values: values.pop("app_validator")),
    "another gate": ("resources.json", lambda values: values["app_validator"].update(path="x.Y")),
    "one class more": ("resources.json", lambda values: values["class_allow_list"].append("x.Y")),
    "no list": ("resources.json", lambda values: values.pop("class_allow_list")),
    "a list that warns": ("resources.json", lambda values: values.update(class_list_enforcement_mode="warn")),
    "credentials": ("comm_config.json", lambda values: values.pop("internal")),
}


@pytest.mark.parametrize("name", [SERVER, SITES[0]])
@pytest.mark.parametrize("gap", GAPS)
def test_a_kit_without_a_guard_is_not_started(gap: str, name: str, kits: Kits) -> None:
    kit = kits.out / name
    assert [finding.level for finding in guards(open_kit(kit))] == ["ok"]
    without(kit, *GAPS[gap])
    assert [finding.level for finding in guards(open_kit(kit))] == ["fail"]
    with pytest.raises(KitError, match=f"{name} is not guarded"):
        check([Service(open_kit(kit))], say=print)


def test_a_new_policy_brings_the_guards_back(kits: Kits) -> None:
    kit = kits.out / SITES[0]
    for gap in ("guard", "gate", "credentials"):
        without(kit, *GAPS[gap])
    kits.made("--policy", f"{SITES[0]}=strict")
    assert list(missing(open_kit(kit))) == []
