package firmware

import (
	"fmt"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// document is docs/formats/firmware.md.
func document(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../docs/formats/firmware.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// rows are the first cells of the rows of the first table after the text that
// begins with these words.
func rows(t *testing.T, words string, cells int) (found []string) {
	t.Helper()
	_, after, ok := strings.Cut(document(t), words)
	if !ok {
		t.Fatalf("docs/formats/firmware.md does not say %q", words)
	}
	_, after, _ = strings.Cut(after, "|---|")
	for _, line := range strings.Split(after, "\n")[1:] {
		if !strings.HasPrefix(line, "|") {
			return found
		}
		columns := strings.Split(strings.Trim(line, "|"), "|")
		found = append(found, strings.Join(strings.Fields(strings.Join(columns[:cells], " ")), " "))
	}
	return found
}

// fields are the fields of a statement as the tables show them.
func fields(v any) (found []string) {
	for f := range reflect.TypeOf(v).Fields() {
		tag := strings.Split(f.Tag.Get("cbor"), ",")
		line := tag[0] + " " + snake(f.Name) + " " + cborType(f.Type)
		if len(tag) > 2 && tag[2] == "omitempty" {
			line += ", optional"
		}
		found = append(found, line)
	}
	return found
}

func snake(name string) string {
	name = strings.ReplaceAll(name, "SBOM", "Sbom")
	return strings.ToLower(regexp.MustCompile(`([a-z])([A-Z])`).ReplaceAllString(name, "${1}_$2"))
}

func cborType(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Payload]():
		return "payload"
	case t.Kind() == reflect.Array:
		return fmt.Sprintf("bytes[%d]", t.Len())
	case t == reflect.TypeFor[[]byte]():
		return "bytes"
	case t.Kind() == reflect.Slice:
		return "list of " + cborType(t.Elem())
	}
	return map[reflect.Kind]string{reflect.Uint64: "uint", reflect.Int64: "int", reflect.String: "text"}[t.Kind()]
}

// The tables of docs/formats/firmware.md say what the code does.
func TestDocumentedTables(t *testing.T) {
	for words, statement := range map[string]any{
		"Says whose signatures count": Root{}, "Describes a release": Manifest{}, "A payload (*tested*)": Payload{}, "Lets devices go back": Downgrade{},
	} {
		if diff := cmp.Diff(fields(statement), rows(t, words, 3)); diff != "" {
			t.Errorf("the table after %q (-code +document):\n%s", words, diff)
		}
	}
	limits := []string{}
	for _, l := range []struct {
		name  string
		value int
	}{
		{"MaxImage", MaxImage},
		{"MaxEnvelope", MaxEnvelope},
		{"MaxSignatures", MaxSignatures},
		{"MaxPayloads", MaxPayloads},
		{"MaxHardware", MaxHardware},
		{"MaxText", MaxText},
		{"MaxChunks", MaxChunks},
		{"MaxKeys", MaxKeys},
		{"MaxDevices", MaxDevices},
	} {
		limits = append(limits, fmt.Sprint(l.name, " ", l.value))
	}
	if diff := cmp.Diff(limits, rows(t, "## 1. Limits", 2)); diff != "" {
		t.Errorf("limits (-code +document):\n%s", diff)
	}
	types := []string{"manifest `" + string(StatementManifest) + "`", "root `" + string(StatementRoot) + "`", "downgrade `" + string(StatementDowngrade) + "`"}
	if diff := cmp.Diff(types, rows(t, "never counts for another", 2)); diff != "" {
		t.Errorf("types (-code +document):\n%s", diff)
	}
	kinds := []string{fmt.Sprint(KindFull, " full"), fmt.Sprint(KindPatch, " patch"), fmt.Sprint(KindDiff, " diff")}
	if diff := cmp.Diff(kinds, rows(t, "One zstd frame", 2)); diff != "" {
		t.Errorf("kinds (-code +document):\n%s", diff)
	}
}
