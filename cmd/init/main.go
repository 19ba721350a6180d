package main

import (
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"dormouse/internal/guest"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "dormouse-init: it runs only as process 1 of a guest")
		os.Exit(2)
	}
	// init's live heap is far below the collector's first threshold; what is
	// saved is the collector's start during boot.
	debug.SetGCPercent(400)
	con := newConsole(1)
	ch := newChannel()
	m := &machine{con: con, ch: ch}
	gone := m.live()
	m.end(gone)
}

// machine is one boot of a guest.
type machine struct {
	con *console
	ch  *channel
	cfg guest.Config
	// volume is an open directory at the root of the volume; nil without one.
	volume *os.File
	// user runs the program; nil is root.
	user *guest.User
}

// live runs the guest from its start to the end of its program and tells how it ended.
func (m *machine) live() (gone guest.Message) {
	defer func() {
		if r := recover(); r != nil {
			gone = failed(fmt.Errorf("init panicked: %v", r))
		}
	}()
	// From here on a signal never ends init: it is passed on, or dropped.
	signals, children := make(chan os.Signal, 64), make(chan os.Signal, 1)
	signal.Notify(signals, forwarded()...)
	signal.Notify(children, syscall.SIGCHLD)
	if err := m.boot(); err != nil {
		return failed(err)
	}
	s := newSupervisor(m, signals, children)
	return s.run()
}

func failed(err error) guest.Message {
	return guest.Message{Event: guest.EventGone, Reason: guest.GoneFailed, Error: err.Error()}
}

// boot does everything that comes before the program.
func (m *machine) boot() error {
	if err := mountKernelFileSystems(); err != nil {
		return err
	}
	modules, err := readModuleOrder("/modules/order")
	if err != nil {
		return err
	}
	for _, phase := range []string{phaseBoot, phaseDisk} {
		if err := loadModules("/modules", modules, phase); err != nil {
			return err
		}
	}
	m.ch.send(guest.Message{Event: guest.EventHello})
	alone := bootsByItself() // there is no host of ours
	if !alone {
		go m.ch.serve(m.con)
	}
	if err := m.readConfig(); err != nil {
		return err
	}
	if err := mountRoot(); err != nil {
		return err
	}
	if len(m.cfg.Persist) > 0 {
		if err := loadModules("/modules", modules, phaseVolume); err != nil {
			return err
		}
		if m.volume, err = mountVolume(); err != nil {
			return err
		}
	}
	scratch, err := mountScratch()
	if err != nil {
		return err
	}
	defer scratch.Close()
	if err := enterRoot(); err != nil {
		return err
	}
	if alone {
		go m.watchButtons() // only now, because /dev has just moved
	}
	if m.user, err = findUser(m.cfg.User); err != nil {
		return err
	}
	if err := admit(m.user); err != nil {
		return err
	}
	if err := makeWritable(m.cfg, m.volume, scratch, m.user); err != nil {
		return err
	}
	if err := configureNetwork(m.cfg.Network); err != nil {
		return err
	}
	if m.cfg.Network.DHCP && m.cfg.Network.Address == "" {
		m.cfg.Network = leaseNetwork(m.cfg.Network, m.con)
	}
	if err := writeNames(m.cfg, scratch, m.con); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(m.cfg.Hostname)); err != nil {
		return fmt.Errorf("setting the host name %q: %w", m.cfg.Hostname, err)
	}
	return nil
}

func (m *machine) readConfig() error {
	disk, err := findDisk(guest.DiskConfig)
	if err != nil {
		return err
	}
	f, err := os.Open(disk)
	if err != nil {
		return fmt.Errorf("opening the configuration disk: %w", err)
	}
	defer f.Close()
	if m.cfg, err = guest.DecodeConfig(f); err != nil {
		return err
	}
	return checkConfig(m.cfg)
}
