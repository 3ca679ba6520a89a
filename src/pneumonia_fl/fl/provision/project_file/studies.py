"""The `studies:` of project.yml: which sites and people a study has beside those of everybody."""

from collections.abc import Mapping, Set

from nvflare.apis.utils.format_check import name_check

from pneumonia_fl.fl.provision.project_file.yaml_lines import Marked


def check_studies(studies: Marked, sites: Mapping[str, str], people: Set[str]) -> None:
    """Check the studies' keys, types and names.

    Args:
        studies: the value of `studies:`.
        sites: org of every site of the project.
        people: every person of the project.

    Raises:
        ConfigError: something in it is unknown or wrong; the message names the line.
    """
    for name, study in studies.pairs("studies"):
        if name_check(name.text(), "study")[0] or name.text() == "default":
            name.fail(
                f"a study cannot be called {name.value!r}: lower-case letters, digits, - and _; not default"
            )
        if study.value is not None:
            _check_study(study, sites, people)


def _check_study(study: Marked, sites: Mapping[str, str], people: Set[str]) -> None:
    fields = study.fields({"site_orgs", "admins"}, "a study")
    if "site_orgs" in fields:
        for org, members in fields["site_orgs"].pairs("site_orgs"):
            for site in members.items():
                if sites.get(site.text()) != org.value:
                    site.fail(f"the project has no site {site.value!r} of org {org.value!r}")
    for person in fields["admins"].items() if "admins" in fields else ():
        if person.text() not in people:
            person.fail(f"the project has no person {person.value!r}")
