package main

import (
	"testing"

	"github.com/stretchr/testify/require"
)

const tcpTable = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1234 1 0000000000000000 100 0 0 10 0
   1: 0100007F:1538 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1235 1 0000000000000000 100 0 0 10 0
   2: 0F02000A:1F91 0202000A:C350 01 00000000:00000000 00:00000000 00000000     0        0 1236 1 0000000000000000 100 0 0 10 0
   3: 0F02000A:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1237 1 0000000000000000 100 0 0 10 0
   4: broken
   5: nonsense 0 0A
   6: 00000000:XYZ 0 0A 0
`

const tcp6Table = `  sl  local_address                         remote_address                        st tx_queue rx_queue
   0: 00000000000000000000000000000000:01BB 00000000000000000000000000000000:0000 0A 0 0
   1: 00000000000000000000000001000000:0277 00000000000000000000000000000000:0000 0A 0 0
   2: 0000000000000000FFFF00000100007F:0278 00000000000000000000000000000000:0000 0A 0 0
`

func TestListeningPorts(t *testing.T) {
	t.Parallel()
	open := map[int]bool{}
	listening(tcpTable, open)
	listening(tcp6Table, open)
	require.Equal(t, map[int]bool{8080: true, 80: true, 443: true}, open,
		"only listeners, and none on a loopback address, IPv6 and mapped ones included")
}
