-- When a schedule's grant was signed: keys are rotated, and a schedule that is seldom due needs a new one before.
ALTER TABLE schedule ADD COLUMN grant_time timestamptz NOT NULL DEFAULT now();
CREATE INDEX schedule_grant_time ON schedule (grant_time) WHERE next_time IS NOT NULL;
