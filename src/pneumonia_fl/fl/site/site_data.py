"""Find a site's own images, and check that a job can use them."""

from pathlib import Path

from pneumonia_fl.config.environment import data_root
from pneumonia_fl.config.job import SiteSettings
from pneumonia_fl.data.manifest import DatasetInfo
from pneumonia_fl.data.prepare.output_folder import hold
from pneumonia_fl.errors import ConfigError, DataError


def own_root() -> Path:
    """Return the folder with the site's prepared data, locked while this process lives.

    Raises:
        ConfigError: the site has not said where it is.
    """
    root = data_root()
    if root is None:
        raise ConfigError(
            "PNEUMONIA_FL_DATA is not set; let it name the folder with this site's prepared data"
        )
    hold(root)
    return root


def check_size(data: DatasetInfo, settings: SiteSettings) -> None:
    """Refuse data that is prepared at another size.

    Raises:
        DataError: it is.
    """
    have, want = data.preprocess.size, settings.preprocess.size
    if have != want:
        raise DataError(
            f"the data is prepared at {have} px but the job wants {want} px; "
            f"prepare it with --size {want}, or submit with preprocess.size={have}"
        )
