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
    from pneumonia_fl.data.sources.labelled_item import Source
    from pneumonia_fl.findings import Finding

app = App(
    no_args_is_help=True,
    help="Fetch chest X-rays, prepare them for sites, check and view them.",
)

DataFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A prepared data set, or one site's folder.")]
SourceOption = Annotated[
    str,
    typer.Option(
        metavar="SOURCE",
        help="Folder or zip with NORMAL and PNEUMONIA folders (alone, or below train, val and test), a MedMNIST "
        ".npz, kaggle (downloaded if needed), or synthetic (with options: synthetic:images=360,size=64).",
    ),
]
SitesOption = Annotated[
    str, typer.Option(metavar="N|NAMES", help="Number of sites, or their names: a-hospital,b-hospital.")
]
PartitionOption = Annotated[
    str | None,
    typer.Option(
        metavar="HOW",
        help="How patients are distributed over the sites: iid, dirichlet:ALPHA (label skew), quantity:A,B,C "
        "(size skew), subtype (bacterial and viral skew) or natural (the source's own hospitals). Default: "
        "natural for synthetic, otherwise iid.",
    ),
]
ValOption = Annotated[float, typer.Option(help="Fraction of each site's patients held out for validation.")]
LeaksOption = Annotated[
    bool | None,
    typer.Option(
        "--drop-leaks/--stop-at-leaks",
        help="Leave out patients who share an image with the test set, or stop with an error. Default: leave "
        "out for .npz, otherwise stop.",
    ),
]
ClassesOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="CLASS=FOLDERS",
        help="Further folder names of a class: pneumonia=BACTERIA,VIRUS; repeatable.",
    ),
]
PatientsOption = Annotated[
    bool,
    typer.Option(
        "--patients-unknown",
        help="Continue although more than half of the file names do not identify the patient; each such image then "
        "counts as a patient of its own. Not needed for .npz.",
    ),
]
PoolableOption = Annotated[
    bool,
    typer.Option(
        "--poolable",
        help="Declare that the owner allows pooling these images in one place, as `compare` does. Not needed "
        "for images with a public licence.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(min=1, help="Number of decoding processes; default: one per core where that is faster."),
]


@app.command()
def fetch(
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder for the zip; default: ~/.cache/pneumonia-fl.")
    ] = None,
) -> None:
    """Download the public data set (Kermany et al., 1.2 GB, CC BY 4.0) with Kaggle's own client.

    Credentials come from KAGGLE_API_TOKEN, from KAGGLE_USERNAME and KAGGLE_KEY, or from the client's own file
    (~/.kaggle/access_token or ~/.kaggle/kaggle.json); they are never printed. The same command resumes an
    interrupted download.
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
    size: Annotated[
        int, typer.Option(metavar="PX", help="Side of the stored square images, in pixels.")
    ] = 128,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the partition and of the validation split.")] = 7,
    val_fraction: ValOption = 0.15,
    drop_leaks: LeaksOption = None,
    classes: ClassesOption = None,
    patients_unknown: PatientsOption = False,
    poolable: PoolableOption = False,
    workers: WorkersOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a prepared data set in DIR.")] = False,
    as_json: Json = False,
) -> None:
    """Prepare X-rays for training: one folder per site, split by patient, decoded once.

    Unreadable files, exact duplicates and files that are not images of a class are left out and listed in
    quarantine.csv. The source's official test set is stored in DIR/test. The same source, seed and options give the
    same bytes. After an interruption, run the same command again.
    """
    from pneumonia_fl.cli.views.progress_bars import progress_bars
    from pneumonia_fl.config.sections import Preprocess
    from pneumonia_fl.config.strict import parse
    from pneumonia_fl.data.prepare.partition import parse_sites
    from pneumonia_fl.data.prepare.pipeline import prepare as prepare_source
    from pneumonia_fl.data.sources.open_source import open_source

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
    """Check that a prepared data set is complete, unchanged and fit for training; exit code 1 when it is not.

    Checks completeness, hashes, the shape of every store, labels, patients in two sites or two splits, test images
    among the training images, and sites with one class only.
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
        typer.Option(metavar="DIR", help="Folder for the figures; default: DIR-figures beside DIR."),
    ] = None,
) -> None:
    """Draw a contact sheet per site and class, and the class balance of the sites."""
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
    """Return the next step to print; a data set of one site belongs to a hospital of a federation."""
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
