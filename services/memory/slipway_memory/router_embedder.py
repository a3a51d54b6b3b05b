"""Embeds through the router, in the name of this service."""

from __future__ import annotations

from collections.abc import Sequence

import grpc
from slipway.effects.v1 import effects_pb2
from slipway.router.v1 import router_pb2, router_pb2_grpc
from slipway_chassis.channel import invoke
from slipway_chassis.tokens import ServiceTokenSource

from slipway_memory.embedding import Embedded, RunEffect


class RouterEmbedder:
    """The router's CreateEmbeddings with a service token for the tenant whose text it is."""

    def __init__(self, channel: grpc.aio.Channel, tokens: ServiceTokenSource, *, timeout: float) -> None:
        """`timeout` in seconds bounds one call."""
        self._stub = router_pb2_grpc.RouterServiceStub(channel)
        self._tokens = tokens
        self._timeout = timeout

    async def embed(
        self,
        tenant: str,
        model: str,
        texts: Sequence[str],
        *,
        regions: Sequence[str] | None = None,
        effect: RunEffect | None = None,
    ) -> Embedded:
        """As Embedder. The effect's key gets a suffix: the embedding is an effect of its own."""
        request = router_pb2.CreateEmbeddingsRequest(
            model=model, inputs=texts, regions=regions or (), regions_demanded=regions is not None
        )
        if effect is not None:
            request.effect.CopyFrom(
                effects_pb2.EffectKey(
                    key=f"{effect.key}/embedding",
                    epoch=effect.epoch,
                    attempt=effect.attempt,
                    root_run_id=effect.root_run_id,
                )
            )
        token = await self._tokens.token(tenant)
        answer = await invoke(self._stub.CreateEmbeddings, request, token=token, timeout=self._timeout)
        return Embedded([list(embedding.values) for embedding in answer.embeddings], answer.catalogue_model)
