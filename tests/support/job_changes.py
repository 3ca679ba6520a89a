"""Jobs without code that are not what the recipe makes, by what of them is refused; changes of a deployed app."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import read_json
from pneumonia_fl.fl.parent.expected_job import SERVER_FILE, SITE_FILE

Change = Callable[[Path], None]
MARK = "pneumonia_fl_mark"
TOUCH = {"args": ["touch", MARK]}
"""What a class that runs commands would do with its arguments: make a file that must not be there."""


def edit(file: str, change: Callable[[Any], object]) -> Change:
    def apply(app: Path) -> None:
        values = read_json(app / file)
        change(values)
        (app / file).write_text(json.dumps(values))

    return apply


def component(name: str, **values: object) -> Change:
    """Change a component of the server's half."""

    def change(config: Any) -> None:
        (found,) = [one for one in config["components"] if one["id"] == name]
        found.update(values)

    return edit(SERVER_FILE, change)


def argument(name: str, **values: object) -> Change:
    """Change arguments of a component of the server's half."""

    def change(config: Any) -> None:
        (found,) = [one for one in config["components"] if one["id"] == name]
        found["args"].update(values)

    return edit(SERVER_FILE, change)


def renamed(old: str, new: str) -> Change:
    def apply(app: Path) -> None:
        (app / new).parent.mkdir(parents=True, exist_ok=True)
        (app / old).rename(app / new)

    return apply


def added(name: str, content: str = "{}") -> Change:
    def apply(app: Path) -> None:
        (app / name).parent.mkdir(parents=True, exist_ok=True)
        (app / name).write_text(content)

    return apply


def linked(name: str) -> Change:
    def apply(app: Path) -> None:
        content = app / name
        shutil.copy(content, app.parent / "elsewhere")
        content.unlink()
        content.symlink_to(app.parent / "elsewhere")

    return apply


def site(change: Callable[[Any], object]) -> Change:
    return edit(SITE_FILE, change)


def executor(config: Any) -> Any:
    return config["executors"][0]["executor"]


def referred(app: Path) -> None:
    """The class of the model stands elsewhere in the configuration."""
    edit(SERVER_FILE, lambda config: config.update(C="subprocess.Popen"))(app)
    argument("persistor", model={"config_type": "dict", "path": "{C}", "args": TOUCH})(app)


REFUSED: dict[str, Change] = {
    "a reference to another value": referred,
    "a class below a mapping": argument(
        "persistor", model={"config_type": "dict", "path": "x.Y", "args": {}}
    ),
    "a checkpoint that may hold code": argument("persistor", load_weights_only=False),
    "a checkpoint of the job's own choice": argument("persistor", source_ckpt_file_full_name="w.pt"),
    "weights that nothing names": added("config/weights/initial.safetensors"),
    "weights under a path": argument("persistor", weights="../../startup/server.key"),
    "a file name of the job's own choice": argument("persistor", global_model_file_name="{WORKSPACE}/x"),
    "an environment file": added("config/environment.json", '{"APP_CKPT": "w.pt"}'),
    "a configuration in another format": renamed(SERVER_FILE, "config/config_fed_server.conf"),
    "a second configuration in another format": added("config/config_fed_server.conf"),
    "a configuration in a sub-folder": added("config/sub/config_fed_server.json"),
    "an empty sub-folder": lambda app: (app / "config" / "sub").mkdir(),
    "a configuration that is a link": linked(SERVER_FILE),
    "no configuration for the server": lambda app: (app / SERVER_FILE).unlink(),
    "no configuration for sites": lambda app: (app / SITE_FILE).unlink(),
    "a configuration that is not JSON": added(SERVER_FILE, "{"),
    "a configuration that nests without end": added(SERVER_FILE, "[" * 100_000),
    "a configuration that is a list": added(SITE_FILE, "[]"),
    "code": added("custom/x.py", ""),
    "a class that the recipe does not use": component(
        "journal_receiver", path="subprocess.Popen", args=TOUCH
    ),
    "NVFlare's own persistor": component(
        "persistor", path="nvflare.app_opt.pt.file_model_persistor.PTFileModelPersistor"
    ),
    "one more component": edit(SERVER_FILE, lambda c: c["components"].append({"id": "x", "path": "x.Y"})),
    "a component that is switched off": component("journal_receiver", disabled=True),
    "one component less": edit(SERVER_FILE, lambda c: c["components"].pop()),
    "an argument that the recipe does not set": argument(
        "mlflow_receiver", tracking_uri="http://127.0.0.1:1"
    ),
    "a variable of the environment": argument("mlflow_receiver", experiment="{$HOME}"),
    "a job to resume that is a path": argument("tensorboard_receiver", resume_from="../../startup"),
    "a filter": edit(SERVER_FILE, lambda c: c["task_data_filters"].append({"path": "x.Y"})),
    "a top-level key": edit(SERVER_FILE, lambda c: c.update(x=1)),
    "a component at a site": site(lambda c: c["components"].append({"id": "x", "path": "x.Y", "args": {}})),
    "a tracking server at a site": site(
        lambda c: c["components"].append(
            {
                "id": "m",
                "path": "nvflare.app_opt.tracking.mlflow.mlflow_receiver.MLflowReceiver",
                "args": {"tracking_uri": "http://127.0.0.1:1/{$HOME}"},
            }
        )
    ),
    "a command": site(lambda c: executor(c)["args"].update(command="x")),
    "another executor": site(lambda c: executor(c).update(path="x.Y")),
    "a setting of another type": site(lambda c: executor(c)["args"]["settings"].update(rounds="1")),
    "a setting that is left out": site(lambda c: executor(c)["args"]["settings"].pop("cross_site")),
    "a setting that is a path": site(lambda c: executor(c)["args"]["settings"].update(name="/srv/evil=1.pt")),
    "an unknown setting": site(lambda c: executor(c)["args"]["settings"].update(x=1)),
    "settings that are no mapping": site(lambda c: executor(c)["args"].update(settings=[{}])),
    "settings that are text": site(lambda c: executor(c)["args"].update(settings="rounds=1")),
    "a round that waits for another time": site(lambda c: executor(c)["args"].update(result_timeout=1.5)),
    "an upload time that is no number": site(lambda c: c.update(submit_task_result_timeout="{x}")),
    "other rounds at the server": edit(
        SERVER_FILE, lambda c: c["workflows"][0]["args"].update(num_rounds=99)
    ),
    "a site that is a path": edit(SERVER_FILE, lambda c: c["workflows"][0]["args"].update(sites=["../x"])),
}
