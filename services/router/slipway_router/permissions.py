"""What policy lets callers use of the catalogue, looked up for a caller once and kept."""

from collections import OrderedDict
from typing import NoReturn, Protocol

from slipway_chassis.caller import Caller
from slipway_chassis.policy import PolicyDecision, Resource

from slipway_router.catalogue import Catalogue, Model
from slipway_router.eligibility import Permissions

_CACHED_CALLERS = 512


class Policy(Protocol):
    """The policy engine, as far as it is used here."""

    def decide(self, caller: Caller, action: str, resource: Resource) -> PolicyDecision: ...
    def authorize(self, caller: Caller, action: str, resource: Resource) -> PolicyDecision: ...


class ModelPermissions:
    """Permissions by caller, for the catalogue and the policies in force."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._catalogue: Catalogue | None = None
        self._digest = ""
        self._known: OrderedDict[tuple[object, ...], Permissions] = OrderedDict()

    def of(self, caller: Caller, catalogue: Catalogue) -> Permissions:
        """What `caller` may use of `catalogue`."""
        # One decision is asked for each time: so the engine takes up changed policies, and its digest tells of them.
        first = next(iter(catalogue.models.values()), None)
        digest = self._policy.decide(caller, *use_of(caller, first)).digest if first else ""
        if catalogue is not self._catalogue or digest != self._digest:
            # By identity: a rotated key makes other models of the same file.
            self._catalogue, self._digest = catalogue, digest
            self._known.clear()
        who = (caller.kind, caller.subject, caller.person, caller.tenant, caller.roles, caller.groups, caller.act)
        known = self._known.get(who)
        if known is None:
            decisions = {
                name: self._policy.decide(caller, *use_of(caller, model)) for name, model in catalogue.models.items()
            }
            known = self._known[who] = Permissions(decisions)
            if len(self._known) > _CACHED_CALLERS:
                self._known.popitem(last=False)
        return known

    def refuse(self, caller: Caller, model: Model) -> NoReturn:
        """Raise the engine's own error, which names action, resource and policies."""
        self._policy.authorize(caller, *use_of(caller, model))
        raise RuntimeError("the policy engine denies and allows the same")


def use_of(caller: Caller, model: Model) -> tuple[str, Resource]:
    """Action and resource that the policy decides on."""
    facts = {"name": model.name, "provider": model.provider.name, "regions": sorted(model.regions)}
    return "UseModel", Resource(type="Model", id=model.name, tenant=caller.tenant, attributes=facts)
