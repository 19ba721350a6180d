// Command program is what the boot tests run in their guests.
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"syscall"
	"time"
)

func main() {
	switch os.Args[1] {
	case "exit":
		code, _ := strconv.Atoi(os.Args[2])
		fmt.Println("program: ends with", code)
		os.Exit(code)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		serve()
	default:
		serve()
	}
}

func serve() {
	http.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, os.Getenv("GREETING"))
	})
	http.HandleFunc("/read", func(w http.ResponseWriter, r *http.Request) {
		content, err := os.ReadFile(r.FormValue("file"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(content)
	})
	http.HandleFunc("/write", func(w http.ResponseWriter, r *http.Request) {
		if err := os.WriteFile(r.FormValue("file"), []byte(r.FormValue("text")), 0o644); err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
		}
	})
	http.HandleFunc("/stat", func(w http.ResponseWriter, r *http.Request) {
		info, err := os.Stat(r.FormValue("file"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(w, "%o %d %d", st.Mode&0o7777, st.Uid, st.Gid)
	})
	http.HandleFunc("/whoami", func(w http.ResponseWriter, _ *http.Request) {
		groups, _ := os.Getgroups()
		fmt.Fprint(w, os.Getuid(), os.Getgid(), groups, os.Getenv("HOME"))
	})
	http.HandleFunc("/listen", func(w http.ResponseWriter, r *http.Request) {
		l, err := net.Listen("tcp", r.FormValue("address"))
		if err != nil {
			http.Error(w, err.Error(), http.StatusForbidden)
			return
		}
		l.Close()
	})
	http.HandleFunc("/time", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, time.Now().UTC().Format(time.RFC3339))
	})
	http.HandleFunc("/exit", func(_ http.ResponseWriter, _ *http.Request) { os.Exit(7) })
	fmt.Println("program: serves")
	fmt.Println("program:", http.ListenAndServe(":8080", nil))
	os.Exit(1)
}
