package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// table prints columns that a person can read. Its cells are made safe for a
// terminal.
type table struct {
	left  []bool // per column: whether its cells stand on the left, else on the right
	rows  [][]string
	width []int // of each column so far, in characters
}

// newTable begins a table with its header. A heading that ends in "<" makes a
// column of text, which stands on the left; the others hold numbers.
func newTable(headings ...string) *table {
	t := &table{left: make([]bool, len(headings)), width: make([]int, len(headings))}
	for i, h := range headings {
		headings[i], t.left[i] = strings.CutSuffix(h, "<")
	}
	t.add(headings...)
	return t
}

// add adds a row with as many cells as there are headings.
func (t *table) add(cells ...string) {
	row := make([]string, len(t.width))
	for i := range row {
		row[i] = oneLine(cells[i])
		t.width[i] = max(t.width[i], utf8.RuneCountInString(row[i]))
	}
	t.rows = append(t.rows, row)
}

// render writes the table.
func (t *table) render(w io.Writer) error {
	var b strings.Builder
	for _, row := range t.rows {
		padded := make([]string, len(row))
		for i, cell := range row {
			pad := strings.Repeat(" ", t.width[i]-utf8.RuneCountInString(cell))
			if t.left[i] {
				padded[i] = cell + pad
			} else {
				padded[i] = pad + cell
			}
		}
		b.WriteString(strings.TrimRight(strings.Join(padded, "  "), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// printJSON writes v for programs, indented.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// missing is what stands where there is no value.
const missing = "—"

// orMissing is text, or the mark of a missing value.
func orMissing(text string) string {
	if text == "" {
		return missing
	}
	return text
}

// age says how long ago t was. A time ahead of now is "0 s".
func age(t, now time.Time) string { return spanText(max(now.Sub(t), 0)) }

// spanText says how long d is, in the largest unit of which there are two at least:
// "12 s", "3 min", "26 h", "5 d".
func spanText(d time.Duration) string {
	switch {
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", d/time.Hour)
	}
	return fmt.Sprintf("%d d", d/(24*time.Hour))
}

// localTime is how people see times: on their own clock, to the second.
func localTime(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }
