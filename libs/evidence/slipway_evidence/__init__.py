"""Evidence: Merkle proofs, signed checkpoints, evidence bundles and their offline verifier. No services, no I/O."""
