"""What a request asks of a model, and what its tenant's rules add to that."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal

from slipway_chassis.errors import InvalidArgument

from slipway_router.catalogue import EMBEDDING_TASK, Capability, Catalogue, Kind, Quality
from slipway_router.chat import ChatRequest, EmbeddingsRequest
from slipway_router.errors import DataClassesInvalid, NoModelInRegion, RegionsInvalid
from slipway_router.tokens import estimated_tokens, most_tokens

_NEED_OF_PART: Mapping[str, Capability] = {"image_url": "images", "input_audio": "audio", "file": "files"}
_TOOLS_MOST = 1024
"""The most tokens that providers add for tools being on offer: Anthropic's instructions are some 300 to 700."""
_PLAIN_PARTS = frozenset({"text", "refusal"})


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks of a model. `regions` None demands none; seconds and dollars."""

    kind: Kind
    model: str
    task: str
    regions: tuple[str, ...] | None
    needs: frozenset[Capability] = frozenset()
    input_estimate: int = 0
    input_most: int = 0
    """No tokenizer makes more tokens of the input than this, images apart."""
    images: int = 0
    output_limit: int | None = None
    max_cost: Decimal | None = None
    quality: Quality = Quality.ECONOMY
    max_latency: float | None = None
    data_classes: frozenset[str] = frozenset()
    streamed: bool = False
    session: str = ""
    """What chance stands on, so that a session does not change sides."""

    @staticmethod
    def of_chat(request: ChatRequest, *, streamed: bool = False) -> "Demand":
        """The demand of a chat request; raises InvalidArgument for content of an unknown kind."""
        texts = [message.text() for message in request.messages]
        texts += [str(tool) for tool in request.tools]
        if request.response_format is not None:
            texts.append(str(request.response_format))
        images = 0
        attached: list[str] = []
        needs: set[Capability] = set(request.capabilities)
        if request.tools:
            needs.add("tools")
        if request.response_format is not None and request.response_format.get("type") != "text":
            needs.add("response_format")
        for index, message in enumerate(request.messages):
            for part in message.parts:
                kind = str(part.get("type"))
                if kind in _NEED_OF_PART:
                    needs.add(_NEED_OF_PART[kind])
                    if kind == "image_url":
                        images += 1
                    else:
                        attached.append(str(part))
                elif kind not in _PLAIN_PARTS:
                    known = ", ".join(sorted({*_NEED_OF_PART, *_PLAIN_PARTS}))
                    raise InvalidArgument(
                        f"content parts are of type {known}, not {kind[:40]}",
                        field=f"chat.messages[{index}].content_parts_json",
                    )
        return Demand(
            kind="chat",
            model=request.model,
            task=request.task,
            regions=request.regions,
            needs=frozenset(needs),
            input_estimate=estimated_tokens(texts),
            input_most=most_tokens(texts) + most_tokens(attached) + (_TOOLS_MOST if request.tools else 0),
            images=images,
            output_limit=request.max_tokens,
            max_cost=request.max_cost,
            quality=request.quality,
            max_latency=request.max_latency,
            data_classes=request.data_classes,
            streamed=streamed,
            session=request.session_id,
        )

    @staticmethod
    def of_embeddings(request: EmbeddingsRequest) -> "Demand":
        """The demand of an embeddings request; models cut inputs by themselves, so no window is checked."""
        return Demand(
            kind="embedding",
            model=request.model,
            task="" if request.model else EMBEDDING_TASK,
            regions=request.regions,
            input_estimate=estimated_tokens(request.inputs),
            input_most=most_tokens(request.inputs),
            data_classes=request.data_classes,
        )


def check_names(demand: Demand, catalogue: Catalogue) -> None:
    """Refuse regions and data classes that nobody knows; raises RegionsInvalid, DataClassesInvalid."""
    if demand.regions is not None:
        if not demand.regions:
            raise RegionsInvalid("regions are demanded, but none is named", field="chat.regions")
        unknown = sorted(set(demand.regions) - catalogue.regions)
        if unknown:
            known = ", ".join(sorted(catalogue.regions))
            raise RegionsInvalid(f"unknown region {', '.join(unknown)}: there are {known}", field="chat.regions")
    strange = sorted(demand.data_classes - catalogue.data_classes)
    if strange:
        known = ", ".join(sorted(catalogue.data_classes)) or "none"
        raise DataClassesInvalid(
            f"unknown data class {', '.join(strange)}: there are {known}", field="chat.data_classes"
        )


def with_residency(demand: Demand, catalogue: Catalogue, tenant: str, act: str | None) -> Demand:
    """`demand` with what the catalogue demands for the tenant and the agent that acts (`name@version`).

    Regions are narrowed, data classes added. Raises NoModelInRegion when no region is left, and RegionsInvalid or
    DataClassesInvalid for names in `demand` that nobody knows.
    """
    check_names(demand, catalogue)
    agent = (act or "").partition("@")[0]
    regions, classes = demand.regions, demand.data_classes
    for rule in catalogue.residency:
        if rule.tenant != tenant or (rule.agent and rule.agent != agent):
            continue
        classes |= rule.data_classes
        if rule.regions is not None:
            left = sorted(rule.regions) if regions is None else [name for name in regions if name in rule.regions]
            if not left:
                whose = f"agent {rule.agent}" if rule.agent else f"tenant {tenant}"
                raise NoModelInRegion(
                    f"{whose} may use models in {', '.join(sorted(rule.regions))} only, "
                    f"the request demands {', '.join(regions or ())}",
                    metadata={"regions": ",".join(regions or ())},
                )
            regions = tuple(left)
    if regions is demand.regions and classes is demand.data_classes:
        return demand
    return replace(demand, regions=regions, data_classes=classes)
