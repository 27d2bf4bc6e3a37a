-- Times are ms since 1970, UTC. Booleans are 0 or 1.

CREATE TABLE device (
	id         INTEGER PRIMARY KEY,
	name       TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
	grp        TEXT    NOT NULL CHECK (length(grp) <= 64), -- '' when in no group
	notes      TEXT    NOT NULL,
	disabled   INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
	created_at INTEGER NOT NULL,
	last_seen  INTEGER, -- of ended sessions; a living one has its own seen_at
	fw_release INTEGER,
	fw_state   TEXT CHECK (fw_state IN ('confirmed', 'trial', 'rolled_back')),
	fw_version TEXT,
	hs_no      INTEGER NOT NULL DEFAULT 0, -- number of the latest handshake
	hs_rate    INTEGER NOT NULL DEFAULT 0, -- state of the bucket of handshakes
	boot_id    BLOB CHECK (length(boot_id) = 16), -- in which it confirmed a session last; NULL for never
	replaced_1 INTEGER NOT NULL DEFAULT 0, -- when a living session of it was replaced last
	replaced_2 INTEGER NOT NULL DEFAULT 0, -- and the time before that
	replaced_3 INTEGER NOT NULL DEFAULT 0,
	recovery_until INTEGER -- until when the key of state 'recovery' is let in; NULL while it is not
) STRICT;

CREATE INDEX device_grp ON device (grp, name) WHERE grp <> '';

-- A key under which a device may shake hands, or might once. The database refuses
-- an empty one, and one that stays when it is retired.
CREATE TABLE device_key (
	psk_id     BLOB    PRIMARY KEY NOT NULL CHECK (length(psk_id) = 16),
	device     INTEGER NOT NULL REFERENCES device (id),
	epoch      INTEGER NOT NULL CHECK (epoch BETWEEN 1 AND 4294967295),
	state      TEXT    NOT NULL CHECK (state IN ('pending', 'active', 'retired', 'recovery')),
	since      INTEGER NOT NULL, -- when it came into its state
	kek        TEXT, -- which key-encryption key wraps it
	wrapped    BLOB,
	offer_from INTEGER, -- of a pending key: it is not offered before
	offered_at INTEGER, -- of a pending key: when it was first offered
	burn       INTEGER NOT NULL DEFAULT 0 CHECK (burn IN (0, 1)), -- its use destroys all keys before it
	created_at INTEGER NOT NULL,
	UNIQUE (device, epoch),
	CHECK ((state = 'retired' AND kek IS NULL AND wrapped IS NULL)
		OR (state <> 'retired' AND kek IS NOT NULL AND length(kek) > 0 AND wrapped IS NOT NULL AND length(wrapped) = 72)),
	CHECK ((state = 'pending') = (offer_from IS NOT NULL)),
	CHECK (state = 'pending' OR (offered_at IS NULL AND burn = 0)),
	CHECK (state <> 'recovery' OR epoch = 1)
) STRICT;

CREATE UNIQUE INDEX device_key_active ON device_key (device) WHERE state = 'active';

CREATE UNIQUE INDEX device_key_pending ON device_key (device) WHERE state = 'pending';

CREATE TABLE session (
	sid        BLOB    PRIMARY KEY NOT NULL CHECK (length(sid) = 16),
	device     INTEGER NOT NULL REFERENCES device (id),
	epoch      INTEGER NOT NULL,
	hs_no      INTEGER NOT NULL,
	state      TEXT    NOT NULL CHECK (state IN ('pending', 'active')),
	recovery   INTEGER NOT NULL DEFAULT 0 CHECK (recovery IN (0, 1)), -- it carries the offer of a key and nothing else
	kek        TEXT    NOT NULL CHECK (length(kek) > 0),
	wrapped    BLOB    NOT NULL CHECK (length(wrapped) = 136),
	hs1_hash   BLOB    NOT NULL CHECK (length(hs1_hash) = 32),
	hs2        BLOB, -- the answer to repeat while pending
	last_seq   INTEGER NOT NULL DEFAULT 0,
	created_at INTEGER NOT NULL,
	lifetime   INTEGER NOT NULL CHECK (lifetime > 0), -- ms from created_at, once it is active
	expires_at INTEGER NOT NULL, -- soon while pending, then after its lifetime
	seen_at    INTEGER, -- when the last request was accepted
	UNIQUE (device, hs_no),
	CHECK ((state = 'pending') = (hs2 IS NOT NULL)),
	CHECK ((last_seq > 0) = (seen_at IS NOT NULL))
) STRICT;

CREATE UNIQUE INDEX session_active ON session (device) WHERE state = 'active';

CREATE INDEX session_expires ON session (expires_at);

-- Key-encryption keys that were removed: nothing comes under them any more, not
-- even what was wrapped before and is stored after.
CREATE TABLE closed_kek (
	id TEXT PRIMARY KEY NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TRIGGER device_key_kek_is_open BEFORE INSERT ON device_key WHEN EXISTS (SELECT 1 FROM closed_kek WHERE id = NEW.kek) BEGIN
	SELECT RAISE(ABORT, 'the key-encryption key was removed');
END;

CREATE TRIGGER device_key_kek_stays_open BEFORE UPDATE OF kek ON device_key WHEN EXISTS (SELECT 1 FROM closed_kek WHERE id = NEW.kek) BEGIN
	SELECT RAISE(ABORT, 'the key-encryption key was removed');
END;

CREATE TRIGGER session_kek_is_open BEFORE INSERT ON session WHEN EXISTS (SELECT 1 FROM closed_kek WHERE id = NEW.kek) BEGIN
	SELECT RAISE(ABORT, 'the key-encryption key was removed');
END;

CREATE TRIGGER session_kek_stays_open BEFORE UPDATE OF kek ON session WHEN EXISTS (SELECT 1 FROM closed_kek WHERE id = NEW.kek) BEGIN
	SELECT RAISE(ABORT, 'the key-encryption key was removed');
END;

-- First handshake messages that were accepted once: never again.
CREATE TABLE hs_seen (
	device   INTEGER NOT NULL REFERENCES device (id),
	epoch    INTEGER NOT NULL,
	hs1_hash BLOB    NOT NULL CHECK (length(hs1_hash) = 32),
	hs_no    INTEGER NOT NULL,
	PRIMARY KEY (device, epoch, hs1_hash)
) STRICT, WITHOUT ROWID;

CREATE INDEX hs_seen_no ON hs_seen (device, epoch, hs_no);

-- Messages that took effect: the other half of "exactly once".
CREATE TABLE message (
	device INTEGER NOT NULL REFERENCES device (id),
	msg_id BLOB    NOT NULL CHECK (length(msg_id) = 16),
	hash   BLOB    NOT NULL CHECK (length(hash) = 32),
	kind   INTEGER NOT NULL,
	at     INTEGER NOT NULL,
	PRIMARY KEY (device, msg_id)
) STRICT, WITHOUT ROWID;

-- Telemetry, in the order in which it came. A row is never changed, but for a
-- block that gets its place in time when the device's clock becomes known.
CREATE TABLE block (
	id       INTEGER PRIMARY KEY,
	device   INTEGER NOT NULL REFERENCES device (id),
	inverter TEXT    NOT NULL,
	t0       INTEGER, -- what the times in data count from; NULL while not known
	t1       INTEGER, -- the last sample; NULL while not known
	span     INTEGER NOT NULL CHECK (span >= 0), -- ms from t0 to the last sample
	samples  INTEGER NOT NULL CHECK (samples > 0),
	codec    INTEGER NOT NULL,
	points   TEXT    NOT NULL CHECK (length(points) > 0), -- names, separated by commas
	data     BLOB    NOT NULL,
	boot_id  BLOB CHECK (length(boot_id) = 16), -- of a block that was timed since boot
	mono     INTEGER,                           -- ms since that boot, of t0
	CHECK ((t0 IS NULL) = (t1 IS NULL)),
	CHECK ((boot_id IS NULL) = (mono IS NULL)),
	CHECK (t0 IS NOT NULL OR boot_id IS NOT NULL)
) STRICT;

-- Its scattered entries cost a quarter of an exchange; to cluster the blocks
-- themselves by device would cost more than half (BenchmarkCommit).
CREATE INDEX block_time ON block (device, inverter, t0, t1) WHERE t0 IS NOT NULL;

CREATE INDEX block_unplaced ON block (device, boot_id) WHERE t0 IS NULL;

-- Where the boots of a device lie in time: wall clock minus time since boot.
CREATE TABLE boot (
	device      INTEGER NOT NULL REFERENCES device (id),
	boot_id     BLOB    NOT NULL CHECK (length(boot_id) = 16),
	wall_offset INTEGER NOT NULL,
	uncertainty INTEGER NOT NULL CHECK (uncertainty >= 0),
	seen_at     INTEGER NOT NULL,
	PRIMARY KEY (device, boot_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE inventory (
	device          INTEGER PRIMARY KEY REFERENCES device (id),
	reported_at     INTEGER NOT NULL,
	agent_version   TEXT    NOT NULL,
	hardware        TEXT    NOT NULL,
	control_allowed INTEGER NOT NULL CHECK (control_allowed IN (0, 1)),
	inverters       TEXT    NOT NULL CHECK (json_valid(inverters))
) STRICT;

-- The audit log: written once, in the transaction of what it tells of.
CREATE TABLE audit (
	n          INTEGER PRIMARY KEY,
	at         INTEGER NOT NULL,
	actor_kind TEXT    NOT NULL CHECK (actor_kind IN ('operator', 'device', 'system')),
	actor      TEXT    NOT NULL,
	device     TEXT    NOT NULL, -- name; '' for the fleet
	action     TEXT    NOT NULL CHECK (length(action) > 0),
	text       TEXT    NOT NULL,
	attrs      TEXT    NOT NULL CHECK (json_valid(attrs)),
	reason     TEXT    NOT NULL -- of a security event; '' of other records
) STRICT;

CREATE INDEX audit_device ON audit (device, n) WHERE device <> '';

CREATE INDEX audit_security ON audit (n) WHERE reason <> '';

CREATE INDEX audit_device_security ON audit (device, n) WHERE device <> '' AND reason <> '';

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit BEGIN
	SELECT RAISE(ABORT, 'the audit log is not changed');
END;

CREATE TRIGGER audit_is_not_deleted BEFORE DELETE ON audit BEGIN
	SELECT RAISE(ABORT, 'the audit log is not deleted from');
END;

-- Security events of a device that others can cause as often as they like: the
-- audit log is told of them once an hour, and what comes in between is counted.
CREATE TABLE alarm (
	device  INTEGER NOT NULL REFERENCES device (id),
	reason  TEXT    NOT NULL CHECK (length(reason) > 0),
	told_at INTEGER NOT NULL,
	last_at INTEGER NOT NULL,
	untold  INTEGER NOT NULL CHECK (untold >= 0), -- events since
	PRIMARY KEY (device, reason)
) STRICT, WITHOUT ROWID;

CREATE INDEX alarm_untold ON alarm (told_at) WHERE untold > 0;

-- Tokens of people and programs; only their hashes are kept.
CREATE TABLE token (
	hash       BLOB    PRIMARY KEY NOT NULL CHECK (length(hash) = 32),
	name       TEXT    NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
	role       TEXT    NOT NULL CHECK (length(role) > 0),
	created_at INTEGER NOT NULL,
	expires_at INTEGER -- NULL for never
) STRICT;
