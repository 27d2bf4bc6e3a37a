package gateway

import (
	"context"
	"errors"

	"ecowatt/cloud/ingest"
	"ecowatt/cloud/registry"
	"ecowatt/cloud/rollout"
	"ecowatt/cloud/session"
	"ecowatt/key"
	"ecowatt/wire"
	"ecowatt/wire/record"
)

// exchange answers a REQ (protocol, section 7, rule 3). The checks come in the
// order of section 3; up to the seal every failure looks the same. Of a message
// that names no session nothing is read but its header.
func (g *Gateway) exchange(ctx context.Context, in *incoming) ([]byte, *refusal) {
	header, refused := in.header(wire.REQ)
	if refused != nil {
		return nil, refused
	}
	s, keys, refused := g.session(ctx, header.Session())
	if refused != nil {
		return nil, refused
	}
	defer keys.Destroy()
	msg, refused := in.whole(wire.MaxRequest)
	if refused != nil {
		return nil, refused
	}
	if _, err := wire.Parse(msg, wire.REQ); err != nil {
		return nil, malformed(err)
	}
	body, mac, opening := record.OpenRequest(keys, msg)
	claim := session.Claim{Session: s, Seq: header.Sequence(), At: g.now()}
	if opening != nil && !errors.Is(opening, wire.ErrSchema) {
		return nil, badMAC(claim)
	}
	// What the session as read refuses already stays refused: it need not take a
	// place in the line of those who write.
	if err := s.Check(claim.Seq, claim.At); err != nil {
		return nil, g.exchangeRefused(ctx, "", err)
	}
	u := understand(claim, body, opening, g.roots())
	g.key(ctx, u)
	defer func() { u.destroyOffer() }()
	listening := g.mayHold(u)
	defer g.holds.end(listening)
	if err := g.store.Commit(ctx, u.apply); err != nil {
		return nil, g.exchangeRefused(ctx, "committing an exchange", err)
	}
	if u, refused = g.keep(ctx, in, listening, u); refused != nil {
		return nil, refused
	}
	g.unwrapRelease(ctx, u)
	answer, err := g.seal(keys, claim, mac, u)
	if err != nil {
		return nil, g.unavailable(ctx, "sealing an answer", err)
	}
	return answer, nil
}

// exchangeRefused tells a refusal of package session from a failure of our own.
func (g *Gateway) exchangeRefused(ctx context.Context, doing string, err error) *refusal {
	if reason := session.ExchangeReason(err); reason != "" {
		return refuse(reason)
	}
	return g.unavailable(ctx, doing, err)
}

// understand makes a unit of work of the body of a request. opening is the error
// that came with it: what was inside the seal was not even padded right. roots go
// with the offer of a release.
func understand(claim session.Claim, body []byte, opening error, roots [][]byte) *unit {
	u := &unit{claim: claim, slot: claim.Session.Slot, roots: roots}
	if opening != nil {
		u.problem = opening.Error()
		return u
	}
	q, err := wire.DecodeRequest(body)
	if err != nil {
		u.problem = err.Error()
		return u
	}
	u.claim.Boot = q.At.Boot
	u.reported(q.Epochs)
	u.limit, u.hold = wire.AnswerRoom(q.AnswerLimit())-answerHeads, q.Hold
	room := u.reserve(u.limit)
	at := ingest.Instant{Boot: ingest.BootID(q.At.Boot), Mono: q.At.Mono}
	var wall *ingest.Wall
	if q.Wall != nil {
		wall = &ingest.Wall{At: q.Wall.At, Uncertainty: q.Wall.Uncertainty}
	}
	u.clock = ingest.ClockOf(at, wall, claim.At)
	if f := q.Firmware; f != nil {
		u.firmware = &registry.Firmware{Release: f.Release, State: string(f.State), Version: clean(f.Version, maxLine)}
		u.program = &rollout.Program{Image: f.Image, State: string(f.State)}
	}
	kept := room - u.reserveOffer(u.reserveCommands(u.reserveConfig(room)))
	u.messages, u.room = plan(q.Messages, room-kept, claim)
	u.room += kept
	return u
}

// seal makes the answer to a request whose unit is on disk.
func (g *Gateway) seal(keys key.Session, claim session.Claim, mac record.MAC, u *unit) ([]byte, error) {
	answer := wire.Answer{ServerTime: g.now().UnixMilli(), Results: u.results, Config: u.config, Commands: u.commands, Firmware: u.firmwareOffer, NextSlot: u.nextSlot(g.slot)}
	if u.offers {
		answer.KeyOffer = u.offer
	}
	if u.problem != "" {
		answer.Failure = &wire.Failure{Code: wire.ExchangeSchema, Text: clean(u.problem, maxText)}
	}
	body, err := wire.EncodeAnswer(answer)
	if err != nil {
		return nil, err
	}
	return record.SealAnswer(keys, claim.Session.SID, claim.Seq, mac, g.random, body)
}
