"""The server's stores inside its kit, wherever the kit lies."""

from pathlib import Path

from nvflare.app_common.storages.filesystem_storage import FilesystemStorage


class KitStorage(FilesystemStorage):
    """NVFlare's file storage in a folder below the kit.

    NVFlare wants an absolute path in `local/resources.json`, which would tie a kit to the machine that made it. The
    server and its jobs run in the kit's folder, so that a relative path finds it.
    """

    def __init__(self, folder: str = ".") -> None:
        super().__init__(root_dir=str(Path(folder).absolute()))
