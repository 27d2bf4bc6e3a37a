-- Commands: what devices are told to do, and what became of it. Rows stay.

ALTER TABLE device ADD COLUMN cmd_seq INTEGER NOT NULL DEFAULT 0; -- of the command that was queued last

ALTER TABLE device ADD COLUMN cmd_open INTEGER NOT NULL DEFAULT 0; -- commands that are not over: rows with a due_at

-- One task for each device of a group.
CREATE TABLE command_order (
	id         BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
	grp        TEXT    NOT NULL CHECK (length(grp) BETWEEN 1 AND 64),
	action     TEXT    NOT NULL,
	arguments  TEXT    NOT NULL CHECK (json_valid(arguments)),
	operator   TEXT    NOT NULL,
	client_key TEXT    CHECK (length(client_key) > 0), -- under which it was asked for; NULL for none
	at         INTEGER NOT NULL,
	expires_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX command_order_key ON command_order (grp, operator, client_key) WHERE client_key IS NOT NULL;

-- Devices of the group that were not asked, and why.
CREATE TABLE command_refusal (
	order_id BLOB    NOT NULL REFERENCES command_order (id),
	device   INTEGER NOT NULL REFERENCES device (id),
	code     TEXT    NOT NULL CHECK (length(code) > 0),
	field    TEXT    NOT NULL,
	problem  TEXT    NOT NULL,
	PRIMARY KEY (order_id, device)
) STRICT, WITHOUT ROWID;

CREATE TABLE command (
	id           BLOB    PRIMARY KEY NOT NULL CHECK (length(id) = 16),
	device       INTEGER NOT NULL REFERENCES device (id),
	seq          INTEGER NOT NULL CHECK (seq > 0), -- cmd_seq: the order of the commands of a device
	order_id     BLOB    REFERENCES command_order (id), -- NULL for none
	action       TEXT    NOT NULL,
	arguments    TEXT    NOT NULL CHECK (json_valid(arguments)),
	operator     TEXT    NOT NULL,
	client_key   TEXT    CHECK (length(client_key) > 0), -- under which it was asked for; NULL for none
	state        TEXT    NOT NULL CHECK (state IN ('queued', 'delivered', 'executing', 'succeeded', 'failed', 'expired', 'cancelled')),
	final        INTEGER NOT NULL DEFAULT 0 CHECK (final IN (0, 1)), -- the device has said how it ended
	code         TEXT    NOT NULL DEFAULT '',
	text         TEXT    NOT NULL DEFAULT '',
	value        TEXT, -- a number, read back
	queued_at    INTEGER NOT NULL,
	expires_at   INTEGER NOT NULL, -- it is not sent later
	due_at       INTEGER, -- when the cloud gives it up; NULL when it is over
	delivered_at INTEGER, -- first sent
	executing_at INTEGER,
	executed_at  INTEGER, -- by the device's clock
	ended_at     INTEGER,
	UNIQUE (device, seq),
	CHECK ((due_at IS NOT NULL) = (state IN ('queued', 'delivered', 'executing'))),
	CHECK ((ended_at IS NULL) = (due_at IS NOT NULL)),
	CHECK (final = 0 OR state IN ('succeeded', 'failed', 'expired'))
) STRICT;

CREATE UNIQUE INDEX command_key ON command (device, operator, client_key) WHERE client_key IS NOT NULL;

CREATE INDEX command_open ON command (device, seq) WHERE due_at IS NOT NULL;

CREATE INDEX command_due ON command (due_at) WHERE due_at IS NOT NULL;

CREATE INDEX command_by_order ON command (order_id) WHERE order_id IS NOT NULL;

CREATE INDEX command_by_state ON command (device, state, seq);

CREATE INDEX command_state ON command (state);

-- Power limits that devices say they keep, by their own word.
CREATE TABLE lease (
	device         INTEGER NOT NULL REFERENCES device (id),
	command        BLOB    NOT NULL CHECK (length(command) = 16), -- that ordered it; not always one that is known here
	inverter       TEXT    NOT NULL,
	percent        REAL    NOT NULL,
	since          INTEGER NOT NULL,
	until          INTEGER, -- NULL where the device did not know the time
	overwritten_at INTEGER, -- when somebody else wrote over it
	PRIMARY KEY (device, command)
) STRICT, WITHOUT ROWID;
