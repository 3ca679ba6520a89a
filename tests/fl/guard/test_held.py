"""What NVFlare itself refuses and the federation relies on: a new NVFlare has to refuse it too."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nvflare.fuel.f3.cellnet.defs import MessageHeaderKey, ReturnCode
from nvflare.fuel.f3.message import Message
from nvflare.lighter.utils import load_crt, load_private_key_file, sign_content
from nvflare.private.defs import CellMessageHeaderKeys
from nvflare.private.fed.authenticator import validate_auth_headers
from nvflare.private.fed.client import admin_commands
from nvflare.private.fed.server import server_commands
from nvflare.private.fed.utils.identity_utils import TokenVerifier
from provisioning import SERVER, SITES, Kits

TOKEN = "a-token"


def judged(kits: Kits, name: str, signature: str, origin: str) -> str:
    """What the server says to a message with the token of the first site; "" when it takes it."""
    verifier = TokenVerifier(load_crt(str(kits.out / SERVER / "startup" / "server.crt")))
    headers = {
        CellMessageHeaderKeys.CLIENT_NAME: name,
        CellMessageHeaderKeys.TOKEN: TOKEN,
        CellMessageHeaderKeys.TOKEN_SIGNATURE: signature,
        MessageHeaderKey.ORIGIN: origin,
    }
    log = logging.getLogger("test")
    reply = validate_auth_headers(Message(headers), verifier, log, lambda client, token: SITES[0])
    return "" if reply is None else str(reply.get_header(MessageHeaderKey.RETURN_CODE))


def signed(kits: Kits, name: str, kit: str, key: str) -> str:
    return str(sign_content(name + TOKEN, load_private_key_file(str(kits.out / kit / "startup" / key))))


def test_a_site_with_another_sites_token(original_kits: Kits) -> None:
    good = signed(original_kits, SITES[0], SERVER, "server.key")
    own = signed(original_kits, SITES[0], SITES[1], "client.key")
    assert judged(original_kits, SITES[0], good, SITES[0]) == ""
    assert judged(original_kits, SITES[0], good, f"{SITES[0]}.a-job") == ""
    for name, signature, origin in (
        (SITES[0], "", SITES[0]),
        (SITES[0], own, SITES[0]),
        (SITES[1], good, SITES[1]),
        (SITES[0], good, SITES[1]),
        (SITES[0], good, "server"),
    ):
        assert judged(original_kits, name, signature, origin) == ReturnCode.UNAUTHENTICATED


@pytest.mark.parametrize("module", [server_commands, admin_commands], ids=["server", "site"])
def test_a_log_configuration_is_a_level_and_nothing_that_runs(module: Any, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    handlers = {"x": {"()": "pathlib.Path.touch", "self": str(mark), "class": "logging.FileHandler"}}
    handlers["x"] |= {"filename": str(mark)}
    config = {"version": 1, "handlers": handlers, "root": {"handlers": ["x"]}}
    file = tmp_path / "log.json"
    file.write_text(json.dumps(config))
    workspace = SimpleNamespace(get_run_dir=lambda _: "", get_log_config_file_path=lambda: str(file))
    context = SimpleNamespace(
        get_engine=lambda: SimpleNamespace(get_workspace=lambda: workspace), get_job_id=lambda: "a-job"
    )
    for sent in (json.dumps(config), config, str(file), "51", "handlers"):
        said = module.ConfigureJobLogCommand().process(sent, context)
        assert "only supports log levels" in said
    assert not mark.exists()
