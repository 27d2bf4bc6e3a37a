package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// What cannot be meant is wrong usage, and touches nothing.
func TestServeUsage(t *testing.T) {
	o := newOperator(t)
	for _, test := range []struct{ args, says string }{
		{"--db postgres://localhost/x", `^ecowatt: --db: PostgreSQL is not supported yet; use sqlite:FILE$`},
		{"--db ecowatt.db", `^ecowatt: --db: "ecowatt\.db" is not of the form sqlite:FILE$`},
		{"--listen here", `^ecowatt: --listen: "here" is not of the form HOST:PORT or :PORT$`},
		{"--slot 0", `^ecowatt: --slot: 0s is not within 1s and 24h$`},
		{"--slot 1ms", `^ecowatt: --slot: 1ms is not within 1s and 24h$`},
		{"--public-url eco.example", `^ecowatt: --public-url: `},
		{"--handshake-rate 0", `^ecowatt: --handshake-rate: 0 is not within 1 and 1000000$`},
		{"--handshake-rate -5", `^ecowatt: --handshake-rate: -5 is not within 1 and 1000000$`},
		{"--trusted-proxy gate.example", `^ecowatt: --trusted-proxy: "gate\.example" is neither an address nor a network like 10\.0\.0\.0/8$`},
		{"--trusted-proxy 10.0.0.0/33", `^ecowatt: --trusted-proxy: "10\.0\.0\.0/33" is neither`},
		{"--log-level loud", `^ecowatt: --log-level: "loud" is not debug, info, warn or error$`},
		{"--log-format xml", `^ecowatt: --log-format: "xml" is not text or json$`},
		{"new", `^ecowatt: unexpected argument "new"$`},
	} {
		o.run(2, append([]string{"serve", "--data", "new"}, strings.Fields(test.args)...)...).out().talk(test.says)
		o.absent("new")
	}
}

// What others hold is said with its name, in one line.
func TestServeHeld(t *testing.T) {
	o := newOperator(t)
	for _, test := range []struct{ args, says string }{
		{"--data " + o.data + " --listen 127.0.0.1:0", `^ecowatt: ` + o.data + ` is in use by another process \(pid [0-9]+\)$`},
		{"--data other --listen " + o.address, `^ecowatt: listening on ` + o.address + `: .*address already in use$`},
	} {
		s := o.run(1, append([]string{"serve"}, strings.Fields(test.args)...)...).out().talk(test.says)
		if n := strings.Count(s.stderr, "\n"); n != 1 {
			t.Errorf("%s: %d lines:\n%s", s.command, n, s.stderr)
		}
	}
}

// It serves until it is asked to stop, and goes on where it was.
func TestServe(t *testing.T) {
	o := newOperator(t)
	address := unusedAddress(t)
	o.env["ECOWATT_URL"], o.env["ECOWATT_TOKEN_FILE"] = "http://"+address, filepath.Join(o.dir, "new", "token")
	serve := func(format string, use func()) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		c := o.command("serve", "--data", "new", "--listen", address, "--log-format", format)
		c.Stdout, c.Stderr = &stdout, &stderr
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		awaitReady(t, address)
		use()
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if err := c.Wait(); err != nil {
			t.Errorf("asked to stop, it ends with %v", err)
		}
		if stdout.Len() > 0 {
			t.Errorf("stdout is for answers, it says %s", &stdout)
		}
		return stderr.String()
	}
	log := serve("json", func() { o.run(0, "device", "add", "roof-1", "--out", "roof-1.json") })
	for _, want := range []string{`"msg":"listening","address":"` + address + `"`, `"file":"new/token"`, `"msg":"stopping"`} {
		if !strings.Contains(log, want) {
			t.Errorf("the log lacks %s:\n%s", want, log)
		}
	}
	log = serve("text", func() { o.run(0, "device", "show", "roof-1") })
	if want := "level=INFO msg=listening address=" + address; !strings.Contains(log, want) || strings.Contains(log, "token") {
		t.Errorf("the log of a second start lacks %s, or tells of a token:\n%s", want, log)
	}
}
