package config

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"

	"ecowatt/internal/disk"
	"ecowatt/parameter"
)

// File is the name of the file in the gateway's folder.
const File = "config.json"

const (
	fileVersion = 1
	maxFile     = 1 << 20 // bytes
	fileMode    = fs.FileMode(0o600)
)

// state is what the file holds.
type state struct {
	Version int              `json:"version"`
	Asked   string           `json:"asked"` // digest of the parameters of the update that is in force
	Set     parameter.Values `json:"set"`   // what the cloud sets and the device took
	Answer  Answer           `json:"answer"`
	Trial   *trial           `json:"trial,omitempty"`
}

// trial is a change that is not proven.
type trial struct {
	Former  parameter.Values `json:"former"`     // what was set when the cloud was reached last
	Starts  int              `json:"starts"`     // of the agent
	Boot    string           `json:"boot"`       // of the last failure
	At      int64            `json:"at_ms"`      // since that boot
	Failing int64            `json:"failing_ms"` // for how long exchanges have failed

	kept int64 // of Failing, on the disk
}

func read(fsys disk.FS) (state, error) {
	none := state{Set: parameter.Values{}}
	data, err := disk.ReadFile(fsys, File, maxFile)
	if err != nil {
		return none, err
	}
	var s state
	if err := json.Unmarshal(data, &s); err != nil {
		return none, fmt.Errorf("reading %s: %w", File, err)
	}
	if s.Version != fileVersion {
		return none, fmt.Errorf("reading %s: version %d; this program knows %d", File, s.Version, fileVersion)
	}
	s.Set = canonical(s.Set)
	if s.Trial != nil {
		s.Trial.Former, s.Trial.kept = canonical(s.Trial.Former), s.Trial.Failing
	}
	return s, nil
}

// canonical gives values the types they had before they became JSON. What is no
// value any more stays as it is, for the check to find.
func canonical(values parameter.Values) parameter.Values {
	out := parameter.Values{}
	for name, v := range values {
		if good, problem := parameter.Check(name, v); problem == nil {
			v = good
		}
		out[name] = v
	}
	return out
}

func write(fsys disk.FS, s state) error {
	s.Version = fileVersion
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("writing %s: %w", File, err)
	}
	return disk.WriteFile(fsys, File, append(data, '\n'), fileMode)
}

// digest tells the parameters of one update from those of another.
func digest(parameters map[string]any) string {
	text, err := json.Marshal(parameters) // keys are sorted
	if err != nil {
		text = fmt.Append(nil, parameters)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// maxText is the longest text of a refusal, in bytes.
const maxText = 200

// short is text as UTF-8 of at most maxText bytes.
func short(text string) string {
	text = strings.ToValidUTF8(text, "\ufffd")
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText-len("…")], "") + "…"
	}
	return text
}
