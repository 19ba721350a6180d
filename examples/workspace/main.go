package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// version is the release, set by -ldflags "-X main.version=…".
var version = "dev"

// stopTimeout bounds how long requests under way may take after SIGTERM.
const stopTimeout = 5 * time.Second

func main() {
	showVersion := flag.Bool("version", false, "print the version and end")
	flag.Parse()
	if *showVersion {
		fmt.Println(version)
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	if code, err := run(ctx, os.Getenv, os.Stderr); err != nil || code != 0 {
		fmt.Fprintln(os.Stderr, "workspace:", cmp.Or(err, fmt.Errorf("ending with the code %d, as asked", code)))
		os.Exit(cmp.Or(code, 1))
	}
}

var errCrash = errors.New("crashing, as CRASH_AFTER asks")

// run serves until ctx ends, and returns the exit code that the environment asks for.
func run(ctx context.Context, getenv func(string) string, out io.Writer) (code int, err error) {
	if v := getenv("EXIT_CODE"); v != "" {
		if code, err = strconv.Atoi(v); err != nil {
			return 0, fmt.Errorf("reading EXIT_CODE: %w", err)
		}
		return code, nil
	}
	var crash <-chan time.Time
	if v := getenv("CRASH_AFTER"); v != "" {
		after, err := time.ParseDuration(v)
		if err != nil {
			return 0, fmt.Errorf("reading CRASH_AFTER: %w", err)
		}
		crash = time.After(after)
	}
	dir := cmp.Or(getenv("DATA_DIR"), "/data")
	state, err := openState(filepath.Join(dir, "workspace.json"))
	if err != nil {
		return 0, err
	}
	logger := log.New(out, "workspace: ", 0)
	a := &app{
		state: state, log: logger, booted: time.Now().UTC(), tenant: cmp.Or(getenv("TENANT_NAME"), "Workspace"),
		greeting: getenv("GREETING"), failHealth: getenv("FAIL_HEALTH") == "1",
	}
	listener, err := net.Listen("tcp", cmp.Or(getenv("LISTEN"), ":8080"))
	if err != nil {
		return 0, fmt.Errorf("listening: %w", err)
	}
	server := &http.Server{Handler: a.handler(), ReadHeaderTimeout: 10 * time.Second, ErrorLog: logger}
	logger.Printf("version %s serves %s on %s", version, a.tenant, listener.Addr())
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return 0, fmt.Errorf("serving: %w", err)
	case <-crash:
		return 2, errCrash
	case <-ctx.Done():
	}
	logger.Print("stopping")
	stopCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if err := server.Shutdown(stopCtx); err != nil {
		return 0, fmt.Errorf("stopping: %w", err)
	}
	return 0, nil
}
