// Command guest is the program of the guests that this package's tests boot.
package main

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"
)

// write returns once the content would survive the loss of the machine.
func write(file, content string) error {
	f, err := os.OpenFile(file+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := os.Rename(file+".new", file); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// main serves /data/value (GET /value, GET /set?text=), fills /data with random
// data (GET /fill?mib=N), counts in memory (GET /count), tells the time (GET
// /now), and ends at GET /exit?code=N.
func main() {
	const file = "/data/value"
	var count atomic.Int64
	http.HandleFunc("GET /count", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, count.Add(1)) })
	http.HandleFunc("GET /now", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, time.Now().UnixMilli()) })
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, os.Getenv("GREETING")) })
	http.HandleFunc("GET /value", func(w http.ResponseWriter, _ *http.Request) {
		content, err := os.ReadFile(file)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(content)
	})
	http.HandleFunc("GET /set", func(w http.ResponseWriter, r *http.Request) {
		if err := write(filepath.Clean(file), r.FormValue("text")); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	http.HandleFunc("GET /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		fmt.Println("guest: ends with", code)
		os.Exit(code)
	})
	http.HandleFunc("GET /fill", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.FormValue("mib"))
		block := make([]byte, n<<20)
		_, _ = rand.Read(block)
		if err := write(filepath.Dir(file)+"/fill", string(block)); err != nil {
			http.Error(w, err.Error(), http.StatusInsufficientStorage)
		}
	})
	fmt.Println("guest: serves")
	fmt.Println("guest:", http.ListenAndServe(":8080", nil))
	os.Exit(1)
}
