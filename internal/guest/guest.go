// Package guest holds what a host and the init of a linux guest say to one
// another: the configuration disk that init reads at boot, and the messages on
// the guest channel (a virtio-serial port).
//
// It imports the standard library only, because init is linked into every
// image. Both formats are versioned: a newer host speaks to older images.
package guest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Serial numbers of the virtio-blk disks, by which init tells them apart.
const (
	DiskRoot   = "dm-root"
	DiskConfig = "dm-config"
	DiskVolume = "dm-volume"
)

// Names of GPT partitions, by which init of a guest that boots from a disk by
// itself finds the same: CmdlineDisk in the kernel's command line says that it does.
const (
	PartitionRoot   = "dormouse-root"
	PartitionConfig = "dormouse-config"
	PartitionVolume = "dormouse-volume"

	CmdlineDisk = "dormouse.boot=disk"
)

// ChannelPort is the name of the virtio-serial port of the guest channel.
const ChannelPort = "dormouse.0"

// MaxConfig is the largest configuration, in bytes, that a disk may carry.
const MaxConfig = 1 << 20

var configMagic = [8]byte{'D', 'M', 'C', 'O', 'N', 'F', '0', '1'}

// Config is what one tenant's guest is told at boot.
type Config struct {
	Hostname string            `json:"hostname"`
	Program  string            `json:"program"`
	Args     []string          `json:"args,omitempty"`
	Env      map[string]string `json:"env,omitempty"`
	// Dir is the working directory; "/" where empty.
	Dir string `json:"dir,omitempty"`
	// User is who the program runs as: a name in the image's /etc/passwd or a number,
	// and after a colon a group or its number; root where empty.
	User    string  `json:"user,omitempty"`
	Network Network `json:"network"`
	// Persist lists absolute directories that lie on the volume.
	Persist []string `json:"persist,omitempty"`
	// Restart is always, on-failure or never.
	Restart string `json:"restart"`
	// Ports are the TCP ports whose listening makes the guest ready; where there
	// are none, the start of the program does.
	Ports []int `json:"ports,omitempty"`
	// StopTimeout is how long the program has to end after SIGTERM.
	StopTimeout time.Duration `json:"stop_timeout,omitempty"`
}

// Network is the guest's one interface, eth0.
type Network struct {
	// Address is in CIDR form; empty leaves the interface down, unless DHCP is set.
	Address string `json:"address,omitempty"`
	// DHCP asks for an address, a gateway and name servers (RFC 2131) where Address is empty.
	DHCP    bool   `json:"dhcp,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	MAC     string `json:"mac,omitempty"`
	// DNS lists the name servers for /etc/resolv.conf.
	DNS []string `json:"dns,omitempty"`
}

// EncodeConfig returns the content of a configuration disk: 8 bytes of magic,
// the length as 4 bytes big-endian, JSON, and zeros up to a multiple of 4 KiB.
func EncodeConfig(c Config) ([]byte, error) {
	body, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encoding the guest's configuration: %w", err)
	}
	if len(body) > MaxConfig {
		return nil, fmt.Errorf("the guest's configuration has %d bytes, at most %d fit: use a shorter environment", len(body), MaxConfig)
	}
	const block = 4096
	disk := make([]byte, (12+len(body)+block-1)/block*block)
	copy(disk, configMagic[:])
	binary.BigEndian.PutUint32(disk[8:], uint32(len(body)))
	copy(disk[12:], body)
	return disk, nil
}

// DecodeConfig reads what EncodeConfig made.
func DecodeConfig(r io.Reader) (Config, error) {
	var c Config
	var head [12]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return c, fmt.Errorf("reading the configuration disk: %w", err)
	}
	if [8]byte(head[:8]) != configMagic {
		return c, errors.New("the configuration disk has a wrong magic number")
	}
	n := binary.BigEndian.Uint32(head[8:])
	if n > MaxConfig {
		return c, fmt.Errorf("the configuration disk claims %d bytes, more than %d", n, MaxConfig)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return c, fmt.Errorf("reading the configuration disk: %w", err)
	}
	if err := json.Unmarshal(body, &c); err != nil {
		return c, fmt.Errorf("decoding the configuration disk: %w", err)
	}
	return c, nil
}

// Event is what a guest tells its host.
type Event string

// The events, in the order of a life.
const (
	// EventHello: init runs and listens; the first message of every boot.
	EventHello Event = "hello"
	// EventStarted: the program has been started (again).
	EventStarted Event = "started"
	// EventReady: all of Config.Ports are listened on, or the program has started where there are none.
	EventReady Event = "ready"
	// EventExit: the program ended; Code, Signal and Restarts say how.
	EventExit Event = "exit"
	// EventGone: the program has ended for good; the guest powers off next.
	// Reason is exited, crash-loop, stopped (as asked) or failed (could not start).
	EventGone Event = "gone"
	// EventDone answers a Command, with its ID; Error is empty where it worked.
	EventDone Event = "done"
)

// Reasons of EventGone.
const (
	GoneExited    = "exited"
	GoneCrashLoop = "crash-loop"
	GoneStopped   = "stopped"
	GoneFailed    = "failed"
)

// Verb is what a host asks of its guest.
type Verb string

// The verbs. Freeze, Thaw, SetClock and Reseed serve hibernation and clones.
const (
	// VerbPing asks for an answer, and for the last event again.
	VerbPing Verb = "ping"
	// VerbShutdown: SIGTERM to the program, after StopTimeout SIGKILL; sync, unmount, power off.
	VerbShutdown Verb = "shutdown"
	// VerbSync writes the guest's disks out.
	VerbSync Verb = "sync"
	// VerbFreeze syncs and freezes the file system of the volume (FIFREEZE).
	VerbFreeze Verb = "freeze"
	VerbThaw   Verb = "thaw"
	// VerbSetClock sets the real-time clock to Command.Time.
	VerbSetClock Verb = "set-clock"
	// VerbReseed mixes Command.Seed into the kernel's random state.
	VerbReseed Verb = "reseed"
	// VerbWake is what a machine needs that goes on after a sleep: the clock is set to
	// Command.Nanos and Command.Seed mixed in before the answer; then the volume is thawed.
	VerbWake Verb = "wake"
)

// UnknownVerb begins the error of an init that is older than a verb.
const UnknownVerb = "this init does not know the verb"

// Message is what a guest sends: one JSON object a line, at most MaxLine bytes.
type Message struct {
	Event    Event  `json:"event"`
	ID       int64  `json:"id,omitempty"`
	Code     int    `json:"code,omitempty"`
	Signal   string `json:"signal,omitempty"`
	Restarts int    `json:"restarts,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Error    string `json:"error,omitempty"`
}

// Command is what a host sends: one JSON object a line, at most MaxLine bytes.
type Command struct {
	Verb Verb      `json:"verb"`
	ID   int64     `json:"id"`
	Time time.Time `json:"time,omitzero"`
	// Nanos is a time too, in ns since 1970.
	Nanos int64  `json:"nanos,omitempty"`
	Seed  []byte `json:"seed,omitempty"`
}

// MaxLine is the longest line, in bytes, that either side accepts.
const MaxLine = 64 << 10

// GoneLine is the prefix of the line that init writes to the console when the
// program has ended for good, followed by the EventGone message as JSON: the
// host reads it where the channel was not connected at that time.
const GoneLine = "dormouse-init: gone "
