"""project.yml: the shipped one is sound, and every mistake is one line that names file and line."""

import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, pneumonia_fl
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.kit.certificates import ROLES
from pneumonia_fl.fl.provision.project_file.add_participants import add_participants
from pneumonia_fl.fl.provision.project_file.project import load_project

# What is written in place of what, and what the error says. The line is that of the new text's first word.
MISTAKES = {
    "unknown key at the top": ("description:", "descripton:", "unknown key 'descripton' in project.yml"),
    "unknown key of a participant": ("    fed_learn_port: 8002", "    fl_port: 8002", "unknown key 'fl_port'"),
    "unknown type": ("type: client\n    org: us_", "type: hospital\n    org: us_", "unknown type 'hospital'"),
    "unknown role": ("role: lead", "role: leader", "unknown role 'leader'"),
    "hyphen in an org": ("org: us_hospital", "org: us-hospital", "letters, digits and _ only"),
    "two of one name": ("name: us-hospital", "name: asia-hospital", "two participants called 'asia-hospital'"),
    "a second server": ("type: client\n    org: us_", "type: server\n    org: us_", "a second server, us-hospital"),
    "no server": ("type: server", "type: client", "has no key 'fed_learn_port'"),
    "port out of range": ("fed_learn_port: 8002", "fed_learn_port: 70000", "port from 1 to 65535, not 70000"),
    "port that is text": ("fed_learn_port: 8002", "fed_learn_port: many", "port from 1 to 65535, not 'many'"),
    "two ports": (
        "    fed_learn_port: 8002",
        "    admin_port: 8003\n    fed_learn_port: 8002",
        "one port is enough",
    ),
    "no mutual TLS": ("connection_security: mtls", "connection_security: clear", "must be mtls, not 'clear'"),
    "not grpc": ("scheme: grpc", "scheme: http", "NVFlare's own default is http"),
    "no scheme": ("      scheme: grpc", "", "needs `args: {scheme: grpc}`"),
    "GPUs beside capacity": (
        "    org: us_hospital",
        "    num_of_gpus: 1\n    org: us_hospital",
        "num_of_gpus belongs below `capacity:`",
    ),
    "unknown key in capacity": (
        "    org: us_hospital",
        "    capacity: {gpus: 1}\n    org: us_hospital",
        "unknown key 'gpus' in capacity",
    ),
    "half a GPU": (
        "    org: us_hospital",
        "    capacity: {num_of_gpus: 0.5}\n    org: us_hospital",
        "whole number from 0, not 0.5",
    ),
    "a person without e-mail address": ("name: lead@consortium.org", "name: lead", "must be an e-mail address"),
    "a site with a space": ("name: us-hospital", "name: us hospital", "use at most 63 letters, digits, - and _"),
    "a reserved site": ("name: us-hospital", "name: server", "that word is reserved"),
    "a bad host": ("host_names: [127.0.0.1]", "host_names: ['a b']", "neither a host name nor an address"),
    "a version of long ago": ("api_version: 3", "api_version: 2", "api_version must be 3"),
    "studies in version 3": ("api_version: 3", "studies: {}\napi_version: 3", "needs api_version 4"),
    "a bad project name": ("name: pneumonia_fl", "name: ../pneumonia", "at most 63 letters"),
    "no such builder": ("cert.CertBuilder", "cert.CertBilder", "unknown builder"),
    "a site like an option": ("name: us-hospital", "name: -rf", "a letter or digit first"),
    "a site with a line break": ("name: us-hospital", 'name: "us-hospital\\n"', "a letter or digit first"),
    "a site of the server's jobs": ("name: us-hospital", "name: server_job", "that word is reserved"),
    "a site of the pooled metrics": ("name: us-hospital", "name: Global", "that word is reserved"),
    "a site of the test set": ("name: us-hospital", "name: test", "that word is reserved"),
    "a site that is a number": ("name: us-hospital", "name: 12", "text is expected here, not 12"),
    "a person like an option": ("name: lead@consortium.org", "name: -lead@consortium.org", "a letter or digit first"),
    "an org with a line break": ("org: us_hospital", 'org: "us_hospital\\n"', "letters, digits and _ only"),
    "a project like an option": ("name: pneumonia_fl", "name: -p", "a letter or digit first"),
    "a description that is a list": ("description: ", "description: [x] #", "text is expected here"),
    "a type that is a list": ("type: client\n    org: us_", "type: [client]\n    org: us_", "text is expected here"),
    "log streaming by a word": (
        "    org: us_hospital", "    allow_log_streaming: 'no'\n    org: us_hospital", "must be true or false",
    ),
    "a way through another site": (
        "    org: us_hospital",
        "    connect_to: {name: x, host: y}\n    org: us_hospital",
        "unknown key 'name' in connect_to",
    ),
    "a host that is none": (
        "    org: us_hospital", "    connect_to: {host: ../x}\n    org: us_hospital", "neither a host name",
    ),
    "another class": ("nvflare.lighter.impl.cert.CertBuilder", "subprocess.Popen", "unknown builder 'subp"),
    "a builder without its package": ("nvflare.lighter.impl.cert.CertBuilder", "cert.CertBuilder", "unknown builder"),
    "another builder of NVFlare": ("impl.cert.CertBuilder", "impl.docker.DockerBuilder", "unknown builder"),
    "a builder that is a list": ("path: nvflare.lighter.impl.cert.CertBuilder", "path: [x]", "unknown builder ['x']"),
    "a builder named twice": ("signature.SignatureBuilder", "cert.CertBuilder", "each builder once, in this order"),
    "encryption without its package": (
        "  - path: nvflare.lighter.impl.sig",
        "  - path: nvflare.lighter.impl.he.HEBuilder\n  - path: nvflare.lighter.impl.sig",
        "HEBuilder needs the package tenseal",
    ),
    "an argument that names a class": (
        "      config_folder: config",
        "      app_validator: os.system\n      config_folder: config",
        "unknown key 'app_validator'",
    ),
    "an argument that names a template": (
        "WorkspaceBuilder ", "WorkspaceBuilder\n    args: {template_file: own.yml} ", "unknown key 'template_file'",
    ),
    "an argument that names an image": (
        "      config_folder: config", "      docker_image: own\n      config_folder: config", "unknown key 'docker_im",
    ),
    "another config folder": ("config_folder: config", "config_folder: ../x", "StaticFileBuilder must be config"),
    "a root for ever": ("root_valid_days: 3650", "root_valid_days: 99999999", "a whole number from 1 to 36500"),
    "a root for no time": ("root_valid_days: 3650", "root_valid_days: yes", "a whole number from 1 to 36500, not True"),
    "a packager": ("builders:", "packager: {path: subprocess.Popen}\nbuilders:", "unknown key 'packager' in proj"),
    "an edge project": ("builders:", "edge: {depth: 1}\nbuilders:", "unknown key 'edge' in project.yml"),
    "a study with a key of its own": (
        "api_version: 3", "studies: {one: {path: os.system}}\napi_version: 4", "unknown key 'path' in a study",
    ),
    "a study with a stranger": (
        "api_version: 3", "studies: {one: {admins: [x@y.org]}}\napi_version: 4", "no person 'x@y.org'",
    ),
    "a study with a site of another org": (
        "api_version: 3",
        "studies: {one: {site_orgs: {asia_hospital: [us-hospital]}}}\napi_version: 4",
        "no site 'us-hospital' of org 'asia_hospital'",
    ),
    "a study like a path": ("api_version: 3", "studies: {../x: }\napi_version: 4", "a study cannot be called '../x'"),
    "not YAML": ("participants:", "participants: [", "not valid YAML"),
    "a key given twice": ("description:", "api_version: 3\ndescription:", "'api_version' occurs twice"),
}  # fmt: skip


def edited(tmp_path: Path, before: str, after: str) -> Path:
    file = tmp_path / "project.yml"
    text = (ROOT / "project.yml").read_text()
    assert before in text
    file.write_text(text.replace(before, after, 1))
    return file


@pytest.mark.parametrize(("before", "after", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_with_its_place(tmp_path: Path, before: str, after: str, message: str) -> None:
    file = edited(tmp_path, before, after)
    with pytest.raises(ConfigError) as caught:
        load_project(file)
    place, _, text = str(caught.value).partition(": ")
    assert message in text
    assert "\n" not in text
    name, _, line = place.rpartition(":")
    assert name == str(file)
    assert 0 < int(line) <= len(file.read_text().splitlines())


@pytest.mark.parametrize("mistake", ["unknown role", "not grpc", "hyphen in an org", "two of one name"])
def test_the_line_is_the_line_of_the_mistake(tmp_path: Path, mistake: str) -> None:
    before, after, _ = MISTAKES[mistake]
    file = edited(tmp_path, before, after)
    with pytest.raises(ConfigError) as caught:
        load_project(file)
    line = int(str(caught.value).split(":")[1])
    assert after.strip() in file.read_text().splitlines()[line - 1]


@pytest.mark.parametrize(
    "missing", ["api_version", "name", "participants", "builders"], ids=lambda key: f"no {key}"
)
def test_what_every_project_needs(tmp_path: Path, missing: str) -> None:
    text = (ROOT / "project.yml").read_text()
    start = text.index(f"\n{missing}:") + 1
    ends = [text.find(f"\n{key}:", start) for key in ("name", "description", "builders") if key != missing]
    end = min((found + 1 for found in ends if found > 0), default=len(text))
    file = tmp_path / "project.yml"
    file.write_text(text[:start] + text[end:])
    with pytest.raises(ConfigError, match=f"needs `{missing}:`"):
        load_project(file)


@pytest.mark.parametrize("text", ["x;id", "$(id)", "`id`", "a b", "../x", "x|id", "x&id", "x>y"])
@pytest.mark.parametrize("before", ["name: us-hospital", "org: us_hospital", "host_names: [127.0.0.1]"])
def test_what_a_shell_would_obey_is_no_name(tmp_path: Path, before: str, text: str) -> None:
    key, _, value = before.partition(": ")
    quoted = f"['{text}']" if value.startswith("[") else f"'{text}'"
    file = edited(tmp_path, before, f"{key}: {quoted}")
    place = next(n for n, line in enumerate(file.read_text().splitlines(), 1) if text in line)
    with pytest.raises(ConfigError) as caught:
        load_project(file)
    assert str(caught.value).startswith(f"{file}:{place}: ")


@pytest.mark.parametrize("builder", ["workspace", "static_file", "cert", "signature"])
def test_a_missing_builder_is_named_with_its_purpose(tmp_path: Path, builder: str) -> None:
    file = tmp_path / "project.yml"
    lines = (ROOT / "project.yml").read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if f"impl.{builder}." in line)
    end = next((n for n in range(start + 1, len(lines)) if lines[n].startswith("  - ")), len(lines))
    file.write_text("\n".join(lines[:start] + lines[end:]))
    with pytest.raises(ConfigError, match=rf"builder nvflare\.lighter\.impl\.{builder}\.\w+ is missing"):
        load_project(file)


def test_a_project_without_sites_or_server_says_so(tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    head = "api_version: 3\nname: x\nbuilders: []\nparticipants:\n"
    file.write_text(f"{head}  - {{name: localhost, type: server, org: a}}\n")
    with pytest.raises(ConfigError, match="there is no site"):
        load_project(file)
    file.write_text(f"{head}  - {{name: site-1, type: client, org: a}}\n")
    with pytest.raises(ConfigError, match="there is no server"):
        load_project(file)


def test_the_command_prints_the_line_and_nothing_more(tmp_path: Path) -> None:
    file = edited(tmp_path, "role: lead", "role: leader")
    done = pneumonia_fl("provision", file, "--out", tmp_path / "kits")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {file}:")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "kits").exists()


@pytest.mark.parametrize("words", [(), ("--add-site", "new:org"), ("--renew", "us-hospital")], ids=" ".join)
def test_nothing_that_the_file_names_runs(tmp_path: Path, words: tuple[str, ...]) -> None:
    mark = tmp_path / "mark"
    first = "  - path: nvflare.lighter.impl.workspace"
    file = edited(
        tmp_path, first, f"  - path: subprocess.Popen\n    args: {{args: [touch, {mark}]}}\n{first}"
    )
    before = file.read_text()
    done = pneumonia_fl("provision", file, "--out", tmp_path / "kits", *words)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "unknown builder 'subprocess.Popen'" in done.stderr
    assert not mark.exists()
    assert not (tmp_path / "kits").exists()
    assert file.read_text() == before


def test_naming_a_module_does_not_import_it(tmp_path: Path) -> None:
    (tmp_path / "own_module.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')\n")
    file = edited(tmp_path, "nvflare.lighter.impl.cert.CertBuilder", "own_module.Builder")
    done = pneumonia_fl("provision", file, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert "unknown builder 'own_module.Builder'" in done.stderr
    assert not (tmp_path / "mark").exists()


def test_two_participants_on_one_line_are_two(tmp_path: Path) -> None:
    text = (ROOT / "project.yml").read_text()
    start, end = text.index("participants:"), text.index("\n# How NVFlare")
    sites = "{name: x, type: client, org: a}, {name: X, type: client, org: a}"
    people = f"[{{name: localhost, type: server, org: a}}, {sites}]"
    file = tmp_path / "project.yml"
    file.write_text(f"{text[:start]}participants: {people}{text[end:]}")
    with pytest.raises(ConfigError, match="two participants called 'X'"):
        load_project(file)


def test_a_study_of_known_sites_and_people_is_taken(tmp_path: Path) -> None:
    study = "one: {site_orgs: {us_hospital: [us-hospital]}, admins: [lead@consortium.org]}, two: "
    assert load_project(edited(tmp_path, "api_version: 3", f"studies: {{{study}}}\napi_version: 4")).values[
        "studies"
    ]


def test_a_missing_project_file_is_one_line(tmp_path: Path) -> None:
    done = pneumonia_fl("provision", tmp_path / "project.yml")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert "cannot read" in done.stderr


def test_the_shipped_project_has_what_the_consortium_needs() -> None:
    project = load_project(ROOT / "project.yml")
    assert [site.name for site in project.of_type("client")] == [
        "europe-hospital",
        "asia-hospital",
        "us-hospital",
    ]
    assert len({site.org for site in project.of_type("client")}) == 3
    assert {person.role for person in project.of_type("admin")} == set(ROLES)
    site_it = {person.org for person in project.of_type("admin") if person.role == "org_admin"}
    assert site_it == {site.org for site in project.of_type("client")}


def test_every_key_of_the_shipped_project_is_explained() -> None:
    first: dict[str, str] = {}
    for line in (ROOT / "project.yml").read_text().splitlines():
        if found := re.match(r"[ -]*(\w+):", line):
            first.setdefault(found[1], line)
    assert len(first) > 10
    assert [key for key, line in first.items() if "#" not in line and key != "description"] == []


def test_adding_keeps_every_line_that_was_there(tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    shutil.copy(ROOT / "project.yml", file)
    before = file.read_text().splitlines()
    add_participants(file, ["africa-hospital:africa_hospital"], ["it@africa.org:africa_hospital:org_admin"])
    after = file.read_text().splitlines()
    kept = iter(after)
    assert all(line in kept for line in before), "a line is gone or out of order"
    assert len(after) == len(before) + 3 + 4
    project = load_project(file)
    assert [site.name for site in project.of_type("client")][-1] == "africa-hospital"
    assert project.of_type("admin")[-1].role == "org_admin"


def test_a_comment_inside_an_entry_stays_with_it(tmp_path: Path) -> None:
    file = edited(tmp_path, "    org: us_hospital\n", "    org: us_hospital\n    # rack 7\n")
    add_participants(file, ["africa-hospital:africa_hospital"], [])
    lines = file.read_text().splitlines()
    place = lines.index("    # rack 7")
    assert lines[place - 1] == "    org: us_hospital"
    assert lines[place + 1] == "  - name: africa-hospital"


ADDITIONS = {
    "--add-site": [
        ("africa", "write NAME:ORG"),
        ("africa:a:b", "write NAME:ORG"),
        ("africa:a-b", "letters, digits and _ only"),
        ("asia-hospital:asia", "is in .* already"),
        ("server:asia", "that word is reserved"),
        ("a b:asia", "use at most 63 letters"),
    ],
    "--add-user": [
        ("bob:asia", "write EMAIL:ORG:ROLE"),
        ("bob:asia:lead", "must be an e-mail address"),
        ("bob@asia.org:asia:king", "unknown role 'king'"),
        ("lead@consortium.org:consortium:lead", "is in .* already"),
    ],
}


@pytest.mark.parametrize(
    ("option", "text", "message"), [(o, t, m) for o, cases in ADDITIONS.items() for t, m in cases]
)
def test_a_bad_addition_changes_nothing(tmp_path: Path, option: str, text: str, message: str) -> None:
    file = tmp_path / "project.yml"
    shutil.copy(ROOT / "project.yml", file)
    sites, users = ([text], []) if option == "--add-site" else ([], [text])
    with pytest.raises(ConfigError, match=message) as caught:
        add_participants(file, sites, users)
    assert str(caught.value).startswith(option)
    assert file.read_text() == (ROOT / "project.yml").read_text()
    assert list(tmp_path.iterdir()) == [file]


WORDS = [
    "no",
    "yes",
    "on",
    "Off",
    "true",
    "null",
    "y",
    "n",
    "007",
    "12",
    "1e3",
    "0x1f",
    "1_000",
    "0b1",
    "2026-01-01",
]


@pytest.mark.parametrize("word", WORDS)
def test_a_name_or_an_org_that_yaml_understands_is_quoted(tmp_path: Path, word: str) -> None:
    file = tmp_path / "project.yml"
    shutil.copy(ROOT / "project.yml", file)
    org = word.replace("-", "_")
    add_participants(file, [f"{word}:{org}"], [f"it@new.org:{org}:org_admin"])
    site = load_project(file).of_type("client")[-1]
    assert (site.name, site.org) == (word, org)
    # NVFlare reads the file with PyYAML's own rules.
    written = [p for p in yaml.safe_load(file.read_text())["participants"] if p["org"] == org]
    assert [p["name"] for p in written] == [word, "it@new.org"]


def test_line_ends_and_everything_else_stay_as_they_were(tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    before = (ROOT / "project.yml").read_bytes().replace(b"\n", b"\r\n")
    file.write_bytes(before)
    add_participants(file, ["africa-hospital:africa_hospital"], [])
    after = file.read_bytes()
    assert after.count(b"\n") == after.count(b"\r\n") == before.count(b"\r\n") + 3
    new = b"  - name: africa-hospital\r\n    type: client\r\n    org: africa_hospital\r\n"
    assert after.replace(new, b"") == before


def test_a_file_without_a_last_line_end_takes_an_addition(tmp_path: Path) -> None:
    text = (ROOT / "project.yml").read_text()
    start, end = text.index("participants:"), text.index("\n# How NVFlare")
    file = tmp_path / "project.yml"
    file.write_text(f"{text[:start]}{text[end:].strip()}\n{text[start:end].rstrip()}")
    add_participants(file, ["africa-hospital:africa_hospital"], ["a@b.org:africa_hospital:lead"])
    assert load_project(file).of_type("admin")[-1].name == "a@b.org"


def test_of_several_additions_all_are_written_or_none(tmp_path: Path) -> None:
    file = tmp_path / "project.yml"
    shutil.copy(ROOT / "project.yml", file)
    before = file.read_bytes()
    with pytest.raises(ConfigError, match="--add-site 'bad': write NAME:ORG"):
        add_participants(file, ["africa-hospital:africa_hospital", "bad"], [])
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["project.yml"]


@pytest.mark.parametrize("words", [("--policy", "king"), ("--renew", "nobody"), ("--wheel", "no.whl")])
def test_an_addition_is_taken_back_when_the_kits_cannot_be_made(
    tmp_path: Path, words: tuple[str, str]
) -> None:
    file = tmp_path / "project.yml"
    shutil.copy(ROOT / "project.yml", file)
    before = file.read_bytes()
    done = pneumonia_fl("provision", file, "--out", tmp_path / "kits", "--add-site", "new:org", *words)
    assert (done.returncode, done.stderr.count("error: ")) == (1, 1)
    assert file.read_bytes() == before
