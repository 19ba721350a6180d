package guest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"strconv"
)

// DecodeCommand reads one line of a host's.
//
// A VerbWake as encoding/json writes it is read by hand: it comes when the guest
// has just gone on after a sleep, somebody waits, and all code that it runs is
// cold (under emulation, not translated yet).
func DecodeCommand(line []byte) (Command, error) {
	if c, ok := decodeWake(line); ok {
		return c, nil
	}
	var c Command
	err := json.Unmarshal(line, &c)
	return c, err
}

// decodeWake reads {"verb":"wake","id":N,"nanos":N,"seed":"BASE64"}.
func decodeWake(line []byte) (Command, bool) {
	c := Command{Verb: VerbWake}
	rest, ok := bytes.CutPrefix(line, []byte(`{"verb":"wake","id":`))
	if !ok {
		return c, false
	}
	id, rest, _ := bytes.Cut(rest, []byte(`,"nanos":`))
	nanos, rest, _ := bytes.Cut(rest, []byte(`,"seed":"`))
	seed, rest, _ := bytes.Cut(rest, []byte(`"}`))
	if len(rest) != 0 {
		return c, false
	}
	var err error
	if c.ID, err = strconv.ParseInt(string(id), 10, 64); err != nil {
		return c, false
	}
	if c.Nanos, err = strconv.ParseInt(string(nanos), 10, 64); err != nil {
		return c, false
	}
	c.Seed, err = base64.StdEncoding.AppendDecode(nil, seed)
	return c, err == nil
}

// EncodeMessage returns the line of a message, with its end. The plain answer to a
// command is written by hand, for the same reason.
func EncodeMessage(m Message) ([]byte, error) {
	if m == (Message{Event: EventDone, ID: m.ID}) && m.ID != 0 {
		b := strconv.AppendInt([]byte(`{"event":"done","id":`), m.ID, 10)
		return append(b, '}', '\n'), nil
	}
	b, err := json.Marshal(m)
	return append(b, '\n'), err
}
