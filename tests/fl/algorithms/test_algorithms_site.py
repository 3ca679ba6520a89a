import shutil
import stat
from pathlib import Path

import pytest
import torch
from hooks import TRAIN, Hospital, arrays, message, network, weights
from torch import nn

from pneumonia_fl.config.algorithm import Algorithm
from pneumonia_fl.config.environment import SITE_STATE_VARIABLE, set_site_defaults
from pneumonia_fl.config.sections import MODEL_NAMES, ModelConfig, Preprocess
from pneumonia_fl.errors import ConfigError
from pneumonia_fl.fl.algorithms.site_base import proximal_term
from pneumonia_fl.fl.protocol.update_checks import problem_of
from pneumonia_fl.fl.state.site_state import SiteState
from pneumonia_fl.models.architectures import build_model, normalisation_keys
from pneumonia_fl.models.checkpoint import ModelCard, load_model
from pneumonia_fl.training.local import RoundContext, learning_rate

FEDAVG, FEDBN = Algorithm(name="fedavg"), Algorithm(name="fedbn")
DITTO = Algorithm(name="ditto", mu=0.5)
START = arrays(network().state_dict())
SHARED = {key: value for key, value in START.items() if not key.startswith("1.")}


pytestmark = pytest.mark.usefixtures("one_thread")


def distance(model: nn.Module, reference: nn.Module) -> float:
    pairs = zip(model.parameters(), reference.parameters(), strict=True)
    return sum(float(((a - b) ** 2).sum().detach()) for a, b in pairs)


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_the_proximal_term_is_what_a_hand_computes() -> None:
    received, model = network(), network()
    term = proximal_term(0.3, received)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.25)
        received[6].bias += 9  # the anchor is a copy of the model as it was received
        model[1].running_mean += 5  # no parameter
    count = sum(parameter.numel() for parameter in model.parameters())
    value = term(model)
    assert value.item() == pytest.approx(0.3 / 2 * count * 0.25**2, rel=1e-6)
    value.backward()
    for parameter in model.parameters():
        assert torch.allclose(parameter.grad, torch.full_like(parameter, 0.3 * 0.25))


@pytest.mark.parametrize("mu", [0.5, 5.0])
def test_a_site_moves_less_with_the_proximal_term(mu: float, tmp_path: Path) -> None:
    free = Hospital("a", FEDAVG, tmp_path, 1)
    held = Hospital("a", Algorithm(name="fedprox", mu=mu), tmp_path, 1)
    for site in (free, held):
        site.answer(message(START, 0))
    assert 0 < distance(held.model, network()) < distance(free.model, network())


def test_after_step_hears_the_rate_of_every_step(tmp_path: Path) -> None:
    site, rates = Hospital("a", FEDAVG, tmp_path, 1), []
    site.fit(network(), RoundContext("a", 1, 4), after_step=rates.append)
    steps = 2 * 3
    assert rates == [learning_rate(TRAIN, (1 + (step + 0.5) / steps) / 4) for step in range(steps)]
    assert len(set(rates)) == steps


@pytest.mark.parametrize(
    ("name", "norm"), [*((name, "batch") for name in MODEL_NAMES), ("small_resnet", "group")]
)
def test_the_server_of_fedbn_has_everything_but_normalisation(name: str, norm: str) -> None:
    model, server = build_model(name, norm, 32, seed=3), build_model(name, "none", 32, seed=3)
    keys = normalisation_keys(model)
    assert set(model.state_dict()) - keys == set(server.state_dict())
    assert all(torch.equal(model.state_dict()[key], value) for key, value in server.state_dict().items())
    assert bool(keys) == (name != "pneumonia_network")
    buffers = {key for key, _ in model.named_buffers()}
    assert buffers <= keys, "nothing else has running statistics"


def test_with_fedbn_normalisation_stays_and_the_rest_is_shared(tmp_path: Path) -> None:
    sites = [Hospital(name, FEDBN, tmp_path / name, seed) for seed, name in enumerate("ab", start=1)]
    sent = SHARED
    for number in range(3):
        answers = [site.answer(message(sent, number)) for site in sites]
        assert all(answer.params.keys() == SHARED.keys() for answer in answers)
        assert all(problem_of(answer.params, 18, sent) == "" for answer in answers)
        sent = {key: sum(answer.params[key] for answer in answers) / 2 for key in sent}
        trained = [weights(site.model) for site in sites]
        for site, before in zip(sites, trained, strict=True):
            site.begin(message(sent, number + 1))
            now = site.model.state_dict()
            for key, value in before.items():
                wanted = torch.as_tensor(sent[key]) if key in sent else value
                assert torch.equal(now[key], wanted), key
    first, second = (site.model.state_dict() for site in sites)
    assert not torch.equal(first["1.running_mean"], second["1.running_mean"])
    assert not torch.equal(first["1.weight"], second["1.weight"])


@pytest.mark.parametrize("settings", [FEDBN, DITTO], ids=["fedbn", "ditto"])
def test_a_restarted_trainer_goes_on_bit_for_bit(settings: Algorithm, tmp_path: Path) -> None:
    through = Hospital("a", settings, tmp_path / "through", 1)
    restarted = Hospital("a", settings, tmp_path / "restarted", 1)
    start = SHARED if settings is FEDBN else START
    for number in range(3):
        for site in (through, restarted):
            site.answer(message(start, number))
        own = [site.algorithm.own_model(site.model) for site in (through, restarted)]
        assert equal(own[0].state_dict(), own[1].state_dict())
        restarted.restart()


@pytest.mark.parametrize("settings", [FEDBN, DITTO], ids=["fedbn", "ditto"])
def test_a_round_that_is_done_again_begins_where_it_began(settings: Algorithm, tmp_path: Path) -> None:
    site, start = Hospital("a", settings, tmp_path, 1), SHARED if settings is FEDBN else START
    site.answer(message(start, 0))
    site.answer(message(start, 1))
    once = weights(site.algorithm.own_model(site.model))
    site.restart()
    site.answer(message(start, 1))
    assert equal(weights(site.algorithm.own_model(site.model)), once)


def test_a_site_that_lost_its_normalisation_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Hospital("a", FEDBN, tmp_path / "a", 1)
    site.answer(message(SHARED, 0))
    shutil.rmtree(tmp_path / "a")
    site.restart()
    site.begin(message(SHARED, 1))
    assert "no normalisation of its own yet" in caplog.text


def test_the_global_model_of_ditto_is_that_of_fedavg_bit_for_bit(tmp_path: Path) -> None:
    sites = {settings.name: Hospital("a", settings, tmp_path, 1) for settings in (FEDAVG, DITTO)}
    sent = START
    for number in range(3):
        answers = {name: site.answer(message(sent, number)) for name, site in sites.items()}
        plain, ditto = answers["fedavg"].params, answers["ditto"].params
        assert all((plain[key] == ditto[key]).all() for key in sent)
        sent = plain


def test_the_own_model_of_ditto_is_trained_with_the_proximal_term(tmp_path: Path) -> None:
    site, by_hand = Hospital("a", DITTO, tmp_path, 1), network()
    sent = START
    for number in range(2):
        anchor = [torch.as_tensor(sent[name]) for name, _ in by_hand.named_parameters()]

        def term(model: nn.Module, anchor: list[torch.Tensor] = anchor) -> torch.Tensor:
            pairs = zip(model.parameters(), anchor, strict=True)
            return DITTO.mu / 2 * torch.stack([((v - w) ** 2).sum() for v, w in pairs]).sum()

        site.fit(by_hand, RoundContext("a/own", number, 6), penalty=term)
        sent = site.answer(message(sent, number)).params
        own = site.algorithm.own_model(site.model)
        for mine, his in zip(own.parameters(), by_hand.parameters(), strict=True):
            assert torch.allclose(mine, his, atol=1e-6)
    assert distance(own, site.model) > 0


def test_nothing_of_the_own_model_travels(tmp_path: Path) -> None:
    site = Hospital("a", DITTO, tmp_path, 1)
    answer = site.answer(message(START, 0))
    assert answer.meta == {"client_name": "a", "NUM_STEPS_CURRENT_ROUND": 36}
    assert all((answer.params[key] == value.numpy()).all() for key, value in site.model.state_dict().items())


def test_a_real_site_keeps_its_state_below_its_kit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (SITE_STATE_VARIABLE, "PNEUMONIA_FL_DATA", "PNEUMONIA_FL_THREADS", "OMP_WAIT_POLICY"):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable)
    set_site_defaults("clinic", None, None, tmp_path / "kit", {})
    state = SiteState.of("clinic", "b1ef")
    state.save(0, {"x": torch.ones(2)})
    assert state.folder == tmp_path / "kit" / "b1ef"
    assert stat.S_IMODE(state.folder.stat().st_mode) == 0o700
    assert SiteState.of("clinic", "b1ef").load(0)["x"].tolist() == [1, 1]
    assert SiteState.of("clinic", "another").load(0) == {}


@pytest.mark.parametrize("job", ["", "..", "a/b", "x" * 81])
def test_only_a_job_id_names_a_folder(job: str) -> None:
    with pytest.raises(ConfigError, match="not a job id"):
        SiteState.of("clinic", job)


def test_without_a_folder_only_what_needs_one_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SITE_STATE_VARIABLE, raising=False)
    state = SiteState.of("clinic", "job")
    Hospital("a", FEDAVG, Path(), 1).algorithm.begin(network(), message(START, 0), state)
    with pytest.raises(ConfigError, match=f"{SITE_STATE_VARIABLE} is not set"):
        Hospital("a", DITTO, Path(), 1).algorithm.begin(network(), message(START, 0), state)


def test_the_best_own_model_is_kept_with_its_card(tmp_path: Path) -> None:
    state = SiteState(tmp_path / "site")
    judged = [(0.7, 0.6), (0.9, 0.5), (0.9, 0.4), (0.9, 0.45), (None, 0.1)]
    for number, (auroc, loss) in enumerate(judged, start=1):
        card = ModelCard(
            job="ditto",
            round=number,
            seed=7,
            model=ModelConfig(),
            preprocess=Preprocess(size=32),
            metrics={"auroc": auroc, "loss": loss},
        )
        state.keep_if_better(build_model(size=32, seed=number), card)
    kept, card = load_model(tmp_path / "site" / "model")
    assert card.round == 3
    assert equal(weights(kept), weights(build_model(size=32, seed=3)))
