package access

import (
	"errors"
	"fmt"
)

// Role is what a token is for. A role may do what the ones before it may.
type Role uint8

// The closed set of roles; the zero Role is none of them.
const (
	Viewer        Role = iota + 1 // sees everything, changes nothing
	Operator                      // runs the fleet
	Administrator                 // decides who belongs to the fleet, and handles keys
)

var errRole = errors.New("a role is viewer, operator or administrator")

// String returns the role's name.
func (r Role) String() string {
	switch r {
	case Viewer:
		return "viewer"
	case Operator:
		return "operator"
	case Administrator:
		return "administrator"
	}
	return fmt.Sprintf("role(%d)", uint8(r))
}

func (r Role) valid() bool { return Viewer <= r && r <= Administrator }

// ParseRole is the inverse of String.
func ParseRole(s string) (Role, error) {
	for r := Viewer; r <= Administrator; r++ {
		if r.String() == s {
			return r, nil
		}
	}
	return 0, fmt.Errorf("%.40q: %w", s, errRole)
}

// Action is something that a caller asks to do.
type Action uint8

// The closed set of actions.
const (
	SeeFleet      Action = iota + 1 // list and show devices
	SeeTelemetry                    // query and export samples
	SeeAudit                        // read the audit log and its events
	ChangeDevice                    // group, notes, disabled
	OrderCommands                   // tell devices to do something, or not to
	ChangeConfig                    // set what devices are to have set
	AddDevice                       // makes a key and hands it out
	RotateKeys                      // replaces keys, of one device or of all
	RecoverDevice                   // lets a device in with a key that was replaced
	ManageKeyring                   // see and change what wraps the keys in the database
	KeepReleases                    // add and remove signed releases of firmware
	RollOut                         // bring releases to devices, and stop doing so
	TrustRoot                       // add roots of trust for firmware
)

// String returns the action as it reads after "may not".
func (a Action) String() string {
	switch a {
	case SeeFleet:
		return "see the fleet"
	case SeeTelemetry:
		return "see telemetry"
	case SeeAudit:
		return "see the audit log"
	case ChangeDevice:
		return "change a device"
	case OrderCommands:
		return "order commands"
	case ChangeConfig:
		return "change a configuration"
	case AddDevice:
		return "add a device"
	case RotateKeys:
		return "rotate keys"
	case RecoverDevice:
		return "let a device recover"
	case ManageKeyring:
		return "see or change the key ring"
	case KeepReleases:
		return "add or remove releases"
	case RollOut:
		return "roll out releases"
	case TrustRoot:
		return "add a root of trust"
	}
	return fmt.Sprintf("action(%d)", uint8(a))
}

// needs is the table of permissions: the least role that may do it. An action
// outside the table is nobody's.
func (a Action) needs() Role {
	switch a {
	case SeeFleet, SeeTelemetry, SeeAudit:
		return Viewer
	case ChangeDevice, OrderCommands, ChangeConfig, KeepReleases, RollOut:
		return Operator
	case AddDevice, RotateKeys, RecoverDevice, ManageKeyring, TrustRoot:
		return Administrator
	}
	return Administrator + 1
}

// May reports whether the role may do it.
func (r Role) May(a Action) bool { return r.valid() && r >= a.needs() }

// ForbiddenError says that somebody known may not do what they asked for.
type ForbiddenError struct {
	Who    Identity
	Action Action
}

func (e *ForbiddenError) Error() string {
	return fmt.Sprintf("%s (%s) may not %s: that takes the role %s", e.Who.Name, e.Who.Role, e.Action, e.Action.needs())
}

// Authorize returns a *ForbiddenError unless who may do it.
func (who Identity) Authorize(a Action) error {
	if who.Role.May(a) {
		return nil
	}
	return &ForbiddenError{Who: who, Action: a}
}
