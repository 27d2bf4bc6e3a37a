-- Configuration: what devices are to have set, and what they answered.

ALTER TABLE device ADD COLUMN cfg_revision INTEGER NOT NULL DEFAULT 0; -- what is desired of it; 0: nothing ever was

-- While it has not answered that revision: a bound of what the update takes in an
-- answer, in bytes. Else 0.
ALTER TABLE device ADD COLUMN cfg_pending INTEGER NOT NULL DEFAULT 0 CHECK (cfg_pending >= 0);

ALTER TABLE device ADD COLUMN cfg_drift INTEGER NOT NULL DEFAULT 0; -- parameters that it answered for and does not have as desired

ALTER TABLE device ADD COLUMN cfg_slot INTEGER NOT NULL DEFAULT 0; -- s; the upload interval that it has from here; 0: its own

CREATE INDEX device_cfg_pending ON device (id) WHERE cfg_pending > 0;

CREATE INDEX device_cfg_drift ON device (id) WHERE cfg_drift > 0;

-- What people have written down: for a template, a group or a device.
CREATE TABLE config_layer (
	kind       TEXT    NOT NULL CHECK (kind IN ('template', 'group', 'device')),
	name       TEXT    NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
	version    INTEGER NOT NULL CHECK (version > 0), -- grows with every change
	template   TEXT    NOT NULL DEFAULT '' CHECK (template = '' OR kind <> 'template'), -- that it is given
	parameters TEXT    NOT NULL CHECK (json_valid(parameters)),
	changed_at INTEGER NOT NULL,
	changed_by TEXT    NOT NULL,
	PRIMARY KEY (kind, name)
) STRICT, WITHOUT ROWID;

CREATE INDEX config_layer_template ON config_layer (template, kind, name) WHERE template <> '';

-- What was desired of a device, from one moment to the next. Rows stay.
CREATE TABLE config_revision (
	device       INTEGER NOT NULL REFERENCES device (id),
	revision     INTEGER NOT NULL CHECK (revision > 0),
	at           INTEGER NOT NULL,
	operator     TEXT    NOT NULL, -- who caused it
	cause        TEXT    NOT NULL, -- what has changed
	parameters   TEXT    NOT NULL CHECK (json_valid(parameters)),
	delivered_at INTEGER, -- first sent
	answered_at  INTEGER,
	outcome      TEXT CHECK (json_valid(outcome)), -- of the answer that counts
	PRIMARY KEY (device, revision),
	CHECK ((answered_at IS NULL) = (outcome IS NULL))
) STRICT, WITHOUT ROWID;

-- What a device has said to be in force, of what is set from here.
CREATE TABLE config_report (
	device     INTEGER PRIMARY KEY REFERENCES device (id),
	revision   INTEGER NOT NULL, -- that it answered last; 0: it had none
	at         INTEGER NOT NULL,
	parameters TEXT    NOT NULL CHECK (json_valid(parameters)),
	former     TEXT    NOT NULL CHECK (json_valid(former)), -- in force before that revision
	outcome    TEXT    NOT NULL CHECK (json_valid(outcome))
) STRICT;

-- Devices whose layers have changed since what is desired of them was worked out.
CREATE TABLE config_due (
	device   INTEGER PRIMARY KEY REFERENCES device (id),
	at       INTEGER NOT NULL,
	operator TEXT    NOT NULL,
	cause    TEXT    NOT NULL
) STRICT;
