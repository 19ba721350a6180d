package cycles

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"
	"github.com/stretchr/testify/require"

	"dormouse/client"
	"dormouse/e2e/harness"
)

const (
	topic   = "cycles"
	atLeast = 1 // QoS 1: at least once
	// mqttRate is how many messages are sent in a second.
	mqttRate = 50
	// brokerPatience is how long a message may be under way.
	brokerPatience = 2 * time.Minute
)

// TestMQTTCycles puts a broker to sleep again and again under a publisher and a
// subscriber with sessions that last, which come through a TCP port of the gateway:
// each message that was acknowledged arrives.
func TestMQTTCycles(t *testing.T) {
	cycles := number(t, "DORMOUSE_MQTT_CYCLES", 10)
	e := suite.Own(t, harness.Options{Args: ownPorts()})
	require.NoError(t, e.Start(t.Context()))
	require.NoError(t, e.CreateCluster(t.Context()))
	in := install(t, e, broker(t)...)
	t.Cleanup(func() { explain(t, e) })
	require.NotEmpty(t, in.Endpoints)
	_, port, err := net.SplitHostPort(in.Endpoints[0].GatewayAddress)
	require.NoError(t, err, "the gateway's port of %+v", in.Endpoints)
	address := "127.0.0.1:" + port // not everything knows that names under localhost are this machine's (RFC 6761)

	inbox := &mailbox{times: map[string]int{}, more: make(chan struct{}, 1)}
	listener := connect(t, address, "listener")
	wait(t, listener.Subscribe(topic, atLeast, func(_ mqtt.Client, m mqtt.Message) { inbox.take(string(m.Payload())) }))
	p := &publisher{client: connect(t, address, "publisher")}
	ctx, stop := context.WithCancel(t.Context())
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		p.run(ctx)
	}()
	var failures []string
	began := time.Now()
	for n := range cycles {
		if _, err := once(t.Context(), e); err != nil {
			failures = append(failures, fmt.Sprintf("cycle %d: %v", n+1, err))
		}
		require.NoError(t, sleep(t.Context(), rand.N(longestPause)))
	}
	stop()
	<-sent
	took := time.Since(began)
	lost := inbox.await(t, p.acknowledged)
	booted, err := boots(e)
	require.NoError(t, err)
	fmt.Printf("mqtt.cycles.count %d cycles\nmqtt.cycles.failed %d cycles\nmqtt.cycles.cold %d boots\n", cycles, len(failures), booted-1)
	fmt.Printf("mqtt.cycles.published %d messages\nmqtt.cycles.acknowledged %d messages\nmqtt.cycles.not_acknowledged %d messages\n", p.begun, len(p.acknowledged), len(p.failed))
	fmt.Printf("mqtt.cycles.lost %d messages\nmqtt.cycles.again %d messages\nmqtt.cycles.seconds_each %.2f s\n", len(lost), inbox.again(), took.Seconds()/float64(cycles))
	require.Empty(t, failures)
	require.Empty(t, lost)
	require.Empty(t, p.failed)
	require.Equal(t, 1, booted, "how often its kernel was started")
	require.NotEmpty(t, p.acknowledged)
}

// broker is the example's, but for a bound: for a subscriber who is away or slow
// mosquitto keeps 1,000 messages, and drops what is more.
func broker(t *testing.T) []string {
	t.Helper()
	args := suite.Daemon(t, "mosquitto")
	dir := t.TempDir()
	require.Equal(t, "--manifest", args[0])
	require.NoError(t, os.CopyFS(dir, os.DirFS(args[1])))
	conf, err := os.OpenFile(filepath.Join(dir, "sysroot", "etc", "mosquitto", "mosquitto.conf"), os.O_WRONLY|os.O_APPEND, 0)
	require.NoError(t, err)
	_, err = conf.WriteString("max_queued_messages 0\nmax_inflight_messages 0\n")
	require.NoError(t, errors.Join(err, conf.Close()))
	args[1] = dir
	return args
}

// ownPorts keeps the gateway's ports apart from those of others on this machine.
func ownPorts() []string {
	first := 22_000 + rand.IntN(700)*10
	return []string{"--gateway-ports", fmt.Sprintf("%d-%d", first, first+9)}
}

func connect(t *testing.T, address, id string) mqtt.Client {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker("tcp://" + address).SetClientID(id).SetCleanSession(false).SetResumeSubs(true).
		SetAutoReconnect(true).SetMaxReconnectInterval(100 * time.Millisecond).SetConnectTimeout(brokerPatience).SetOrderMatters(false)
	c := mqtt.NewClient(o)
	wait(t, c.Connect())
	t.Cleanup(func() { c.Disconnect(250) })
	return c
}

func wait(t *testing.T, token mqtt.Token) {
	t.Helper()
	require.True(t, token.WaitTimeout(brokerPatience), "the broker does not answer")
	require.NoError(t, token.Error())
}

// publisher sends messages at a steady rate.
type publisher struct {
	client mqtt.Client
	begun  int

	mu                   sync.Mutex
	acknowledged, failed []string
}

// run sends until ctx ends, and returns when all are acknowledged or given up.
func (p *publisher) run(ctx context.Context) {
	var all sync.WaitGroup
	defer all.Wait()
	begin := time.Now()
	for ; ; p.begun++ {
		if err := sleep(ctx, time.Until(begin.Add(time.Duration(p.begun)*time.Second/mqttRate))); err != nil {
			return
		}
		id := fmt.Sprintf("message-%d", p.begun)
		token := p.client.Publish(topic, atLeast, false, id)
		all.Go(func() {
			ok := token.WaitTimeout(brokerPatience) && token.Error() == nil
			p.mu.Lock()
			defer p.mu.Unlock()
			if ok {
				p.acknowledged = append(p.acknowledged, id)
				return
			}
			p.failed = append(p.failed, fmt.Sprintf("%s: %v", id, token.Error()))
		})
	}
}

// mailbox counts what has arrived.
type mailbox struct {
	mu    sync.Mutex
	times map[string]int
	more  chan struct{}
}

func (m *mailbox) take(id string) {
	m.mu.Lock()
	m.times[id]++
	m.mu.Unlock()
	select {
	case m.more <- struct{}{}:
	default:
	}
}

// await waits until all have arrived, and returns those that have not.
func (m *mailbox) await(t *testing.T, ids []string) []string {
	t.Helper()
	deadline := time.After(brokerPatience)
	for {
		m.mu.Lock()
		missing := slices.DeleteFunc(slices.Clone(ids), func(id string) bool { return m.times[id] > 0 })
		m.mu.Unlock()
		if len(missing) == 0 {
			return nil
		}
		select {
		case <-m.more:
		case <-deadline:
			return missing
		}
	}
}

// again counts those that came more than once, as QoS 1 allows where a connection ends.
func (m *mailbox) again() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, times := range m.times {
		if times > 1 {
			n++
		}
	}
	return n
}

// install creates the installation that sleeps, of a package that is made first,
// which visits may wake as often as they like.
func install(t *testing.T, e *harness.Environment, source ...string) client.Installation {
	t.Helper()
	r := e.Cloudctl(t.Context(), append([]string{"-o", "json", "package", "create"}, source...)...)
	require.Zero(t, r.Code, "%s", r)
	var p client.Package
	require.NoError(t, json.Unmarshal([]byte(r.Stdout), &p))
	r = e.Cloudctl(t.Context(), "installation", "create", sleeper, "--owner", "cycles", "--cluster", harness.Cluster, "--package", p.Name+"@"+p.Version,
		"--memory", memory, "--disk", "64MiB", "--wait", "--timeout", "10m")
	require.Zero(t, r.Code, "%s", r)
	often := 100_000
	in, err := e.Client.Installations.Update(t.Context(), sleeper, client.UpdateInstallation{Wake: &client.UpdateWakeRules{WakesPerHour: &often}})
	require.NoError(t, err)
	return in
}
