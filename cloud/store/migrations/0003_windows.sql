-- Blocks of windows in place of samples.

ALTER TABLE block ADD COLUMN window_ms INTEGER NOT NULL DEFAULT 0 CHECK (window_ms >= 0); -- 0: samples
