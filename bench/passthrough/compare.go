package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// comparison measures the engine and nginx in turn. Both proxies have the first core
// to themselves; who asks and who answers share the second.
type comparison struct {
	pairs, seconds, conns int

	dir    string
	closes []func()
}

const (
	proxyCore = "0"
	otherCore = "1"
)

// backend answers at once, from memory.
const backendConf = `daemon off; pid %[1]s/backend.pid; error_log stderr crit; worker_processes 2;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
  server { listen %[2]s reuseport; location / { default_type text/plain; return 200 "an answer of an instance\n"; } } }
`

// proxy does what the engine does: connections are kept, and the instance is told who asks.
const proxyConf = `daemon off; master_process off; pid %[1]s/proxy.pid; error_log stderr crit;
events { worker_connections 4096; }
http { access_log off; keepalive_requests 1000000000;
  upstream backend { server %[2]s; keepalive 128; keepalive_requests 1000000000; }
  server { listen %[3]s; location / { proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";
    proxy_set_header Host $host; proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Proto $scheme; } } }
`

// sample is what one run of wrk showed.
type sample struct {
	perSecond, cpu float64 // cpu in microseconds for each request
	p99            time.Duration
}

func (c *comparison) run(ctx context.Context) (err error) {
	if c.dir, err = os.MkdirTemp("", "passthrough"); err != nil {
		return err
	}
	c.closes = append(c.closes, func() { _ = os.RemoveAll(c.dir) })
	defer func() {
		for _, f := range slices.Backward(c.closes) {
			f()
		}
	}()
	backend, nginx, engine := freeAddress(), freeAddress(), freeAddress()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	if _, err := c.start(ctx, otherCore, backend, "nginx", "-c", c.file("backend.conf", fmt.Sprintf(backendConf, c.dir, backend))); err != nil {
		return err
	}
	nginxPID, err := c.start(ctx, proxyCore, nginx, "nginx", "-c", c.file("proxy.conf", fmt.Sprintf(proxyConf, c.dir, backend, nginx)))
	if err != nil {
		return err
	}
	enginePID, err := c.start(ctx, proxyCore, engine, "env", "GOMAXPROCS=1", self, "-listen", engine, "-to", backend)
	if err != nil {
		return err
	}
	bare, err := c.measure(ctx, proxyCore, 0, backend)
	if err != nil {
		return err
	}
	var throughput, p99, cpu, oursCPU, theirsCPU, theirs []float64
	for i := range c.pairs + 1 {
		a, err := c.measure(ctx, otherCore, nginxPID, nginx)
		if err != nil {
			return err
		}
		b, err := c.measure(ctx, otherCore, enginePID, engine)
		if err != nil {
			return err
		}
		if i == 0 {
			continue // warms both up
		}
		throughput, p99, cpu = append(throughput, b.perSecond/a.perSecond), append(p99, float64(b.p99)/float64(a.p99)), append(cpu, b.cpu/a.cpu)
		oursCPU, theirsCPU, theirs = append(oursCPU, b.cpu), append(theirsCPU, a.cpu), append(theirs, a.perSecond)
	}
	fmt.Printf("gateway.nginx_throughput_ratio %.3f ratio\ngateway.nginx_p99_ratio %.3f ratio\ngateway.nginx_cpu_ratio %.3f ratio\n", median(throughput), median(p99), median(cpu))
	fmt.Printf("gateway.cpu_per_request %.2f us\ngateway.nginx_cpu_per_request %.2f us\n", median(oursCPU), median(theirsCPU))
	fmt.Printf("gateway.nginx_throughput %.0f requests/s\ngateway.backend_alone %.0f requests/s\n", median(theirs), bare.perSecond)
	return nil
}

func median(values []float64) float64 {
	slices.Sort(values)
	return (values[(len(values)-1)/2] + values[len(values)/2]) / 2
}

func freeAddress() string {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return "127.0.0.1:0"
	}
	defer l.Close()
	return l.Addr().String()
}

func (c *comparison) file(name, text string) string {
	path := filepath.Join(c.dir, name)
	_ = os.WriteFile(path, []byte(text), 0o600) // nginx says if it is missing
	return path
}

// start runs a server on a core, and returns once it answers.
func (c *comparison) start(ctx context.Context, core, address string, command ...string) (pid int, err error) {
	cmd := exec.Command("taskset", append([]string{"-c", core}, command...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	c.closes = append(c.closes, func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() })
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/", nil)
		if err != nil {
			return 0, err
		}
		r.Host = hostName
		if response, err := http.DefaultClient.Do(r); err == nil {
			_ = response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return cmd.Process.Pid, nil // taskset and env have become the command
			}
		}
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("%s does not answer: %w", strings.Join(command, " "), ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

var (
	requestsLine = regexp.MustCompile(`(\d+) requests in`)
	rateLine     = regexp.MustCompile(`Requests/sec:\s*([\d.]+)`)
	p99Line      = regexp.MustCompile(`99%\s+([\d.]+[a-z]+)`)
)

// measure asks for some seconds.
func (c *comparison) measure(ctx context.Context, core string, pid int, address string) (sample, error) {
	before, err := ticks(pid)
	if err != nil {
		return sample{}, err
	}
	out, err := exec.CommandContext(ctx, "taskset", "-c", core, "wrk", "-t1", "-c"+strconv.Itoa(c.conns), "-d"+strconv.Itoa(c.seconds)+"s",
		"--latency", "-H", "Host: "+hostName, "http://"+address+"/").CombinedOutput()
	if err != nil {
		return sample{}, fmt.Errorf("wrk: %w: %s", err, out)
	}
	after, err := ticks(pid)
	if err != nil {
		return sample{}, err
	}
	text := string(out)
	requests, rate, p99 := requestsLine.FindStringSubmatch(text), rateLine.FindStringSubmatch(text), p99Line.FindStringSubmatch(text)
	if requests == nil || rate == nil || p99 == nil || strings.Contains(text, "Non-2xx") || strings.Contains(text, "Socket errors") {
		return sample{}, errors.New("not what was asked for: " + text)
	}
	n, _ := strconv.ParseFloat(requests[1], 64) // they matched
	s := sample{cpu: float64(after-before) * 1e4 / n}
	s.perSecond, _ = strconv.ParseFloat(rate[1], 64)
	s.p99, err = time.ParseDuration(p99[1])
	return s, err
}

// ticks is the processor time of a process, in hundredths of a second; 0 for none.
func ticks(pid int) (int64, error) {
	if pid == 0 {
		return 0, nil
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("unreadable /proc/PID/stat")
	}
	user, err := strconv.ParseInt(fields[11], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(fields[12], 10, 64)
	return user + system, err
}
