// Command guest is the program of the guests that this package's tests boot.
package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"
)

// main serves /data/value (GET /value, /set), counts in memory at GET /count, tells
// the time, and ends at GET /exit?code=N.
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
		if err := os.WriteFile(filepath.Clean(file), []byte(r.FormValue("text")), 0o644); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	http.HandleFunc("GET /exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		fmt.Println("guest: ends with", code)
		os.Exit(code)
	})
	fmt.Println("guest: serves")
	fmt.Println("guest:", http.ListenAndServe(":8080", nil))
	os.Exit(1)
}
