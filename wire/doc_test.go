package wire

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"ecowatt/key"
)

// docTable returns the rows of the first table with these column heads in a
// section of docs/protocol.md.
func docTable(t *testing.T, section int, heads ...string) [][]string {
	t.Helper()
	text, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(text), fmt.Sprintf("\n## %d. ", section))
	if !ok {
		t.Fatalf("no section %d", section)
	}
	rest, _, _ = strings.Cut(rest, "\n## ")
	head := "| " + strings.Join(heads, " | ") + " |\n"
	_, rest, ok = strings.Cut(rest, head)
	if !ok {
		t.Fatalf("section %d has no table %s", section, head)
	}
	var rows [][]string
	for line := range strings.Lines(rest) {
		if !strings.HasPrefix(line, "|") {
			break
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if !strings.HasPrefix(cells[0], "---") {
			rows = append(rows, cells)
		}
	}
	return rows
}

// column returns one column of a table.
func column(rows [][]string, n int) []string {
	var out []string
	for _, r := range rows {
		out = append(out, r[n])
	}
	return out
}

func number(t *testing.T, s string) int {
	t.Helper()
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestDocMessages(t *testing.T) {
	rows := docTable(t, 1, "message", "type", "goes as", "layout", "bytes")
	sizes := map[string]string{
		"HS1": fmt.Sprint(HS1Size),
		"HS2": fmt.Sprintf("%d … %d", HS2MinSize, HS2MaxSize),
		"REQ": fmt.Sprintf("%d + %d n, at most %d", RequestOverhead, PadUnit, MaxRequest),
		"RSP": fmt.Sprintf("%d + %d n", AnswerOverhead, PadUnit),
		"ERR": fmt.Sprint(ErrorSize),
	}
	paths := map[string]string{"HS1": "`POST " + PathSession + "`", "REQ": "`POST " + PathExchange + "`"}
	types := map[string]Type{"HS1": HS1, "HS2": HS2, "REQ": REQ, "RSP": RSP, "ERR": typeERR}
	if len(rows) != len(types) {
		t.Fatalf("%d messages", len(rows))
	}
	for _, r := range rows {
		if Type(number(t, r[1])) != types[r[0]] || r[4] != sizes[r[0]] || paths[r[0]] != "" && r[2] != paths[r[0]] {
			t.Errorf("the document says %q", r)
		}
		if r[0] == "ERR" {
			continue
		}
		if types[r[0]].String() != r[0] {
			t.Errorf("%s is called %v", r[0], types[r[0]])
		}
		// The parts of the layout add up to the smallest size.
		sum := 0
		for _, m := range regexp.MustCompile(`\((\d+)[ )]`).FindAllStringSubmatch(r[3], -1) {
			sum += number(t, m[1])
		}
		least := map[string]int{"HS1": HS1Size, "HS2": HS2MinSize, "REQ": RequestOverhead, "RSP": AnswerOverhead}[r[0]]
		if sum != least {
			t.Errorf("the layout of %s has %d bytes, want %d", r[0], sum, least)
		}
	}
}

func TestDocHeader(t *testing.T) {
	b := Handshake(HS2, repeat[key.ID](0xaa), 0xbbbbbbbb).Append(nil)
	want := map[string]string{
		"magic": "4557", "version": "01", "type": "02", "suite": "01", "flags": "00", "reserved": "0000",
		"id": strings.Repeat("aa", 16), "counter": "bbbbbbbb00000000",
	}
	at := 0
	rows := docTable(t, 1, "offset", "bytes", "field", "HS1, HS2", "REQ, RSP")
	for _, r := range rows {
		offset, size := number(t, r[0]), number(t, r[1])
		if offset != at || fmt.Sprintf("%x", b[offset:offset+size]) != want[r[2]] {
			t.Errorf("the document says %q, the header is %x", r, b)
		}
		at += size
	}
	if at != HeaderSize || len(rows) != len(want) {
		t.Errorf("%d fields of %d bytes", len(rows), at)
	}
}

func TestDocWelcome(t *testing.T) {
	w := Welcome{ServerTime: 0x0102030405060708, Lifetime: 0x11 * 1e9, MaxRequest: 0x22222222, SlotHint: 0x33 * 1e9, Flags: RotationPending | FirmwareOffered | RecoverySession, RootVersion: 0x55}
	b := w.Append(nil)
	at := 0
	for i, r := range docTable(t, 2, "offset", "bytes", "field") {
		offset, size := number(t, r[0]), number(t, r[1])
		want := []string{"0102030405060708", "00000011", "22222222", "0033", "0007", "00000055"}[i]
		if offset != at || fmt.Sprintf("%x", b[offset:offset+size]) != want {
			t.Errorf("the document says %q, the welcome is %x", r, b)
		}
		at += size
	}
	if at != WelcomeSize {
		t.Errorf("%d bytes", at)
	}
}

func TestDocLimits(t *testing.T) {
	want := []string{fmt.Sprint(maxDepth), fmt.Sprint(maxArray), fmt.Sprint(maxMap)}
	if diff := cmp.Diff(want, column(docTable(t, 3, "rule", "bound"), 1)); diff != "" {
		t.Errorf("(-code +document):\n%s", diff)
	}
}

// The keys of the tables are those that full bodies have.
func TestDocKeys(t *testing.T) {
	bodies := map[string][]byte{}
	for _, s := range samples(t) {
		b, err := s.encode()
		if err != nil {
			t.Fatal(err)
		}
		bodies[s.name] = b
	}
	for name, section := range map[string]int{"request": 4, "answer": 5, "telemetry in windows": 6} {
		var want []string
		for k := range asMap(t, bodies[name]) {
			want = append(want, strings.Replace(fmt.Sprint(k), "-", "−", 1))
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, column(docTable(t, section, "key", "value"), 0)); diff != "" {
			t.Errorf("%s (-code +document):\n%s", name, diff)
		}
	}
}

func TestDocKinds(t *testing.T) {
	var want [][]string
	for k := KindTelemetry; !strings.HasPrefix(k.String(), "kind "); k++ {
		want = append(want, []string{fmt.Sprint(uint64(k)), k.String()})
	}
	var got [][]string
	for _, r := range docTable(t, 4, "kind", "meaning", "body") {
		got = append(got, r[:2])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-code +document):\n%s", diff)
	}
}

func TestDocStatuses(t *testing.T) {
	rows := docTable(t, 5, "status", "meaning", "the device")
	for i, r := range rows {
		s := Status(i)
		word, _, _ := strings.Cut(r[1], ":")
		if r[0] != fmt.Sprint(i) || word != s.String() || strings.HasPrefix(r[2], "removes") != s.Settles() {
			t.Errorf("the document says %q of %v", r, s)
		}
	}
	if len(rows) != int(Later)+1 {
		t.Errorf("%d statuses", len(rows))
	}
}

func TestDocCodes(t *testing.T) {
	rows := docTable(t, 8, "code", "HTTP", "meaning")
	for i, r := range rows {
		c := Code(i + 1)
		word, _, _ := strings.Cut(r[2], ":")
		if r[0] != fmt.Sprint(i+1) || r[1] != fmt.Sprint(c.HTTPStatus()) || word != c.String() {
			t.Errorf("the document says %q of %v", r, c)
		}
	}
	if len(rows) != int(CodeTooLarge) {
		t.Errorf("%d codes", len(rows))
	}
}

// The reasons of the document are the constants of reason.go, in their order.
func TestDocReasons(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "reason.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var want []string
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for _, v := range spec.Values {
				name, err := strconv.Unquote(v.(*ast.BasicLit).Value)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, "`"+name+"`")
			}
		}
		return true
	})
	if diff := cmp.Diff(want, column(docTable(t, 10, "reason", "when"), 0)); diff != "" {
		t.Errorf("(-code +document):\n%s", diff)
	}
}
