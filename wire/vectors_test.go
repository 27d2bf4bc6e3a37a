package wire

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"ecowatt"
	"ecowatt/key"
)

type hexBytes []byte

func (h *hexBytes) UnmarshalText(text []byte) (err error) {
	*h, err = hex.DecodeString(string(text))
	return err
}

type vectorCase struct {
	Name    string   `json:"name"`
	PSKID   hexBytes `json:"psk_id"`
	Epoch   uint32   `json:"epoch"`
	HS1     hexBytes `json:"hs1"`
	Payload hexBytes `json:"hs2_payload"`
	HS2     hexBytes `json:"hs2"`
	SID     hexBytes `json:"sid"`
	Records []struct {
		Sequence uint64   `json:"seq"`
		ReqBody  hexBytes `json:"req_body_cbor"`
		REQ      hexBytes `json:"req"`
		RspBody  hexBytes `json:"rsp_body_cbor"`
		RSP      hexBytes `json:"rsp"`
	} `json:"records"`
}

func vectors(tb testing.TB) []vectorCase {
	tb.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		tb.Fatal(err)
	}
	var file struct {
		Cases []vectorCase `json:"cases"`
	}
	if err := json.Unmarshal(text, &file); err != nil {
		tb.Fatal(err)
	}
	if len(file.Cases) != 2 || len(file.Cases[0].Records) != 3 || len(file.Cases[1].Records) != 3 {
		tb.Fatal("the vectors are not all there")
	}
	return file.Cases
}

func repeat[A ~[16]byte](x byte) (id A) {
	for i := range id {
		id[i] = x
	}
	return id
}

func TestVectorHeaders(t *testing.T) {
	for _, c := range vectors(t) {
		for typ, msg := range map[Type][]byte{HS1: c.HS1, HS2: c.HS2} {
			want := Handshake(typ, key.ID(c.PSKID), key.Epoch(c.Epoch))
			got, err := Parse(msg, typ)
			if err != nil || got != want || got.KeyID() != key.ID(c.PSKID) || got.Epoch() != key.Epoch(c.Epoch) {
				t.Errorf("%s: %v: %+v, %v", c.Name, typ, got, err)
			}
			if diff := cmp.Diff(msg[:HeaderSize], want.Append(nil)); diff != "" {
				t.Errorf("%s: %v (-want +got):\n%s", c.Name, typ, diff)
			}
		}
		for _, r := range c.Records {
			for typ, msg := range map[Type][]byte{REQ: r.REQ, RSP: r.RSP} {
				want := Record(typ, SessionID(c.SID), Sequence(r.Sequence))
				got, err := Parse(msg, typ)
				if err != nil || got != want || got.Session() != SessionID(c.SID) || got.Sequence() != Sequence(r.Sequence) {
					t.Errorf("%s: %v: %+v, %v", c.Name, typ, got, err)
				}
				if diff := cmp.Diff(msg[:HeaderSize], want.Append(nil)); diff != "" {
					t.Errorf("%s: %v (-want +got):\n%s", c.Name, typ, diff)
				}
			}
		}
	}
}

func TestVectorWelcome(t *testing.T) {
	want := Welcome{
		ServerTime: 1_790_000_000_000, Lifetime: 24 * time.Hour, MaxRequest: MaxRequest,
		SlotHint: 15 * time.Minute, RootVersion: 1,
	}
	for _, c := range vectors(t) {
		got, err := ParseWelcome(c.Payload)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.Name, diff)
		}
		if diff := cmp.Diff([]byte(c.Payload), got.Append(nil)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.Name, diff)
		}
	}
}

// The bodies of the vectors as values. Both cases have the same but for the
// active epoch.
func vectorBodies(epoch uint32) ([]Request, []Answer) {
	boot, id := repeat[BootID](5), repeat[MessageID](7)
	block := []byte{0x83, 0x83, 0x00, 0x19, 0x07, 0xd0, 0x19, 0x0f, 0xa0, 0x83, 0x19, 0x08, 0xfd, 0x19, 0x08, 0xfe, 0xf6, 0x83, 0x19, 0x10, 0x04, 0x19, 0x10, 0x08, 0x19, 0x10, 0x03}
	body, err := EncodeTelemetry(TelemetryBlock{
		Inverter: "roof", Points: []string{"vac1", "pac"}, T0: 1_790_000_000_000, Count: 3, Data: block,
	})
	if err != nil {
		panic(err)
	}
	requests := []Request{
		{At: Instant{boot, 1234}, MaxAnswer: 16 << 10},
		{
			At: Instant{boot, 901234}, Wall: &Wall{1_790_000_900_000, 40},
			Messages: []Message{{ID: id, Kind: KindTelemetry, Body: body}},
			Epochs:   &Epochs{Active: key.Epoch(epoch)},
		},
		{At: Instant{boot, 0}},
	}
	answers := []Answer{
		{ServerTime: 1_790_000_000_500, NextSlot: 15 * time.Minute},
		{
			ServerTime: 1_790_000_900_020, Results: []Result{{ID: id, Status: Stored}},
			Config: &ConfigUpdate{Revision: 3, Parameters: map[string]any{"sampling_interval": int64(5)}}, NextSlot: 15 * time.Minute,
		},
		{ServerTime: 0},
	}
	return requests, answers
}

func TestVectorBodies(t *testing.T) {
	for _, c := range vectors(t) {
		requests, answers := vectorBodies(c.Epoch)
		for i, r := range c.Records {
			q, err := DecodeRequest(r.ReqBody)
			if err != nil {
				t.Fatalf("%s: request %d: %v", c.Name, i+1, err)
			}
			if diff := cmp.Diff(requests[i], q); diff != "" {
				t.Errorf("%s: request %d (-want +got):\n%s", c.Name, i+1, diff)
			}
			if out, err := EncodeRequest(q); err != nil || !cmp.Equal([]byte(r.ReqBody), out) {
				t.Errorf("%s: request %d came back as %x, %v", c.Name, i+1, out, err)
			}
			a, err := DecodeAnswer(r.RspBody)
			if err != nil {
				t.Fatalf("%s: answer %d: %v", c.Name, i+1, err)
			}
			if diff := cmp.Diff(answers[i], a); diff != "" {
				t.Errorf("%s: answer %d (-want +got):\n%s", c.Name, i+1, diff)
			}
			out, err := EncodeAnswer(a)
			if i == 0 { // the vector writes the empty list of results, which we leave out
				out = append([]byte{out[0] + 1}, append(out[1:11:11], append([]byte{2, 0x80}, out[11:]...)...)...)
			}
			if err != nil || !cmp.Equal([]byte(r.RspBody), out) {
				t.Errorf("%s: answer %d came back as %x, %v", c.Name, i+1, out, err)
			}
		}
	}
}

func vectorBlock() ecowatt.Block {
	const t0 = 1_790_000_000_000
	return ecowatt.Block{
		Inverter: "roof", Points: []string{"vac1", "pac"},
		Samples: []ecowatt.Sample{
			{At: t0, Values: []ecowatt.Value{ecowatt.Known(2301), ecowatt.Known(4100)}},
			{At: t0 + 2000, Values: []ecowatt.Value{ecowatt.Known(2302), ecowatt.Known(4104)}},
			{At: t0 + 4000, Values: []ecowatt.Value{{}, ecowatt.Known(4099)}},
		},
	}
}

func TestVectorBlock(t *testing.T) {
	q, err := DecodeRequest(vectors(t)[0].Records[1].ReqBody)
	if err != nil {
		t.Fatal(err)
	}
	b, err := DecodeTelemetry(q.Messages[0].Body)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := PlainBlock(vectorBlock(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(b, packed); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
