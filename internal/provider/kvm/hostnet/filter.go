package hostnet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

const filterTable = "dormouse"

// Registers, numbered as in linux/netfilter/nf_tables.h. A concatenated key
// lies in one run of them: 16 bytes for the interface, 8 for the hardware
// address, 4 for the IP address.
const (
	regKey = unix.NFT_REG_1
	regMAC = unix.NFT_REG_2
	regIP  = unix.NFT_REG32_06
)

// sender is who may send as what: one element of the set "ports".
type sender struct {
	tap string
	mac [6]byte
	ip  netip.Addr
}

func (s sender) key() []byte {
	key := make([]byte, 28)
	copy(key, s.tap)
	copy(key[16:], s.mac[:])
	ip := s.ip.As4()
	copy(key[24:], ip[:])
	return key
}

func parseSender(key []byte) (sender, bool) {
	if len(key) != 28 {
		return sender{}, false
	}
	name, _, _ := bytes.Cut(key[:16], []byte{0})
	return sender{tap: string(name), mac: [6]byte(key[16:22]), ip: netip.AddrFrom4([4]byte(key[24:28]))}, true
}

func (s sender) hardwareAddr() net.HardwareAddr { return s.mac[:] }

// filter is the packet filter of a bridge. It passes only what a port may send:
// ARP and IPv4 from its own MAC and its own IP address. It is not safe for
// concurrent use.
type filter struct {
	ns   *namespace
	conn *nftables.Conn
}

// connect returns the connection to the namespace's nftables. It is kept,
// because each one that is opened costs a change of namespace.
func (f *filter) connect() (*nftables.Conn, error) {
	if f.conn != nil {
		return f.conn, nil
	}
	err := f.ns.do(func() (err error) {
		f.conn, err = nftables.New(nftables.AsLasting())
		return err
	})
	return f.conn, err
}

// reset drops the connection after an error: what it has queued and what the
// kernel has answered may no longer match.
func (f *filter) reset() {
	if f.conn != nil {
		_ = f.conn.CloseLasting() // it is given up either way
		f.conn = nil
	}
}

func filterSet(table *nftables.Table) *nftables.Set {
	key := nftables.MustConcatSetType(nftables.TypeIFName, nftables.TypeEtherAddr, nftables.TypeIPAddr)
	// The ID matters within one transaction only. Left 0, the library numbers
	// sets by a counter that two networks may not touch at once.
	return &nftables.Set{Table: table, ID: 1, Name: "ports", KeyType: key, Concatenation: true}
}

func bridgeTable() *nftables.Table {
	return &nftables.Table{Name: filterTable, Family: nftables.TableFamilyBridge}
}

func routeTable() *nftables.Table {
	return &nftables.Table{Name: filterTable, Family: nftables.TableFamilyIPv4}
}

// ensure makes the filter where it is not there as it should be. It is made in
// one transaction, so it is there whole or not at all.
func (f *filter) ensure() error {
	conn, err := f.connect()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	whole, err := filterWhole(conn)
	if err == nil && !whole {
		err = f.build(conn)
	}
	if err != nil {
		f.reset()
		return fmt.Errorf("setting up the packet filter: %w", err)
	}
	return nil
}

func filterWhole(conn *nftables.Conn) (bool, error) {
	bridgeRules, routeChain := 0, false
	chains, err := conn.ListChains()
	if err != nil {
		return false, err
	}
	for _, chain := range chains {
		dropsByDefault := chain.Policy != nil && *chain.Policy == nftables.ChainPolicyDrop
		if chain.Table.Name != filterTable || !dropsByDefault {
			continue
		}
		if chain.Table.Family == nftables.TableFamilyIPv4 {
			routeChain = true
			continue
		}
		rules, err := conn.GetRules(chain.Table, chain)
		if err != nil {
			return false, err
		}
		bridgeRules += len(rules)
	}
	return routeChain && bridgeRules == len(portRules()), nil
}

func (f *filter) build(conn *nftables.Conn) error {
	drop := nftables.ChainPolicyDrop
	for _, table := range []*nftables.Table{bridgeTable(), routeTable()} {
		conn.AddTable(table) // so that the deletion finds one
		conn.DelTable(table)
	}
	table := conn.AddTable(bridgeTable())
	set := filterSet(table)
	if err := conn.AddSet(set, nil); err != nil {
		return err
	}
	chain := conn.AddChain(&nftables.Chain{Name: "from_guests", Table: table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw, Policy: &drop})
	for _, rule := range portRules() {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: rule})
	}
	// A namespace inherits net.ipv4.ip_forward from the host, and a host with
	// containers has it on. Then one guest would reach another by way of the
	// gateway, past the isolation of the bridge's ports.
	conn.AddChain(&nftables.Chain{Name: "forward", Table: conn.AddTable(routeTable()), Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &drop})
	return conn.Flush()
}

// portRules accept what a port may send: IPv4 whose source is the port's, and
// ARP for IPv4 over Ethernet whose sender is the port's both in the frame and
// in the message. VLAN tags and IPv6 have other Ethernet types and are dropped.
func portRules() [][]expr.Any {
	load := func(base expr.PayloadBase, offset, length, register uint32) expr.Any {
		return &expr.Payload{OperationType: expr.PayloadLoad, DestRegister: register, Base: base, Offset: offset, Len: length}
	}
	equals := func(register uint32, data ...byte) expr.Any {
		return &expr.Cmp{Op: expr.CmpOpEq, Register: register, Data: data}
	}
	known := &expr.Lookup{SourceRegister: regKey, SetName: "ports"}
	accept := &expr.Verdict{Kind: expr.VerdictAccept}
	link, network := expr.PayloadBaseLLHeader, expr.PayloadBaseNetworkHeader
	return [][]expr.Any{
		{
			load(link, 12, 2, regKey), equals(regKey, 0x08, 0x00),
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regKey},
			load(link, 6, 6, regMAC), load(network, 12, 4, regIP), known, accept,
		},
		{
			load(link, 12, 2, regKey), equals(regKey, 0x08, 0x06),
			load(network, 0, 6, regKey), equals(regKey, 0x00, 0x01, 0x08, 0x00, 6, 4),
			&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: regKey},
			load(link, 6, 6, regMAC), load(network, 14, 4, regIP), known,
			load(network, 8, 6, regMAC), known, accept,
		},
	}
}

// senders returns all that may send.
func (f *filter) senders() ([]sender, error) {
	conn, err := f.connect()
	if err != nil {
		return nil, fmt.Errorf("opening nftables: %w", err)
	}
	elements, err := conn.GetSetElements(filterSet(bridgeTable()))
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		f.reset()
		return nil, fmt.Errorf("reading the packet filter: %w", err)
	}
	var senders []sender
	for _, element := range elements {
		if s, ok := parseSender(element.Key); ok {
			senders = append(senders, s)
		}
	}
	return senders, nil
}

// change takes some senders out and lets others in, in one transaction.
func (f *filter) change(out, in []sender) error {
	if len(out)+len(in) == 0 {
		return nil
	}
	conn, err := f.connect()
	if err != nil {
		return fmt.Errorf("opening nftables: %w", err)
	}
	set := filterSet(bridgeTable())
	elements := func(senders []sender) []nftables.SetElement {
		var list []nftables.SetElement
		for _, s := range senders {
			list = append(list, nftables.SetElement{Key: s.key()})
		}
		return list
	}
	if len(out) > 0 {
		err = conn.SetDeleteElements(set, elements(out))
	}
	if err == nil && len(in) > 0 {
		err = conn.SetAddElements(set, elements(in))
	}
	if err == nil {
		err = conn.Flush()
	}
	if err != nil {
		f.reset()
		return fmt.Errorf("changing the packet filter: %w", err)
	}
	return nil
}
