"""Pods for sandboxes: a namespace of their own, and no more rights there than the service asks for."""

from typing import Any

from chart_testing.variants import Object
from slipway_tools.sandbox.kubernetes.adapter import RIGHTS

Rendered = dict[str, list[Object]]


def only(objects: list[Object], kind: str) -> Any:
    found = [each for each in objects if each["kind"] == kind]
    assert len(found) == 1, kind
    return found[0]


def tools(objects: list[Object]) -> Any:
    return next(
        each for each in objects if each["kind"] == "Deployment" and each["metadata"]["name"].endswith("-tools")
    )


def test_pods_have_a_restricted_namespace_in_which_nobody_speaks_to_anybody(rendered: Rendered) -> None:
    objects = rendered["sandbox-pods"]
    namespace = only(objects, "Namespace")
    name = namespace["metadata"]["name"]
    assert name.endswith("-sandboxes")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"
    policy = next(
        each for each in objects if each["kind"] == "NetworkPolicy" and each["metadata"].get("namespace") == name
    )
    assert policy["spec"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    quota = only(objects, "ResourceQuota")
    assert (quota["metadata"]["namespace"], quota["spec"]["hard"]) == (name, {"pods": "40"})


def test_only_the_account_of_tools_has_rights_there_and_just_those_that_it_asks_for(rendered: Rendered) -> None:
    objects = rendered["sandbox-pods"]
    namespace = only(objects, "Namespace")["metadata"]["name"]
    role, binding = only(objects, "Role"), only(objects, "RoleBinding")
    granted = {(verb, resource) for rule in role["rules"] for verb in rule["verbs"] for resource in rule["resources"]}
    assert granted == set(RIGHTS)
    assert role["metadata"]["namespace"] == binding["metadata"]["namespace"] == namespace
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    account = tools(objects)["spec"]["template"]["spec"]["serviceAccountName"]
    assert [(each["kind"], each["name"]) for each in binding["subjects"]] == [("ServiceAccount", account)]
    assert not [each for each in objects if each["kind"].startswith("ClusterRole")]


def test_tools_is_told_where_pods_are_made_and_reaches_the_api_server(rendered: Rendered) -> None:
    objects = rendered["sandbox-pods"]
    container = tools(objects)["spec"]["template"]["spec"]["containers"][0]
    env = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert env["SLIPWAY_TOOLS_SANDBOX"] == "kubernetes"
    assert env["SLIPWAY_TOOLS_SANDBOX_NAMESPACE"] == only(objects, "Namespace")["metadata"]["name"]
    assert env["SLIPWAY_TOOLS_SANDBOX_IMAGE"] == "registry.example.com/slipway/sandbox:1.2.3"
    assert env["SLIPWAY_TOOLS_SANDBOX_RUNTIME_CLASS"] == "gvisor"
    name = tools(objects)["metadata"]["name"]
    policy = next(each for each in objects if each["kind"] == "NetworkPolicy" and each["metadata"]["name"] == name)
    assert 6443 in {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}


def test_nothing_of_it_is_there_when_it_is_not_asked_for(rendered: Rendered) -> None:
    kinds = {"Namespace", "Role", "RoleBinding", "ResourceQuota"}
    for variant, objects in rendered.items():
        there = {each["kind"] for each in objects} & kinds
        assert there == (kinds if variant == "sandbox-pods" else set()), variant
