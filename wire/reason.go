package wire

// Reason names one kind of security event, the same on both sides (section 10).
type Reason string

// The reasons of section 10.
const (
	HandshakeUnknownID Reason = "HS_UNKNOWN_ID" // no such psk_id
	HandshakeBadTag    Reason = "HS_BAD_TAG"    // the key was not the right one
	HandshakeOldEpoch  Reason = "HS_OLD_EPOCH"  // a key that was retired
	HandshakeReplay    Reason = "HS_REPLAY"     // a first message that was accepted before
	HandshakeRate      Reason = "HS_RATE"       // too many handshakes
	HandshakeDisabled  Reason = "HS_DISABLED"   // a device that was disabled

	ExchangeFormat    Reason = "EX_FORMAT"         // malformed
	ExchangeNoSession Reason = "EX_NO_SESSION"     // unknown, expired or superseded
	ExchangeBadMAC    Reason = "EX_BAD_MAC"        // not made with the session's keys
	ExchangeReplay    Reason = "EX_REPLAY"         // a sequence number that is not new
	ExchangeGap       Reason = "EX_GAP"            // sequence numbers were skipped; accepted
	ExchangeConflict  Reason = "EX_MSGID_CONFLICT" // an id that was used for other bytes
	ExchangeSchema    Reason = "EX_SCHEMA"         // a body that is not as the protocol wants it
	ExchangeTooLarge  Reason = "EX_TOO_LARGE"      // beyond the limit

	SessionConfirmed  Reason = "SESS_CONFIRMED"  // its first request was accepted
	SessionSuperseded Reason = "SESS_SUPERSEDED" // a later handshake took its place
	SessionExpired    Reason = "SESS_EXPIRED"    // too old, or too many requests

	RotationOffered   Reason = "ROT_OFFERED"
	RotationCommitted Reason = "ROT_COMMITTED"
	RotationFallback  Reason = "ROT_FALLBACK"
	RotationBurn      Reason = "ROT_BURN"

	CloneSuspect Reason = "CLONE_SUSPECT" // two devices with one key

	FirmwareBadSignature  Reason = "FW_BAD_SIGNATURE"
	FirmwareBadChunk      Reason = "FW_BAD_CHUNK"
	FirmwareDowngrade     Reason = "FW_DOWNGRADE"
	FirmwareWrongHardware Reason = "FW_WRONG_HARDWARE"
	FirmwareBaseMismatch  Reason = "FW_BASE_MISMATCH"
	FirmwareOnTrial       Reason = "FW_TRIAL"
	FirmwareWasConfirmed  Reason = "FW_CONFIRMED"
	FirmwareWasRolledBack Reason = "FW_ROLLED_BACK"
)
