"""Every site gets a share of the official test set that looks like its own patients."""

from pneumonia_fl.data.prepare.partition import PatientGroup
from pneumonia_fl.data.prepare.test_assignment import deal_test

SITES = ("a", "b")


def people(prefix: str, label: int, count: int, hospital: int | None = None) -> list[PatientGroup]:
    subtype = "bacterial" if label else "normal"
    return [PatientGroup(f"{prefix}{index}", 1, label, subtype, hospital) for index in range(count)]


def test_each_class_is_dealt_out_in_the_sites_shares_of_it() -> None:
    pool = [*people("n", 0, 40), *people("p", 1, 40)]
    site_of = {
        group.patient: "a" if group.label else ("a", "b")[int(group.patient[1:]) < 30] for group in pool
    }
    test = [*people("tn", 0, 20), *people("tp", 1, 10)]
    home = deal_test(pool, site_of, test, SITES, seed=7)
    assert {home[group.patient] for group in test if group.label} == {"a"}
    assert [home[group.patient] for group in test if not group.label].count("b") == 15


def test_patients_of_a_named_hospital_go_to_its_site() -> None:
    pool = [*people("x", 0, 5, hospital=0), *people("y", 0, 5, hospital=1)]
    site_of = {group.patient: SITES[group.hospital or 0] for group in pool}
    test = [*people("s", 0, 3, hospital=1), *people("t", 1, 3, hospital=0)]
    home = deal_test(pool, site_of, test, SITES, seed=7)
    assert [home[group.patient] for group in test if group.hospital == 1] == ["b"] * 3
    # The pool has no pneumonia at all: all that is known is where patients are.
    assert set(home) == {group.patient for group in test}


def test_the_order_of_the_patients_does_not_matter() -> None:
    pool = [*people("n", 0, 9), *people("p", 1, 9)]
    site_of = {group.patient: SITES[index % 2] for index, group in enumerate(pool)}
    test = [*people("tn", 0, 7), *people("tp", 1, 8)]
    assert deal_test(pool, site_of, test, SITES, 3) == deal_test(pool[::-1], site_of, test[::-1], SITES, 3)
