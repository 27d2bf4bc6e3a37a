package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"ecowatt/cloud/api"
	"ecowatt/cloud/audit"
)

// sections are the sections of docs/cli.md about commands, by command.
func sections(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "cli.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, part := range strings.Split(string(text), "\n### ")[1:] {
		title, body, _ := strings.Cut(part, "\n")
		body, _, _ = strings.Cut(body, "\n## ")
		found[title] = body
	}
	return found
}

// docs/cli.md has a section for each command there is, which names each of its
// flags.
func TestCommandsAreDocumented(t *testing.T) {
	documented := sections(t)
	var have, want []string
	for title := range documented {
		have = append(have, title)
	}
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			visit(sub)
		}
		if c.HasSubCommands() {
			return
		}
		want = append(want, c.CommandPath())
		c.Flags().VisitAll(func(f *pflag.Flag) {
			named := regexp.MustCompile(`--` + f.Name + `\b`).MatchString(documented[c.CommandPath()])
			if f.Name != "help" && !named {
				t.Errorf("docs/cli.md: the section %s lacks the flag --%s", c.CommandPath(), f.Name)
			}
		})
		for _, flag := range regexp.MustCompile(`--([a-z][a-z-]+)`).FindAllStringSubmatch(documented[c.CommandPath()], -1) {
			if c.Flags().Lookup(flag[1]) == nil && flag[1] != "help" {
				t.Errorf("docs/cli.md: the section %s tells of a flag that is not there, --%s", c.CommandPath(), flag[1])
			}
		}
		if c.Short == "" || c.Example == "" {
			t.Errorf("%s lacks a short text or an example", c.CommandPath())
		}
	}
	visit((&app{}).newRootCommand())
	slices.Sort(have)
	slices.Sort(want)
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("docs/cli.md has sections for other commands (-commands +sections):\n%s", diff)
	}
}

// The JSON that docs/cli.md shows is what the commands print: it has their
// fields and no others.
func TestJSONIsDocumented(t *testing.T) {
	block := regexp.MustCompile("(?s)```json\n(.*?)```")
	documented := sections(t)
	for command, shape := range map[string]any{
		"ecowatt device add": &struct {
			Device api.Device
			File   string
		}{},
		"ecowatt backup":                  &backupJSON{},
		"ecowatt keyring list":            &api.KeyringList{},
		"ecowatt keyring add":             &api.KeyringKey{},
		"ecowatt keyring rewrap":          &api.KeyringRewrap{},
		"ecowatt device list":             &api.DeviceList{},
		"ecowatt device show":             &api.Device{},
		"ecowatt device rotate-key":       &api.Rotation{},
		"ecowatt device recover":          &api.Recovery{},
		"ecowatt config get":              &api.Config{},
		"ecowatt config log":              &api.ConfigLog{},
		"ecowatt config template list":    &api.ConfigTemplates{},
		"ecowatt command limit":           &api.CommandOrder{},
		"ecowatt command list":            &api.CommandList{},
		"ecowatt command show":            &api.Command{},
		"ecowatt telemetry show":          &api.Samples{},
		"ecowatt telemetry show, windows": &api.Samples{},
		"ecowatt firmware root init":      &rootMade{},
		"ecowatt firmware root rotate":    &rootRotated{},
		"ecowatt firmware keygen":         &keyInfo{},
		"ecowatt firmware downgrade":      &statementInfo{},
		"ecowatt firmware inspect":        &statementInfo{},
		"ecowatt firmware push":           &api.PushedRelease{},
		"ecowatt firmware list":           &api.ReleaseList{},
		"ecowatt rollout list":            &api.RolloutList{},
		"ecowatt rollout show":            &rolloutDevices{},
		"ecowatt log":                     &audit.Record{},
		"ecowatt bench block":             &benchReport{},
		"ecowatt bench exchange":          &exchangeReport{},
		"ecowatt probe":                   &probeReport{},
		"ecowatt profile list":            &[]profileRow{},
	} {
		nth := 0
		section, isSecond := strings.CutSuffix(command, ", windows")
		if isSecond {
			nth = 1
		}
		all := block.FindAllStringSubmatch(documented[section], -1)
		if len(all) <= nth {
			t.Errorf("%s: no JSON is shown", command)
			continue
		}
		shown := all[nth]
		d := json.NewDecoder(strings.NewReader(shown[1]))
		d.DisallowUnknownFields()
		if err := d.Decode(shape); err != nil {
			t.Errorf("%s: %v", command, err)
		}
		// Written again, no field appears that the document does not show.
		var before, after any
		again, err := json.Marshal(shape)
		if err == nil {
			err = json.Unmarshal(again, &after)
		}
		if err == nil {
			err = json.Unmarshal([]byte(shown[1]), &before)
		}
		if err != nil {
			t.Fatal(err)
		}
		if command == "ecowatt device add" { // which has no type of its own
			continue
		}
		if diff := cmp.Diff(before, after); diff != "" {
			t.Errorf("%s (-docs/cli.md +fields):\n%s", command, diff)
		}
	}
	for command, text := range documented {
		for _, shown := range block.FindAllStringSubmatch(text, -1) {
			if !json.Valid([]byte(shown[1])) {
				t.Errorf("%s: not JSON: %s", command, shown[1])
			}
		}
	}
}
