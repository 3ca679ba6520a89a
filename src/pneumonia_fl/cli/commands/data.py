"""`pneumonia-fl data …`: get chest X-rays, prepare them for sites, check and look at them."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pneumonia_fl.cli.app import App
from pneumonia_fl.cli.options import Json
from pneumonia_fl.cli.views.terminal import echo, terminal

if TYPE_CHECKING:
    from pneumonia_fl.data.manifest import DatasetInfo
    from pneumonia_fl.data.sources.base import Source
    from pneumonia_fl.findings import Finding

app = App(
    no_args_is_help=True,
    help="Get chest X-rays, prepare them for sites, check them and look at them.",
)

DataFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A prepared data set, or one site's folder.")]
SourceOption = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="A folder or zip with train, val and test folders that hold NORMAL and PNEUMONIA (or these two "
        "alone), a MedMNIST .npz, kaggle, or synthetic (more: synthetic:images=360,size=64).",
    ),
]
SitesOption = Annotated[
    str, typer.Option(metavar="N|NAMES", help="How many sites, or their names: a-hospital,b-hospital.")
]
PartitionOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="How patients are dealt out: iid, dirichlet:ALPHA (label skew), quantity:A,B,C (size skew), "
        "subtype (bacterial and viral skew), natural (the source's own hospitals). Else natural for "
        "synthetic, iid for the rest.",
    ),
]
ValOption = Annotated[
    float, typer.Option(help="Share of each site's patients that validate instead of train.")
]
LeaksOption = Annotated[
    bool | None,
    typer.Option(
        "--drop-leaks/--stop-at-leaks",
        help="Whether to leave out patients who share a picture with the test set, or to stop at the first. "
        "Else leave out for .npz, stop for the rest.",
    ),
]
ClassesOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS=FOLDERS",
        help="Folders that stand for a class besides NORMAL and PNEUMONIA: pneumonia=BACTERIA,VIRUS. Can be repeated.",
    ),
]
PatientsOption = Annotated[
    bool,
    typer.Option(
        "--patients-unknown",
        help="Go on where the names of more than half of the files do not tell the patient; each is then a patient of "
        "its own. Not needed for .npz, which never tells.",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Processes that decode; else one per core, where that is faster.")
]


@app.command()
def fetch(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the zip; else ~/.cache/pneumonia-fl.")
    ] = None,
) -> None:
    """Download the public data set (Kermany et al., 1.2 GB, CC BY 4.0) with Kaggle's own client.

    Credentials come from KAGGLE_API_TOKEN, from KAGGLE_USERNAME and KAGGLE_KEY, or from the client's own file
    (~/.kaggle/access_token or ~/.kaggle/kaggle.json); they are never printed. A broken download is taken up
    again by running the command again.
    """
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.data.sources.kaggle import default_folder
    from pneumonia_fl.data.sources.kaggle import fetch as fetch_archive

    with progress_bars() as progress:
        archive = fetch_archive(out or default_folder(), progress).resolve()
    echo(archive)
    source = "kaggle" if out is None else shlex.quote(str(archive))
    echo(f"Next: pneumonia-fl data prepare --source {source} --out data/xrays")


@app.command()
def prepare(
    *,
    source: SourceOption,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New folder for the prepared data.")],
    sites: SitesOption = "3",
    partition: PartitionOption = None,
    size: Annotated[int, typer.Option(metavar="PX", help="Side of the stored square images, pixels.")] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the partition and of the validation split.")] = 7,
    val_fraction: ValOption = 0.15,
    drop_leaks: LeaksOption = None,
    classes: ClassesOption = None,
    patients_unknown: PatientsOption = False,
    poolable: Annotated[
        bool,
        typer.Option(
            "--poolable",
            help="Their owner allows bringing these images together in one place, for `compare`; images with a "
            "public licence may be in any case.",
        ),
    ] = False,
    workers: WorkersOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a prepared data set in DIR.")] = False,
    as_json: Json = False,
) -> None:
    """Turn X-rays into what training reads: one folder per site, split by patient, decoded once.

    Unreadable files, exact copies and files that are no images of a class are left out and listed in quarantine.csv.
    The source's official test set is kept apart in DIR/test; a copy of one of its images among the others stops the
    preparation. The same source, seed and options give the same bytes. An interrupted preparation is completed by
    running it again.
    """
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.config.job import parse
    from pneumonia_fl.config.sections import Preprocess
    from pneumonia_fl.data.prepare.partition import parse_sites
    from pneumonia_fl.data.prepare.pipeline import prepare as prepare_source
    from pneumonia_fl.data.sources.registry import open_source

    names, spec = parse_sites(sites), parse(Preprocess, {"size": size}, "--size")
    with progress_bars(quiet=as_json) as progress:
        opened = open_source(source, len(names), progress, classes or ())
        info = prepare_source(
            opened,
            out,
            names,
            partition or ("natural" if opened.kind == "synthetic" else "iid"),
            spec,
            seed=seed,
            val_fraction=val_fraction,
            drop_leaks=drop_leaks,
            patients_unknown=patients_unknown or None,
            poolable=poolable,
            force=force,
            workers=workers,
            progress=progress,
        )
    if as_json:
        echo(info.model_dump_json(indent=2))
    else:
        _print_summary(info, out.resolve(), opened)


@app.command()
def check(folder: DataFolder, as_json: Json = False) -> None:
    """Say whether a prepared data set is complete, unchanged and fit for training; exit 1 when it is not.

    Looked at: completeness, hashes, the shape of every store, labels, patients in two sites or two splits,
    test images among the training images, sites with one class only.
    """
    from pneumonia_fl.data.prepare.validate import check as check_folder

    findings = check_folder(folder)
    if as_json:
        _print_findings_json(findings)
    else:
        _print_findings(findings)
    if any(finding.level == "fail" for finding in findings):
        raise typer.Exit(1)


@app.command()
def show(
    folder: DataFolder,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the pictures; else a folder DIR-figures beside DIR."),
    ] = None,
) -> None:
    """Draw what was prepared: a contact sheet per site and class, and the class balance of the sites."""
    from pneumonia_fl.data.manifest import read_info
    from pneumonia_fl.files import private_folder
    from pneumonia_fl.report.figures.contact_sheet import class_balance, contact_sheet

    read_info(folder)
    target = (out or folder.resolve().with_name(f"{folder.resolve().name}-figures")).resolve()
    private_folder(target)
    for picture in [*contact_sheet(folder, target), class_balance(folder, target / "class_balance.png")]:
        echo(picture.resolve())


def _print_summary(info: "DatasetInfo", out: Path, source: "Source") -> None:
    from pneumonia_fl.data.manifest import TEST
    from pneumonia_fl.data.prepare.validate import no_test_set, unknown_patients
    from pneumonia_fl.data.sources.kermany_layout import described

    terminal().print(_counts_table(info))
    echo(f"left out: {info.quarantined} not trusted, {info.duplicates} exact copies (quarantine.csv)")
    for line in described(source.left_out):
        echo(f"not used: {line} (quarantine.csv)")
    if set(info.bits) - {"8"}:
        depths = ", ".join(f"{bits} in {number:,} images" for bits, number in info.bits.items())
        echo(
            f"bits of a gray level: {depths}; each is scaled to 8 from its own (column bits of manifest.csv)"
        )
    if info.leaks_dropped:
        echo(f"{info.leaks_dropped} images left out: their patients have a picture in the official test set")
    if TEST not in info.counts:
        echo(no_test_set(any(item.official_split for item in source.items())))
    if info.patients_unknown:
        images = sum(sum(classes.values()) for splits in info.counts.values() for classes in splits.values())
        echo(unknown_patients(info.patients_unknown, images))
    if info.patient_overlap_with_test:
        echo(
            f"{info.patient_overlap_with_test} patient ids occur in the official test set too; "
            "the source numbers its folders separately, so they may be other people"
        )
    echo(f"licence: {info.licence}" + (f"\ncredit: {info.credit}" if info.credit else ""))
    echo(f"{out}\n{_next(info, out)}")


def _next(info: "DatasetInfo", out: Path) -> str:
    """What comes after; a single site is a hospital that prepares its own images for a federation."""
    data = shlex.quote(str(out))
    if len(info.sites) > 1:
        return f"Next: pneumonia-fl run fedavg --data {data}"
    return (
        f"Next: as site {info.sites[0]}, write `data: {out}` into local/pneumonia_fl.yml of the startup kit, then run "
        f"`pneumonia-fl doctor .` there. To train alone: pneumonia-fl run fedavg --data {data}"
    )


def _counts_table(info: "DatasetInfo") -> Any:
    from pneumonia_fl.cli.views.fitting import FittingTable
    from pneumonia_fl.data.manifest import CLASS_NAMES

    table = FittingTable(
        title=f"{info.source}, {info.partition}, {info.preprocess.size} px, seed {info.seed}"
    )
    table.add_column("site")
    table.add_column("split")
    for name in CLASS_NAMES:
        table.add_column(name, justify="right")
    for site, splits in info.counts.items():
        for split, classes in splits.items():
            table.add_row(site, split, *(f"{classes[name]:,}" for name in CLASS_NAMES))
    return table


def _print_findings(findings: "list[Finding]") -> None:
    console = terminal()
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    for finding in findings:
        console.print(f"{finding.level:<4}", style=colours[finding.level], end=" ")
        console.print(finding.message, soft_wrap=True)


def _print_findings_json(findings: "list[Finding]") -> None:
    import json
    from dataclasses import asdict

    good = all(finding.level != "fail" for finding in findings)
    echo(json.dumps({"ok": good, "findings": [asdict(finding) for finding in findings]}, indent=2))
