-- What the samples of a block say of each minute, as package rollup writes it:
-- beside the block, so that a block that comes late corrects nothing but what is
-- asked for next. NULL while the block has no place.
ALTER TABLE block ADD COLUMN minutes BLOB;

-- Blocks that were placed before there were roll-ups; none is added.
CREATE INDEX block_uncondensed ON block (id) WHERE minutes IS NULL AND t0 IS NOT NULL;

-- Quarters of an hour, six hours in a row, for one list of points of an inverter.
CREATE TABLE rollup (
	id       INTEGER PRIMARY KEY,
	device   INTEGER NOT NULL REFERENCES device (id),
	inverter TEXT    NOT NULL,
	start    INTEGER NOT NULL, -- of the chunk
	points   TEXT    NOT NULL CHECK (length(points) > 0), -- names, separated by commas
	known    INTEGER NOT NULL, -- of which roles there is a value, see rollup.Table.Known
	series   BLOB    NOT NULL, -- before the stats, for energy is asked for without them
	stats    BLOB    NOT NULL
) STRICT;

CREATE UNIQUE INDEX rollup_place ON rollup (device, inverter, start, points);

-- Up to when blocks of an inverter have been given up, by their begin.
CREATE TABLE retired (
	device   INTEGER NOT NULL REFERENCES device (id),
	inverter TEXT    NOT NULL,
	raw      INTEGER NOT NULL, -- their samples
	minutes  INTEGER NOT NULL, -- and the minutes too
	PRIMARY KEY (device, inverter)
) STRICT, WITHOUT ROWID;

-- Days of a device begin at midnight there.
ALTER TABLE device ADD COLUMN time_zone TEXT NOT NULL DEFAULT 'UTC' CHECK (length(time_zone) BETWEEN 1 AND 64);
