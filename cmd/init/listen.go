package main

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// stateListen is TCP_LISTEN as /proc/net/tcp writes it.
const stateListen = "0A"

// allListening tells whether every port is listened on where a host can reach it.
func allListening(ports []int) bool {
	open := map[int]bool{}
	for _, file := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		// A kernel without IPv6 has no second file: nothing listens there.
		if table, err := os.ReadFile(file); err == nil {
			listening(string(table), open)
		}
	}
	for _, p := range ports {
		if !open[p] {
			return false
		}
	}
	return true
}

// listening adds to open the ports that a table of /proc/net/tcp or tcp6 shows in
// LISTEN state (proc(5): "sl local_address rem_address st …", an address being
// hex words of 32 bits in the machine's order, a colon and the port in hex).
// Listeners on loopback addresses do not count: no host gets there.
func listening(table string, open map[int]bool) {
	for line := range strings.SplitSeq(table, "\n") {
		fields := strings.Fields(line)
		if len(fields) < 4 || fields[3] != stateListen {
			continue
		}
		address, port, ok := strings.Cut(fields[1], ":")
		if !ok {
			continue
		}
		number, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			continue
		}
		if a, ok := procAddress(address); ok && !a.IsLoopback() {
			open[int(number)] = true
		}
	}
}

func procAddress(s string) (netip.Addr, bool) {
	raw, err := hex.DecodeString(s)
	if err != nil || len(raw)%4 != 0 {
		return netip.Addr{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.NativeEndian.PutUint32(raw[i:], binary.BigEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return a.Unmap(), ok
}
