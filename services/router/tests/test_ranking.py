"""The order of candidates by policy, over a catalogue as it is loaded: pure, and within its budget of time."""

import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slipway_chassis.policy import PolicyDecision
from slipway_router.catalogue import Quality
from slipway_router.catalogue_file import load
from slipway_router.catalogue_resolve import References
from slipway_router.demand import Demand, with_residency
from slipway_router.eligibility import Hurdle, Permissions
from slipway_router.errors import NoModelInRegion
from slipway_router.measurements import Measurements, Performance
from slipway_router.ranking import draw_of
from slipway_router.routing import plan

ALLOWED = PolicyDecision(True, "sha256:0", ("all",))
# name: input and output price, quality, region, window
MODELS = {
    "cheap": ("0.1", "0.2", "economy", "eu", 1000),
    "middle": ("1", "2", "standard", "eu", 4000),
    "best": ("10", "20", "premium", "us", 8000),
}


def catalogue(tmp_path, **route):
    document = {
        "version": 1,
        "regions": ["eu", "us"],
        "data_classes": ["personal"],
        "providers": {
            region: {
                "type": "openai", "base_url": "http://127.0.0.1:9/v1", "regions": [region],
                "data_classes": ["personal"] if region == "eu" else [],
            }
            for region in ("eu", "us")
        },
        "models": {
            name: {
                "provider": region, "upstream": name, "kind": "chat", "context_window": window,
                "max_output_tokens": 500, "quality": quality, "price": {"input": given, "output": made},
            }
            for name, (given, made, quality, region, window) in MODELS.items()
        },
        "routes": {"default": {"candidates": list(MODELS), **route}},
        "residency": [
            {"tenant": "acme", "regions": ["eu"]},
            {"tenant": "acme", "agent": "refund-desk", "data_classes": ["personal"]},
        ],
    }  # fmt: skip
    file = tmp_path / "models.yaml"
    file.write_text(json.dumps(document))
    return load(file, References({}, {}))


def planned(made, measured=None, denied=(), **demand):
    demand = {
        "kind": "chat",
        "model": "",
        "task": "",
        "regions": None,
        "input_estimate": 100,
        "input_most": 400,
    } | demand
    refused = PolicyDecision(False, "sha256:0", ())
    permissions = Permissions({name: refused if name in denied else ALLOWED for name in made.models})
    return plan(made, Demand(**demand), permissions, measured or {})


def names(plan):
    return [candidate.model.name for candidate in plan.candidates]


FAST_AND_SLOW = {"cheap": Performance(whole=3.0, first_token=2.0), "middle": Performance(whole=0.5, first_token=4.0)}


@pytest.mark.parametrize(
    ("route", "order"),
    [
        ({"policy": "ordered"}, ["cheap", "middle", "best"]),
        ({"policy": "cheapest"}, ["cheap", "middle", "best"]),
        ({"policy": "quality"}, ["best", "middle", "cheap"]),
        # Of which nothing is known counts as fast: so it gets measured.
        ({"policy": "fastest"}, ["best", "middle", "cheap"]),
        ({"policy": "weighted", "weights": {"cost": 1}}, ["cheap", "middle", "best"]),
        ({"policy": "weighted", "weights": {"quality": 1}}, ["best", "middle", "cheap"]),
        ({"policy": "weighted", "weights": {"latency": 1}}, ["best", "middle", "cheap"]),
        ({"policy": "weighted", "weights": {"cost": 0.1, "quality": 1}}, ["best", "middle", "cheap"]),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_each_policy_has_its_order(tmp_path, route, order):
    assert names(planned(catalogue(tmp_path, **route), FAST_AND_SLOW)) == order


def test_streams_are_ranked_by_their_first_token_and_answers_by_their_whole(tmp_path):
    made = catalogue(tmp_path, policy="fastest", candidates=["cheap", "middle"])
    assert names(planned(made, FAST_AND_SLOW, streamed=True)) == ["cheap", "middle"]
    assert names(planned(made, FAST_AND_SLOW)) == ["middle", "cheap"]


def test_a_model_that_fails_often_is_slower_than_it_looks(tmp_path):
    made = catalogue(tmp_path, policy="fastest", candidates=["cheap", "middle"])
    measured = {"cheap": Performance(whole=1.0, error_rate=0.9), "middle": Performance(whole=2.0)}
    assert names(planned(made, measured)) == ["middle", "cheap"]


def test_the_output_asked_for_decides_what_is_cheapest(tmp_path):
    made = catalogue(tmp_path, policy="cheapest", candidates=["best", "cheap"])
    plan = planned(made, output_limit=10)
    assert names(plan) == ["cheap", "best"]
    assert plan.scores["cheap"] == pytest.approx(-(100 * 0.1 + 10 * 0.2) / 1e6)


def test_shares_split_the_traffic_and_keep_the_others_as_fallback(tmp_path):
    made = catalogue(tmp_path, policy="split", shares={"cheap": 80, "middle": 20})
    firsts = [names(planned(made, session=f"s{n}"))[0] for n in range(1000)]
    assert 740 < firsts.count("cheap") < 860
    assert firsts.count("best") == 0
    assert set(names(planned(made, session="s"))) == set(MODELS)


def test_a_canary_gets_its_percentage_first_and_is_the_last_resort_otherwise(tmp_path):
    made = catalogue(tmp_path, policy="cheapest", canary={"model": "best", "percent": 10})
    plans = [planned(made, session=f"s{n}") for n in range(1000)]
    drawn = [plan for plan in plans if names(plan)[0] == "best"]
    assert 60 < len(drawn) < 140
    assert all(names(plan)[-1] == "best" for plan in plans if plan not in drawn)
    assert "10 % of requests go to best first" in drawn[0].note


@given(st.text(min_size=1))
def test_a_session_never_changes_sides(session):
    demand = Demand(kind="chat", model="", task="", regions=None, session=session)
    assert draw_of(demand)() == draw_of(demand)()
    assert 0 <= draw_of(demand)() < 1


@pytest.mark.parametrize(
    ("demand", "left", "hurdle"),
    [
        ({"quality": Quality.STANDARD}, ["middle", "best"], Hurdle.QUALITY),
        ({"regions": ("us",)}, ["best"], Hurdle.REGION),
        ({"data_classes": frozenset({"personal"})}, ["cheap", "middle"], Hurdle.DATA_CLASS),
        ({"needs": frozenset({"tools"})}, [], Hurdle.CAPABILITY),
        ({"input_estimate": 2000}, ["middle", "best"], Hurdle.CONTEXT),
        ({"max_latency": 1.0}, ["middle", "best"], Hurdle.LATENCY),
        ({"max_cost": Decimal("0.002")}, ["cheap", "middle"], Hurdle.COST),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("policy", ["ordered", "cheapest", "fastest", "quality"])
def test_what_fails_a_demand_is_left_out_whatever_the_policy(tmp_path, policy, demand, left, hurdle):
    plan = planned(catalogue(tmp_path, policy=policy), FAST_AND_SLOW, **demand)
    assert sorted(names(plan)) == sorted(left)
    assert {out.hurdle for out in plan.left_out} == {hurdle}
    assert {out.model.name for out in plan.left_out} == set(MODELS) - set(left)


def test_a_ceiling_that_is_just_met_is_compared_exactly(tmp_path):
    made = catalogue(tmp_path, candidates=["middle"])
    exact = made.models["middle"].price.most(400, 500)
    assert names(planned(made, max_cost=exact)) == ["middle"]
    assert names(planned(made, max_cost=exact - Decimal("1e-18"))) == []


def test_what_policy_denies_is_never_a_candidate(tmp_path):
    assert names(planned(catalogue(tmp_path, policy="cheapest"), denied=("cheap",))) == ["middle", "best"]


def test_a_tenants_rule_narrows_what_the_request_demands(tmp_path):
    made = catalogue(tmp_path)
    demand = Demand(kind="chat", model="", task="", regions=None)
    assert with_residency(demand, made, "globex", None) is demand
    assert with_residency(demand, made, "acme", None).regions == ("eu",)
    agent = with_residency(demand, made, "acme", "refund-desk@3")
    assert (agent.regions, agent.data_classes) == (("eu",), {"personal"})
    both = Demand(kind="chat", model="", task="", regions=("us", "eu"))
    assert with_residency(both, made, "acme", None).regions == ("eu",)
    with pytest.raises(NoModelInRegion):
        with_residency(Demand(kind="chat", model="", task="", regions=("us",)), made, "acme", None)


def test_measurements_decay_and_are_joined_with_those_of_other_replicas():
    now = [0.0]
    here, there = Measurements(lambda: now[0]), Measurements(lambda: now[0])
    here.answered("m", 1.0, first_token=False)
    there.answered("m", 3.0, first_token=False)
    there.failed("m")
    here.replace_others([(0.0, there.export())])
    known = here.current()["m"]
    assert (known.whole, known.first_token) == (2.0, None)
    assert known.error_rate == pytest.approx(1 / 3)
    now[0] = 60.0
    here.answered("m", 1.0, first_token=False)
    assert here.current()["m"].whole == pytest.approx((0.5 * 1 + 0.5 * 3 + 1) / 2)
    now[0] = 3600.0
    assert here.current() == {}
