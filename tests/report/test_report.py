"""The report from recorded folders: what it says, what it must not say, and what it does with half a run."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from run_folders import SITES, add_cross_site, add_evaluation, write_comparison, write_json, write_run

from conftest import read_json
from pneumonia_fl import DISCLAIMER
from pneumonia_fl.errors import OutputError, RunError
from pneumonia_fl.evaluation.comparison import _verdict
from pneumonia_fl.metrics.calibration import shift_notes
from pneumonia_fl.report.build import build_report
from pneumonia_fl.report.comparison.comparison_summary import answer
from pneumonia_fl.report.figures.png import learning_curves
from pneumonia_fl.report.run_folder_reader import without_paths
from pneumonia_fl.report.view.rendering import markdown, sentences

SECTIONS = [
    "summary", "warnings", "performance", "subtypes", "sites", "cross-site", "training", "data", "cost", "limits",
    "repeat",
]  # fmt: skip
VOID = {"meta", "link", "br", "img", "hr"}


class Outline(HTMLParser):
    """What a page holds; complains where tags do not close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sections: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.addresses: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        if tag == "section":
            self.sections.append(str(values["id"]))
        self.addresses += [str(values[key]) for key in ("href", "src", "xlink:href") if key in values]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def outline(folder: Path) -> Outline:
    return Outline(build_report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything; do not change it."""
    run = write_run(tmp_path_factory.mktemp("report") / "full")
    add_evaluation(run, shift=0.9)
    add_evaluation(run, shift=0.9)
    add_cross_site(run)
    return run


@pytest.fixture
def run(full: Path, tmp_path: Path) -> Path:
    """The same, to break."""
    return Path(shutil.copytree(full, tmp_path / "run"))


@pytest.fixture(scope="module")
def page(full: Path) -> Outline:
    return outline(full)


def test_every_section_is_there_in_an_order_for_readers(page: Outline) -> None:
    assert page.sections == SECTIONS
    assert page.tags.count("figure") >= 11
    assert page.text.count(DISCLAIMER) == 2


def test_the_headline_has_the_numbers_of_the_test_split(full: Path, page: Outline) -> None:
    values = read_json(full / "evaluations" / "test-02.json")
    for key in ("auroc", "sensitivity", "specificity"):
        low, high = values["intervals"][key]
        assert f"{values['metrics'][key]:.3f} 95 % CI {low:.3f} to {high:.3f}" in page.text
    found = round(100 * values["metrics"]["sensitivity"])
    assert f"Of 100 children with pneumonia it finds {found}" in page.text
    assert "200 test images of 100 patients" in page.text


def test_a_shift_from_validation_to_test_is_said_in_words(full: Path, page: Outline) -> None:
    values = read_json(full / "evaluations" / "test-02.json")
    before, after = values["validation"]["specificity"], values["metrics"]["specificity"]
    said = f"specificity fell from {before:.2f} to {after:.2f}".replace(" 0.", " .")
    assert f"Validation-to-test shift: {said}, more than chance explains." in page.text


@pytest.mark.parametrize("move", [-1.5, -0.4, 0.0, 0.4, 0.9])
def test_the_report_and_the_command_line_agree_whether_the_operating_point_held(
    tmp_path: Path, move: float
) -> None:
    run = write_run(tmp_path / "run")
    values = read_json(add_evaluation(run, shift=move))
    text, notes = outline(run).text, shift_notes(values)
    said = dict(re.findall(r"Validation-to-test shift: (\w+) (held|fell|rose)", text))
    printed = dict(re.findall(r"^(\w+) (held|fell|rose)", "\n".join(notes), re.MULTILINE))
    assert set(printed) == {"sensitivity", "specificity"}
    assert [name for name in printed if printed[name] != said.get(name, "held")] == []


def test_a_test_split_that_was_read_twice_is_no_longer_unseen(page: Outline) -> None:
    assert "The test split (zip) was read 2 times." in page.text
    assert "nor any choice has seen" not in page.text


def test_where_every_count_and_hash_comes_from(full: Path, page: Outline) -> None:
    counts = read_json(full / "model" / "model_card.json")["data"]["counts"]
    for site, splits in counts.items():
        for split, images in splits.items():
            assert f"{site}, {split} {images['NORMAL']} {images['PNEUMONIA']}" in page.text
    for digest in ("ab" * 32, "1" * 64, "3" * 64):
        assert digest in page.text


def test_equal_folders_give_equal_bytes(full: Path, run: Path) -> None:
    first, second = build_report(full), build_report(run)
    assert first.read_bytes() == second.read_bytes()
    assert (full / "model_card.md").read_bytes() == (run / "model_card.md").read_bytes()


def test_the_page_asks_for_nothing_and_runs_nothing(full: Path, page: Outline) -> None:
    assert "script" not in page.tags
    assert not [address for address in page.addresses if not address.startswith(("#", "data:"))]
    text = (full / "report.html").read_text()
    assert not re.findall(r"@import|url\((?!#)", text)
    assert "default-src 'none'" in text


def test_names_inside_the_drawings_are_unique_on_the_page(full: Path, page: Outline) -> None:
    assert page.tags
    names = re.findall(r' id="([^"]+)"', (full / "report.html").read_text())
    assert len(names) == len(set(names))


def test_no_patient_no_path_no_address(run: Path) -> None:
    about = read_json(run / "run.json") | {"state": "failed", "submitter": "lead@consortium.org"}
    about["error"] = "no space left for /home/someone/secret folder; see /srv/fl/runs/a/logs/site-1.txt"
    about["mlflow"] = {"uri": "https://tracker.example/mlflow", "undelivered": 3}
    write_json(run / "run.json", about)
    text = build_report(run).read_text() + (run / "model_card.md").read_text()
    for secret in ("secret-patient", str(run), "/home", "/srv", "lead@", "tracker.example"):
        assert secret not in text, secret
    assert "site-1.txt" in text


def test_paths_are_cut_and_words_are_not() -> None:
    assert without_paths("see /a/b/c.txt and C:\\x\\y.log; 3/4, and/or") == "see c.txt and y.log; 3/4, and/or"


def test_a_name_cannot_become_markup(tmp_path: Path) -> None:
    name = "<script>alert(1)</script>|$x$&"
    run = write_run(tmp_path / "run", sites=(name, "b"), rounds=1)
    page = outline(run)
    assert "script" not in page.tags
    assert name in page.text
    assert "<script" not in (run / "model_card.md").read_text()


@pytest.mark.parametrize("text", ["<script>x()</script>", "\"'><img src=x onerror=x()>", "```\n<img src=x>"])
def test_no_text_of_a_run_becomes_markup(run: Path, page: Outline, text: str) -> None:
    for name in ("run.json", "journal.jsonl", "metrics.json", "model/model_card.json"):
        content = (run / name).read_text()
        for known in ("fedavg", "zip", "CC BY 4.0", "Somebody (2018)", "site-1"):
            content = content.replace(json.dumps(known), json.dumps(text))
        (run / name).write_text(content)
    write_json(run / "run.json", read_json(run / "run.json") | {"state": "failed", "error": f"why: {text}"})
    made, shown = outline(run), " ".join(text.split())
    assert set(made.tags) <= set(page.tags) - {"script"}
    assert f"Run of {shown}" in made.text
    assert f"why: {shown}" in made.text
    assert not re.search(r"<[^>]*\son\w+=", (run / "report.html").read_text())
    card = MarkdownIt("commonmark").enable("table").render((run / "model_card.md").read_text())
    assert not re.search("<(script|img)", card)


@pytest.mark.parametrize(
    "text",
    ["[mail](https://x.example)", "![](http://x.example/p.png)", "\\[a](b)", "<http://x.example>", "www.x.example",
     "https://x.example", "me@x.example", "# heading", "a\n# heading", "--- ", "=== ", "`code`", "a|b", "[a]: b",
     "<img src=x>"],
)  # fmt: skip
def test_text_of_others_makes_no_link_picture_heading_or_line_in_the_model_card(text: str) -> None:
    line = markdown(text)
    made = MarkdownIt("commonmark").enable("table").render(f"{line}\n\n- {line}\n")
    assert "<" not in re.sub(r"</?(p|ul|li)>", "", made), made
    assert not re.search(r"://|www\.|@|(?<!\\)\|", line), "GitHub makes a link, or a cell, of this"


def test_links_in_a_run_folder_are_replaced_and_their_targets_kept(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("untouched")
    files = [run / name for name in ("report.html", "model_card.md", "curves.png")]
    for file in files:
        file.unlink(missing_ok=True)
        file.symlink_to(target)
    build_report(run)
    learning_curves(read_json(run / "metrics.json"), files[-1])
    assert target.read_text() == "untouched"
    assert not any(file.is_symlink() for file in files)


def test_validation_alone_is_called_too_good(tmp_path: Path) -> None:
    text = outline(write_run(tmp_path / "run")).text
    assert "Never measured on a test split" in text
    assert "which also chose the model and its threshold" in text
    assert "only pooled counts of scores leave the sites, so there are no intervals" in text


MISSING = {
    "config.yml": "config.yml is missing",
    "metrics.json": "metrics.json is missing",
    "journal.jsonl": "journal.jsonl is missing",
    "model/model_card.json": "the run left no best model",
    "evaluations": "Never measured on a test split",
    "cross_site.json": "In short",
}


@pytest.mark.parametrize(("name", "words"), MISSING.items(), ids=list(MISSING))
def test_what_is_missing_is_named_and_the_rest_is_shown(run: Path, name: str, words: str) -> None:
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = outline(run)
    assert words in page.text
    assert {"summary", "warnings", "data", "limits", "repeat"} <= set(page.sections)


def test_a_run_of_which_only_its_state_is_left(run: Path) -> None:
    for path in run.iterdir():
        if path.name != "run.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    text = outline(run).text
    assert "There is no model to judge" in text
    assert "How many images there were is not known" in text


FILES = ("run.json", "metrics.json", "model/model_card.json", "evaluations/test-02.json", "cross_site.json")
JUNK = (7, "x", [1], {"x": None}, True)


@pytest.mark.parametrize("turn", range(len(JUNK)))
def test_values_of_another_kind_never_stop_the_report(run: Path, turn: int) -> None:
    for name in FILES:
        keys = read_json(run / name)
        write_json(run / name, {key: JUNK[(turn + place) % len(JUNK)] for place, key in enumerate(keys)})
    page, card = outline(run), (run / "model_card.md").read_text()
    assert page.sections[:2] == ["summary", "warnings"]
    assert "# Model card" in card
    unmade = page.text.count("This part could not be made")
    assert card.count("this part could not be made") == unmade > 0


def test_damaged_files_are_named(run: Path) -> None:
    damaged = [*FILES[1:], "config.yml"]
    for name in damaged:
        (run / name).write_text('{"half": [1, 2')
    text = outline(run).text
    assert not [name for name in damaged if f"{Path(name).name} " not in text]


def test_a_torn_journal_counts_as_far_as_it_goes(run: Path) -> None:
    with (run / "journal.jsonl").open("a") as file:
        file.write('{"event": "glo')
    page = outline(run)
    assert re.search(r"1 of \d+ lines of journal.jsonl cannot be read", page.text)
    assert "training" in page.sections


def test_a_loss_without_its_value_costs_no_section(run: Path) -> None:
    with (run / "journal.jsonl").open("a") as file:
        file.write('{"event": "loss"}\n')
    assert "could not be" not in outline(run).text


def test_a_run_of_the_version_before_had_no_offset(run: Path) -> None:
    card = read_json(run / "model" / "model_card.json") | {"version": 2}
    del card["offset"]
    write_json(run / "model" / "model_card.json", card)
    assert "its probabilities are calibrated by a temperature alone" in outline(run).text


def test_a_run_of_an_older_version(run: Path) -> None:
    card = read_json(run / "model" / "model_card.json") | {"version": 1}
    for key in ("temperature", "offset", "operating_point"):
        del card[key]
    write_json(run / "model" / "model_card.json", card)
    metrics = read_json(run / "metrics.json")
    for entry in metrics["rounds"]:
        for values in [entry["global"], *entry["sites"].values()]:
            del values["f1"]
    del metrics["problems"], metrics["missing"]
    write_json(run / "metrics.json", metrics)
    text = outline(run).text
    assert "saved by an older version: its probabilities are not calibrated" in text
    assert "F1 by round is not known" in text


def test_a_run_that_failed_after_round_1(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", state="failed")
    write_json(run / "run.json", read_json(run / "run.json") | {"error": "site site-2: out of memory"})
    metrics = read_json(run / "metrics.json")
    metrics["rounds"] = metrics["rounds"][:2]
    metrics["rounds"][1]["global"] = None
    write_json(run / "metrics.json", metrics)
    shutil.rmtree(run / "model")
    page = outline(run)
    assert "The run failed after round 0 of 4: site site-2: out of memory" in page.text
    assert "training" in page.sections


def test_a_site_with_one_class_and_a_site_with_three_images(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", images=3, ill=(0.0, 0.6, 0.6), rounds=2)
    text = outline(run).text
    assert "site-1 has one class only in its training images (no PNEUMONIA)." in text
    assert "site-2 trained on 12 images only." in text
    assert "on the validation split" in text


def test_a_test_split_of_one_class(run: Path) -> None:
    shutil.rmtree(run / "evaluations")
    add_evaluation(run, images=12, ill=0.0)
    text = outline(run).text
    assert "The test split has no pneumonia image: AUROC and one of the two rates do not exist." in text
    assert "Only 6 patients on the test split" in text


def test_sites_that_were_late_refused_or_never_there(run: Path) -> None:
    metrics = read_json(run / "metrics.json") | {"missing": ["site-3"]}
    late = {"round": 1, "site": "site-2", "state": "late", "problem": "no answer in time"}
    metrics["problems"] = [late, late | {"round": 2}]
    write_json(run / "metrics.json", metrics)
    text = outline(run).text
    assert "Never contributed: site-3. The model has learned nothing from that site." in text
    assert "site-2 was late in 2 rounds: no answer in time" in text


def test_drawn_images_prove_nothing_and_are_called_so(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", source="synthetic", rounds=1)
    text = outline(run).text
    assert text.index("Trained on drawn images") < text.index("AUROC · validation"), "above the big numbers"
    assert "Of 100 drawn images with pneumonia it finds" in text
    assert "drawn validation images" in text
    assert "100 children" not in text
    assert "drawn picture" in (run / "model_card.md").read_text()


def test_a_serious_warning_stands_above_the_numbers_and_only_there(tmp_path: Path, run: Path) -> None:
    said = "Never measured on a test split"
    page = outline(write_run(tmp_path / "validated", rounds=1))
    assert page.text.count(said) == 1
    assert page.text.index("In short") < page.text.index(said) < page.text.index("AUROC · validation")
    assert said in (tmp_path / "validated" / "model_card.md").read_text()
    assert "AUROC · test" in outline(run).text


def test_no_number_of_a_site_at_another_threshold_stands_unmarked(full: Path, page: Outline) -> None:
    part = page.text.partition("Each row is a model")[0].rpartition("The model that was saved")[2]
    assert part.index("Another threshold: .5, before calibration") < part.index("Sensitivity")
    card = read_json(full / "model" / "model_card.json")
    assert f"the saved threshold of {card['threshold']:.3f}" in part


def test_seconds_are_counted_from_the_first_round_of_training(page: Outline) -> None:
    assert "Round of training" in page.text


@pytest.mark.parametrize("source", ["zip", "synthetic"])
def test_a_comparison_with_few_patients_tells_nothing(tmp_path: Path, source: str) -> None:
    folder = write_comparison(tmp_path / "compare")
    summary = read_json(folder / "summary.json")
    summary["test"]["patients"] = 11
    summary["data"]["source"] = source
    write_json(folder / "summary.json", summary)
    text = outline(folder).text
    assert text.count("Too few patients (11) to tell from") == 2
    assert "No real difference" not in text
    assert ("100 drawn images with pneumonia" in text) == (source == "synthetic")
    assert ("100 children" in text) == (source == "zip")


@pytest.mark.parametrize(
    ("low", "high", "patients", "words"),
    [
        (-0.01, 0.02, 400, "No difference to central training is shown"),
        (-0.01, 0.02, 60, "Too few patients (60) to tell"),
        (-0.09, 0.05, 400, "Too few patients (400) to tell"),
        (0.01, 0.09, 60, "Better than central training"),
        (0.01, 0.09, 29, "Too few patients (29) to tell"),
        (-0.03, -0.01, 400, "Worse than central training"),
    ],
)
def test_an_answer_says_what_the_patients_can_say(low: float, high: float, patients: int, words: str) -> None:
    value = {"mean": (low + high) / 2, "low": low, "high": high}
    result = {"sites": 3, "best": "fedavg", "sensitivity": None, "specificity": None, "several": False}
    answers = [answer(value, "central training", patients)]
    said = sentences("comparison/clinician.txt.j2", **result, answers=answers, who="children")
    assert said[1].startswith(words)
    assert ("too few patients" in _verdict(value, patients)) == ("Too few" in words)


def test_a_model_that_is_a_mean_of_the_last_ones_is_called_so(run: Path) -> None:
    card = read_json(run / "model" / "model_card.json") | {"averaged": 3}
    write_json(run / "model" / "model_card.json", card)
    assert "the mean of the last 3 rounds" in outline(run).text


def test_twenty_sites_are_drawn_grey_and_listed(tmp_path: Path) -> None:
    sites = [f"site-{number}" for number in range(1, 21)]
    run = write_run(tmp_path / "run", sites=sites, rounds=1, images=20)
    text = outline(run).text
    assert "each of the 20 sites" in text
    assert all(f"{site}, train" in text for site in sites)


def test_a_comparison_in_words_and_numbers(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "compare")
    page, summary = outline(folder), read_json(folder / "summary.json")
    assert page.sections == [
        "summary",
        "warnings",
        "results",
        "differences",
        "sites",
        "data",
        "cost",
        "limits",
        "repeat",
    ]
    fedavg = next(arm for arm in summary["arms"] if arm["name"] == "fedavg")
    mean, sd = (fedavg["pooled"]["auroc"][key] for key in ("mean", "sd"))
    assert f"fedavg {mean:.3f} ± {sd:.3f}" in page.text
    paired = fedavg["differences"]["best_alone"]["auroc"]
    assert f"{paired['mean']:+.3f} ({paired['low']:+.3f} to {paired['high']:+.3f})" in page.text
    assert "Better than the best site alone" in page.text


def test_a_comparison_that_is_not_finished_says_so(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "compare", skip="central")
    summary = read_json(folder / "summary.json") | {"state": "partial", "cross_site": None}
    summary["arms"] = [arm for arm in summary["arms"] if arm["kind"] != "federated"]
    write_json(folder / "summary.json", summary)
    text = outline(folder).text
    assert "central was left out: marked private" in text
    assert "The comparison is not finished" in text
    assert "No federated model is trained yet" in text


def test_a_comparison_without_auroc_anywhere(tmp_path: Path) -> None:
    folder = write_comparison(tmp_path / "compare")
    summary = read_json(folder / "summary.json")
    for arm in summary["arms"]:
        for values in [arm["pooled"], *arm["sites"].values(), *arm["differences"].values()]:
            values["auroc"] = None
    write_json(folder / "summary.json", summary)
    text = outline(folder).text
    assert "one class" in text
    assert "n/a" in text


@pytest.mark.parametrize("junk", JUNK, ids=repr)
def test_a_comparison_of_another_version_is_still_a_page(tmp_path: Path, junk: Any) -> None:
    keys = (
        "version",
        "state",
        "sites",
        "seeds",
        "rounds",
        "test",
        "arms",
        "findings",
        "warnings",
        "cross_site",
        "data",
    )
    write_json(tmp_path / "summary.json", dict.fromkeys(keys, junk))
    assert outline(tmp_path).sections


def test_the_model_card_has_the_headings_of_mitchell_and_metadata(full: Path, page: Outline) -> None:
    assert page.tags
    text = (full / "model_card.md").read_text()
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == [
        "Model details", "Intended use", "Factors", "Metrics", "Evaluation data", "Training data",
        "Quantitative analyses", "Ethical considerations", "Caveats and recommendations", "Metadata",
    ]  # fmt: skip
    metadata = json.loads(text.partition("```json\n")[2].partition("```")[0])
    assert metadata["network_data_format"]["inputs"]["image"]["spatial_shape"] == [64, 64]
    assert metadata["required_packages_version"]["torch"] == "2.14.1"
    assert text.count(DISCLAIMER) == 2


def test_a_folder_that_is_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="neither a run nor a comparison folder"):
        build_report(tmp_path)


def test_a_report_that_cannot_be_written_is_an_output_error(full: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        build_report(full, tmp_path / "nowhere" / "report.html")


def test_sites_of_the_report_are_those_of_the_run(page: Outline) -> None:
    assert all(f"Manifest of {site}" in page.text for site in SITES)


def test_an_evaluation_at_the_sites_names_each_and_who_took_no_part(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    add_evaluation(run)
    file = run / "evaluations" / "test-01.json"
    alone = {
        "n": 20, "positives": 12, "patients": 9, "metrics": {"auroc": 0.912, "sensitivity": 0.75},
        "intervals": {"auroc": [0.8, 0.97]}, "readings": 3,
    }  # fmt: skip
    values = read_json(file)
    write_json(file, values | {"sites": {"asia": alone}, "missing": {"us": "takes no part in evaluations"}})
    page = outline(run).text
    for words in (
        "asia",
        "0.912",
        "0.800 to 0.970",
        "takes no part in evaluations",
        "each site drew the samples",
    ):
        assert words in page
