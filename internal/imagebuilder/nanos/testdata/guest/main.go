// Command guest is the program of the boot tests: it tells what it sees of its
// machine, and writes files that must survive.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"sort"
	"strconv"
	"syscall"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "want" {
		want()
	}
	if len(os.Args) > 1 && os.Args[1] == "exit" {
		code, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		fmt.Println("guest: leaving with", code)
		os.Exit(code)
	}
	http.HandleFunc("/about", about)
	http.HandleFunc("/file", file)
	http.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		fmt.Println("guest: leaving with", code)
		os.Exit(code)
	})
	l, err := net.Listen("tcp4", ":8080")
	if err != nil {
		panic(err)
	}
	fmt.Println("guest: serving")
	panic(http.Serve(l, nil))
}

// want does what Nanos can't: another process, shared memory of System V.
func want() {
	fmt.Println("guest: child:", exec.Command("/bin/guest").Run())
	_, _, errno := syscall.Syscall(29, 0, 4096, 0o1600) // shmget
	fmt.Println("guest: shmget:", errno)
	fmt.Println("guest: abort:", syscall.Kill(os.Getpid(), syscall.SIGABRT))
	select {}
}

func about(w http.ResponseWriter, _ *http.Request) {
	host, err := os.Hostname()
	if err != nil {
		host = err.Error()
	}
	var addresses []string
	if all, err := net.InterfaceAddrs(); err == nil {
		for _, a := range all {
			addresses = append(addresses, a.String())
		}
	}
	env := os.Environ()
	sort.Strings(env)
	dir, _ := os.Getwd()
	_ = json.NewEncoder(w).Encode(map[string]any{"args": os.Args, "env": env, "hostname": host, "addresses": addresses, "dir": dir})
}

// file reads a file, or with PUT writes it and has it on the disk before it answers.
func file(w http.ResponseWriter, r *http.Request) {
	path := r.FormValue("path")
	if r.Method != http.MethodPut {
		b, err := os.ReadFile(path)
		if err != nil {
			http.Error(w, err.Error(), http.StatusNotFound)
			return
		}
		_, _ = w.Write(b)
		return
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err == nil {
		_, err = io.Copy(f, r.Body)
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}
