"""The texts in a kit: its one-page README by role, `install.sh`, and the owner's settings file."""

from textwrap import dedent

from pneumonia_fl import DISCLAIMER
from pneumonia_fl.fl.kit.startup_kit import Kind, Kit

_SETTINGS = {
    "site": """\
        # What this site decides, and no job can change. Empty: the default.
        data:       # folder with this site's prepared data (PNEUMONIA_FL_DATA goes before it)
        threads:    # threads for training; default: all cores
        max_local_epochs:    # the most passes over the images in a round; default: what a job wants
        max_batch_size:      # the most images in one step; default: what a job wants
        # share_local_model: false   # send no model of this site alone, for evaluation at other sites
        # join_evaluations: false    # evaluate no saved models when a job asks for nothing else
        """,
    "server": """\
        # What this server decides, and no job can change. Empty: the default.
        tracking_uri:    # MLflow server that gets every job's metrics, http(s)://…; default: one that `up` starts here
        """,
}

_INSTALL = """\
    #!/usr/bin/env bash
    # Make this kit's environment in venv/, with the versions in requirements.txt (about 6 GB with PyTorch).
    # Words given to this script go to pip, for example: ./install.sh --no-index --find-links /media/wheels
    set -euo pipefail
    cd "$(dirname "${BASH_SOURCE[0]}")"
    PYTHON="${PYTHON:-python3}"
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
      echo "error: $PYTHON is older than Python 3.11; name a newer one: PYTHON=/path/to/python3 ./install.sh" >&2
      exit 1
    }
    [ -x venv/bin/python ] || "$PYTHON" -m venv --clear venv
    echo "Installing into $PWD/venv (a few minutes the first time) ..."
    venv/bin/python -m pip --disable-pip-version-check install --quiet --constraint requirements.txt "$@" \\
      ./pneumonia_fl-*.whl
    # A kit that was moved: the commands in venv/bin hold the path of its Python.
    venv/bin/pneumonia-fl --version >/dev/null 2>&1 ||
      venv/bin/python -m pip --disable-pip-version-check install --quiet --force-reinstall --no-deps "$@" \\
        ./pneumonia_fl-*.whl
    venv/bin/python -c 'import pneumonia_fl; print("pneumonia-fl", pneumonia_fl.__version__)'
    """

_PAGE = """\
    # {title}

    {disclaimer}

    This folder is the startup kit of **{name}** in the federation **{project}**. It holds a private key: keep it to
    yourself, do not mail it, do not put it into git or a backup that others read. Server: `{host}`, port {port}.

    ## Install, once

    Python 3.11 or newer; about 6 GB. It makes `venv/` inside this folder:

        ./install.sh
        venv/bin/pneumonia-fl doctor .

    `doctor` says what is in order and what to do about the rest.

    ## {heading}

    {body}

    ## What is in here

    - `startup/`: identity, address of the server, start scripts. It is signed; an edited kit does not start.
    - `local/`: yours to edit{local}.
    - `requirements.txt`, `pneumonia_fl-*.whl`, `install.sh`: the software, in the versions that belong together.

    Certificates last 360 days; `doctor` warns 30 days before. Your Lead IT renews them
    (`pneumonia-fl provision --renew {name}`) and sends you a new `startup/`.
    """

_BODIES: dict[str, tuple[str, str, str]] = {
    "server": (
        "Start and stop",
        """\
        venv/bin/pneumonia-fl up .
        venv/bin/pneumonia-fl status .
        venv/bin/pneumonia-fl down .

    Open port {port} for the sites and the people, and nothing else. Jobs and their results are in `jobs-storage/`,
    who did what is in `audit.log`; back both up. `venv/bin/pneumonia-fl authz --kit .` prints everybody's rights.""",
        ": `authorization.json` (rights), `resources.json` (stores, classes), `pneumonia_fl.yml` (tracking server)",
    ),
    "site": (
        "Prepare the data, start and stop",
        """\
    Write the folder of your prepared data into `local/pneumonia_fl.yml` (`data:`). The images never leave it.

        venv/bin/pneumonia-fl data prepare --source /path/to/x-rays --out /path/to/prepared --sites {name}
        venv/bin/pneumonia-fl up .
        venv/bin/pneumonia-fl status .
        venv/bin/pneumonia-fl down .

    No port has to be opened: this site calls the server. What others may do here is your decision:
    `venv/bin/pneumonia-fl authz --kit .` prints it; `local/authorization.json` and `local/resources.json` hold it.
    Every command from outside leaves a line in `audit.log`.""",
        ": `authorization.json` (rights), `resources.json` (classes, GPUs, policy), `pneumonia_fl.yml` (data, threads)",
    ),
    "project_admin": (
        "Look after the federation",
        """\
        venv/bin/pneumonia-fl jobs --kit .
        venv/bin/pneumonia-fl watch JOB_ID --kit .
        venv/bin/pneumonia-fl abort JOB_ID --kit .

    NVFlare's own console is `startup/fl_admin.sh` (run it with `venv/bin` first in PATH); log in as `{name}`. Its
    `check_status server` shows which sites are connected.""",
        "",
    ),
    "org_admin": (
        "Look after your hospital's site",
        """\
        venv/bin/pneumonia-fl jobs --kit .
        venv/bin/pneumonia-fl watch JOB_ID --kit .

    You may start, stop and look into the site of your own org, and end jobs of your own org; you submit nothing.""",
        "",
    ),
    "lead": (
        "Submit a job",
        """\
        venv/bin/pneumonia-fl submit fedavg --kit . --wait
        venv/bin/pneumonia-fl jobs --kit .
        venv/bin/pneumonia-fl watch JOB_ID --kit .
        venv/bin/pneumonia-fl download JOB_ID --kit .

    You may submit jobs, and watch, end, clone and download your own.""",
        "",
    ),
    "member": (
        "Look",
        """\
        venv/bin/pneumonia-fl jobs --kit .
        venv/bin/pneumonia-fl watch JOB_ID --kit .

    You may look at jobs and sites, and change nothing.""",
        "",
    ),
}
_TITLES = {
    "server": "Server kit",
    "site": "Site kit (Site IT)",
    "project_admin": "Admin kit: Lead IT",
    "org_admin": "Admin kit: Site IT",
    "lead": "Admin kit: Lead researcher",
    "member": "Admin kit: Site researcher",
}


def page(kit: Kit, role: str) -> str:
    """Return README.md of a kit; `role` is a person's role."""
    key = role if kit.kind == "admin" else kit.kind
    heading, body, local = _BODIES[key]
    values = {"name": kit.name, "project": kit.project, "host": kit.host, "port": kit.port}
    return dedent(_PAGE).format(
        title=_TITLES[key],
        disclaimer=f"*{DISCLAIMER}*",
        heading=heading,
        body=dedent(_indent_first(body)).strip("\n").format(**values),
        local=local,
        **values,
    )


def _indent_first(body: str) -> str:
    """Indent the first line like the others, so that `dedent` sees one margin."""
    return body if body.startswith(" ") else f"    {body}"


def install_script() -> str:
    """Return `install.sh`."""
    return dedent(_INSTALL)


def local_settings(kind: Kind) -> str:
    """Return `local/pneumonia_fl.yml` with every key explained; "" for a person's kit."""
    return dedent(_SETTINGS.get(kind, ""))
