"""What the job sets for single sites, for the report and the model card."""

from pneumonia_fl.report.figures.site_lines import MANY_SITES
from pneumonia_fl.runs.record import RunRecord


def own_settings(run: RunRecord) -> list[tuple[str, str]]:
    """Return a line per site with settings of its own; of many sites only how many they are."""
    found = run.own_settings()
    if len(found) > MANY_SITES:
        return [("At single sites", f"{len(found):,} sites have settings of their own")]
    return [(f"At {site} only", words) for site, words in found]
