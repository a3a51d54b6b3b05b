"""Signing heads: soon after an append, and never one that does not continue every head signed before."""

import asyncio

from prometheus_client import Counter, Gauge
from slipway_chassis import telemetry
from slipway_chassis.errors import SlipwayError, Unavailable
from slipway_chassis.logs import get_logger
from slipway_evidence.checkpoint import Checkpoint, CheckpointError, Head, open_checkpoint, previous_line
from slipway_evidence.merkle import ProofError, consistency_nodes, consistency_proof, verify_consistency
from slipway_evidence.note import NoteError, SignatureError, SignerKey

from slipway_audit.errors import LogEmpty, LogInconsistent, LogRolledBack
from slipway_audit.head_store import HeadStore, SignedHead, Signing
from slipway_audit.heads_file import HeadsFolder
from slipway_audit.key_ring import KeyRing

GATHER = 0.25
"""Seconds after an append in which further appends join the same checkpoint."""
_RETRY = 5.0  # seconds until a head that could not be signed is tried again

_log = get_logger(__name__)
_signed = Counter("slipway_audit_checkpoints", "Heads signed", registry=telemetry.registry)
_refused = Counter("slipway_audit_checkpoints_refused", "Heads not signed", ["reason"], registry=telemetry.registry)
_size = Gauge(
    "slipway_audit_checkpoint_tree_size", "Leaves under the newest head", ["tenant"], registry=telemetry.registry
)
_time = Gauge(
    "slipway_audit_checkpoint_timestamp_seconds",
    "When the newest head was signed: its age is time() minus this",
    ["tenant"],
    registry=telemetry.registry,
)


def log_origin(name: str, tenant: str, generation: int) -> str:
    """Origin of a tenant's log: the key's name and the tenant, and from the second generation on its number."""
    return f"{name}/{tenant}" + (f"/{generation}" if generation > 1 else "")


class Checkpointer:
    """Signs the heads of all logs with one key at a time."""

    def __init__(self, store: HeadStore, heads: HeadsFolder, keys: KeyRing) -> None:
        self._store = store
        self._heads = heads
        self._keys = keys
        self._turns: dict[str, asyncio.Lock] = {}
        self._waiting: set[str] = set()
        self._wake = asyncio.Event()

    @property
    def verifier_key(self) -> str:
        """The public key of now as a `vkey` line."""
        return str(self._keys.current().verifier)

    def key_of(self, head: SignedHead) -> SignerKey:
        """The key that signed a head which `sign` gave."""
        return self._keys.signer(head.note)

    def origin(self, tenant: str, generation: int) -> str:
        """Origin of a tenant's log: a rotated key keeps its name."""
        return log_origin(self._keys.current().name, tenant, generation)

    def notify(self, tenant: str) -> None:
        """A tenant's log has new leaves."""
        self._waiting.add(tenant)
        self._wake.set()

    async def run(self) -> None:
        """Sign what is new, until cancelled; begins with what an earlier process has left unsigned."""
        self._waiting.update(await self._store.unsigned())
        if self._waiting:
            self._wake.set()
        while True:
            await self._wake.wait()
            await asyncio.sleep(GATHER)
            self._wake.clear()
            tenants, self._waiting = self._waiting, set()
            failed = [tenant for tenant in sorted(tenants) if not await self._try(tenant)]
            if failed:
                self._waiting.update(failed)
                asyncio.get_running_loop().call_later(_RETRY, self._wake.set)

    async def _try(self, tenant: str) -> bool:
        try:
            await self.sign(tenant)
        except (SlipwayError, OSError) as error:
            reason = error.reason if isinstance(error, SlipwayError) else type(error).__name__
            _refused.labels(reason).inc()
            # A database that is away is named by readiness; anything else is for somebody to look at.
            log = _log.warning if isinstance(error, Unavailable) else _log.error
            log("audit.checkpoint_refused", tenant=tenant, reason=reason, error=str(error))
            return False
        return True

    async def sign(self, tenant: str) -> SignedHead:
        """A signed head of the log as it stands: the newest one if it covers all leaves, else a new one.

        Raises LogEmpty, LogRolledBack, LogInconsistent, StoreUnavailable, or OSError when the file cannot be written.
        """
        # Between the database and the file nobody else may look at both: a head would be added to the file twice.
        async with self._turns.setdefault(tenant, asyncio.Lock()):
            return await self._sign(tenant)

    async def _sign(self, tenant: str) -> SignedHead:
        async with self._store.signing(tenant) as signing:
            if signing is None or signing.log.size == 0:
                raise LogEmpty("the tenant's audit log is empty")
            key = self._keys.current()
            held = await asyncio.to_thread(self._heads.last, tenant)
            await self._check_held(tenant, signing, held)
            if signing.last is not None and self._keys.verifier(signing.last.note) != key.verifier:
                await self._begin_under_new_key(tenant, signing, signing.last)
            last, log = signing.last, signing.log
            if last is not None and last.size == log.size:
                head = last
            else:
                await self._check_growth(tenant, signing)
                checkpoint = Checkpoint(
                    Head(self.origin(tenant, log.generation), log.size, log.root),
                    (log.previous,) if log.previous else (),
                )
                head = SignedHead(log.generation, log.size, log.root, checkpoint.sign(key))
                await signing.keep(head)
        if head.note != held:
            await asyncio.to_thread(self._heads.append, tenant, head.note)
        if head is not last:
            _signed.inc()
            _size.labels(tenant).set(head.size)
            _time.labels(tenant).set_to_current_time()
        return head

    async def _begin_under_new_key(self, tenant: str, signing: Signing, last: SignedHead) -> None:
        """The log goes on as a new one that names the last head of the key before: heads are never signed anew."""
        await self._check_growth(tenant, signing)
        await signing.begin_generation(previous_line(Head(self.origin(tenant, last.generation), last.size, last.root)))
        _log.info("audit.key_rotated", tenant=tenant, generation=signing.log.generation)

    async def _check_growth(self, tenant: str, signing: Signing) -> None:
        """The tree that is stored has the root to be signed, and continues the head signed last."""
        log, last = signing.log, signing.last
        if await signing.root(log.size) != log.root:
            raise LogInconsistent(f"the log of {tenant} has another root than its leaves")
        if last is None:
            return
        try:
            if last.size > log.size:
                raise ProofError(f"it shrank from {last.size} to {log.size} leaves")
            proof = consistency_proof(
                last.size, log.size, await signing.nodes(log.size, consistency_nodes(last.size, log.size))
            )
            verify_consistency(last.size, log.size, last.root, log.root, proof)
        except ProofError as error:
            raise LogInconsistent(f"the log of {tenant} does not continue its head of {last.size}: {error}") from error

    async def _check_held(self, tenant: str, signing: Signing, note: str | None) -> None:
        """The log holds what the newest head in the file says, even when the database knows nothing of that head."""
        last, log = signing.last, signing.log
        if note is None:
            return
        try:
            held = open_checkpoint(note, self._keys.verifier(note)).head
        except (NoteError, SignatureError, CheckpointError) as error:
            raise LogInconsistent(f"the newest head held for {tenant} is not one of this key: {error}") from error
        if held.origin != self.origin(tenant, log.generation):
            if log.previous:
                return  # The head of the generation before; the new log names it.
            raise LogInconsistent(f"the newest head held for {tenant} is one of {held.origin}")
        if last is not None and note == last.note:
            return
        if held.size > log.size:
            raise LogRolledBack(
                f"the log of {tenant} has {log.size} leaves, but a head of {held.size} was signed: after a restore from"
                " backup run `python -m slipway_audit.restore`"
            )
        if await signing.root(held.size) != held.root:
            raise LogInconsistent(f"the log of {tenant} does not hold the {held.size} leaves that were signed")
