// Package cycles puts a virtual machine to sleep again and again while its users
// write to it without a pause, and then looks from outside whether anything was
// lost, written twice, forgotten or left over.
//
// The load is open-loop: a request is sent when its time has come, whatever has
// become of those before it, on a connection of its own and once only. Each has
// an ID that the guest writes to its volume, and syncs, before it answers. A
// request counts as one during a transition if it was sent after a hibernation
// was asked for and before the first answer that came after the API had said that
// the installation sleeps.
//
//	DORMOUSE_CYCLES       how often it falls asleep (50; `make cycles` 1000)
//	DORMOUSE_CYCLES_RATE  requests a second (100)
//	DORMOUSE_MQTT_CYCLES  how often a broker does, with MQTT in place of HTTP (10; `make cycles` 100)
package cycles
