-- Lease epoch of the last commit: a run that many leases have not advanced is stuck.
ALTER TABLE run ADD COLUMN progress_epoch bigint NOT NULL DEFAULT 0;
