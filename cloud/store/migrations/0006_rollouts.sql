-- Releases of firmware, and how they reach devices.

CREATE TABLE firmware (
	id       BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 32), -- SHA-256 of the manifest
	number   INTEGER NOT NULL, -- of the release
	envelope BLOB    NOT NULL CHECK (length(envelope) > 0), -- the manifest with its signatures
	kek      TEXT    NOT NULL CHECK (length(kek) > 0),
	wrapped  BLOB    NOT NULL CHECK (length(wrapped) = 72), -- the key of the content
	added_at INTEGER NOT NULL,
	operator TEXT    NOT NULL
) STRICT;

CREATE INDEX firmware_number ON firmware (number, id);

CREATE TRIGGER firmware_kek_is_open BEFORE INSERT ON firmware WHEN EXISTS (SELECT 1 FROM closed_kek WHERE id = NEW.kek) BEGIN
	SELECT RAISE(ABORT, 'the key-encryption key was removed');
END;

CREATE TRIGGER firmware_kek_stays_open BEFORE UPDATE OF kek ON firmware WHEN EXISTS (SELECT 1 FROM closed_kek WHERE id = NEW.kek) BEGIN
	SELECT RAISE(ABORT, 'the key-encryption key was removed');
END;

-- Rows stay, also when the release is removed.
CREATE TABLE rollout (
	id              BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
	firmware        BLOB    NOT NULL CHECK (length(firmware) = 32),
	version         TEXT    NOT NULL,
	number          INTEGER NOT NULL, -- of the release
	image           BLOB    NOT NULL CHECK (length(image) = 32),
	offer           INTEGER NOT NULL CHECK (offer > 1), -- a bound of what the offer takes in an answer, in bytes
	operator        TEXT    NOT NULL,
	at              INTEGER NOT NULL,
	state           TEXT    NOT NULL CHECK (state IN ('running', 'paused', 'stopped', 'aborted', 'done')),
	code            TEXT    NOT NULL,
	text            TEXT    NOT NULL,
	since           INTEGER NOT NULL,
	finish          INTEGER NOT NULL DEFAULT 0 CHECK (finish IN (0, 1)),
	stage           INTEGER NOT NULL DEFAULT 0, -- that has begun last; 0 for none
	stage_at        INTEGER,
	rested          INTEGER NOT NULL DEFAULT 0, -- ms
	pardon_failed   INTEGER NOT NULL DEFAULT 0,
	pardon_answered INTEGER NOT NULL DEFAULT 0,
	soak            INTEGER NOT NULL, -- ms
	no_telemetry    INTEGER NOT NULL CHECK (no_telemetry IN (0, 1)),
	deadline        INTEGER NOT NULL, -- ms
	max_failed      REAL    NOT NULL, -- percent
	min_sample      INTEGER NOT NULL,
	downgrades      TEXT    NOT NULL CHECK (json_valid(downgrades)),
	sizes           TEXT    NOT NULL CHECK (json_valid(sizes)),
	stages          TEXT    NOT NULL CHECK (json_valid(stages)),
	target          TEXT    NOT NULL CHECK (json_valid(target)),
	open            INTEGER NOT NULL DEFAULT 1 CHECK (open IN (0, 1)) -- something of it is still to come
) STRICT;

CREATE INDEX rollout_at ON rollout (at, id);

CREATE INDEX rollout_open ON rollout (id) WHERE open = 1;

CREATE INDEX rollout_firmware ON rollout (firmware) WHERE open = 1;

-- A release on its way to a device.
CREATE TABLE rollout_device (
	rollout  BLOB    NOT NULL REFERENCES rollout (id),
	device   INTEGER NOT NULL REFERENCES device (id),
	stage    INTEGER NOT NULL, -- from 1 on; 0 of those that were skipped from the beginning
	phase    TEXT    NOT NULL CHECK (phase IN ('waiting', 'due', 'offered', 'downloading', 'downloaded', 'verified', 'retrying', 'switching', 'trial',
		'confirmed', 'healthy', 'failed', 'rolled_back', 'overdue', 'skipped', 'withdrawn')),
	code     TEXT    NOT NULL,
	text     TEXT    NOT NULL,
	done     INTEGER NOT NULL DEFAULT 0, -- chunks
	chunks   INTEGER NOT NULL DEFAULT 0,
	times    TEXT    NOT NULL CHECK (json_valid(times)), -- when it came into each phase
	due_at   INTEGER, -- by the rollout's clock; NULL when nothing is waited for
	ended_at INTEGER, -- NULL while it is open
	watched  INTEGER NOT NULL CHECK (watched IN (0, 1)), -- what the device says may change it
	PRIMARY KEY (rollout, device),
	CHECK ((ended_at IS NULL) = (phase IN ('waiting', 'due', 'offered', 'downloading', 'downloaded', 'verified', 'retrying', 'switching', 'trial', 'confirmed'))),
	CHECK (ended_at IS NOT NULL OR watched = 1)
) STRICT, WITHOUT ROWID;

-- A device has one thing to do.
CREATE UNIQUE INDEX rollout_device_watched ON rollout_device (device) WHERE watched = 1;

CREATE INDEX rollout_device_phase ON rollout_device (rollout, stage, phase);

CREATE INDEX rollout_device_due ON rollout_device (rollout, due_at) WHERE due_at IS NOT NULL;

CREATE INDEX rollout_device_ended ON rollout_device (rollout, ended_at) WHERE ended_at IS NOT NULL;

-- What an exchange knows of it without a look: 0 where nothing that the device says
-- or is told concerns a rollout, 1 where only what it says does, else how many bytes
-- the offer takes in an answer.
ALTER TABLE device ADD COLUMN fw_open INTEGER NOT NULL DEFAULT 0 CHECK (fw_open >= 0);
