"""What `dataset.json` says of a prepared data set, for tests that prepare none."""

from pneumonia_fl.config.sections import Preprocess
from pneumonia_fl.data.manifest import DatasetInfo, Row, count

ROW = Row("a/b, c.jpeg", 1, "PNEUMONIA/person1", "viral", "train", "site-1", "val", "ab" * 32, 40, 32, "zip")
SITES = ("north", "south", "west")


def info(**changes: object) -> DatasetInfo:
    values = {
        "source": "zip",
        "licence": "CC BY 4.0",
        "credit": "somebody",
        "seed": 7,
        "partition": "iid",
        "preprocess": Preprocess(size=32),
        "sites": ("site-1",),
        "counts": count([ROW]),
        "quarantined": 0,
        "duplicates": 0,
        "patient_overlap_with_test": 0,
        "manifest_sha256": "",
        "poolable": True,
    }
    return DatasetInfo.model_validate(values | changes)


def three_sites(preprocess: Preprocess | None = None, sites: tuple[str, ...] = SITES) -> DatasetInfo:
    """Sites with 40 training images each."""
    train = {"NORMAL": 10, "PNEUMONIA": 30}
    return info(
        preprocess=preprocess or Preprocess(size=64, interpolation="box"),
        sites=sites,
        counts={site: {"train": train, "val": {"NORMAL": 1, "PNEUMONIA": 1}} for site in sites},
        manifest_sha256="0" * 64,
    )
