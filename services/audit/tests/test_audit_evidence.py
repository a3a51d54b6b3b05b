"""Evidence over gRPC: what is exported verifies with the public key alone."""

from slipway_evidence.verify import verify

from services.audit.tests.conftest import RUN, Audit, Writer


async def test_a_finished_runs_evidence_verifies(audit: Audit) -> None:
    await audit.append(Writer().run())
    data, complete = await audit.evidence()
    report = verify(data, audit.verifier)
    assert report.ok, report.finding
    assert complete
    assert report.summary is not None
    assert report.summary.run_id == RUN
