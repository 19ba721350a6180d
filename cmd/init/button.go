package main

import (
	"encoding/binary"
	"os"
	"time"

	"dormouse/internal/guest"
)

// buttonWait is how long the power button's device may take to appear.
const buttonWait = 10 * time.Second

// A press of the power button, as <linux/input-event-codes.h> has it.
const (
	inputKey      = 1   // EV_KEY
	inputPower    = 116 // KEY_POWER
	inputPressed  = 1
	inputEventLen = 24 // struct input_event on 64 bits: two words of time, type, code, value
)

// watchButtons has the guest shut down when its machine's power button is
// pressed, which is how clouds and hypervisors ask for that. A machine without a button has none.
func (m *machine) watchButtons() {
	const dir = "/dev/input"
	var names []os.DirEntry
	await(buttonWait, func() bool {
		names, _ = os.ReadDir(dir)
		return len(names) > 0
	})
	for _, e := range names {
		f, err := os.Open(dir + "/" + e.Name())
		if err != nil {
			continue
		}
		go func() {
			defer f.Close()
			event := make([]byte, inputEventLen)
			for {
				if n, err := f.Read(event); err != nil || n != len(event) {
					return
				}
				if powerPressed(event) {
					m.ch.commands <- guest.Command{Verb: guest.VerbShutdown}
				}
			}
		}()
	}
}

// powerPressed tells whether an event is a press of the power button.
func powerPressed(event []byte) bool {
	e := binary.NativeEndian
	return e.Uint16(event[16:]) == inputKey && e.Uint16(event[18:]) == inputPower && e.Uint32(event[20:]) == inputPressed
}
