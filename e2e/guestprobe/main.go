// Command guestprobe is a tenant's program that says what it has been given:
// memory, volume and environment, and (below /files/) every file, and that keeps a
// ledger (below /ledger). The tests in e2e run it in a virtual machine.
package main

import (
	"encoding/json"
	"log"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"syscall"
)

// report is what GET / answers.
type report struct {
	MemoryMiB int64             `json:"memory_mib"`
	DiskMiB   int64             `json:"disk_mib"`
	Env       map[string]string `json:"env"`
}

func main() {
	http.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		r, err := look()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		if err := json.NewEncoder(w).Encode(r); err != nil {
			log.Print(err)
		}
	})
	http.Handle("GET /files/", http.StripPrefix("/files/", http.FileServer(http.Dir("/"))))
	ballast := load(os.Getenv("BALLAST_MIB"))
	http.HandleFunc("GET /ballast", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := w.Write(strconv.AppendInt(nil, int64(len(ballast)>>20), 10)); err != nil {
			log.Print(err)
		}
	})
	newLedger().handle(http.DefaultServeMux)
	log.Fatal(http.ListenAndServe(":8080", nil))
}

// load fills so much memory with what does not compress.
func load(text string) []byte {
	mib, err := strconv.Atoi(text)
	if err != nil {
		return nil
	}
	ballast := make([]byte, mib<<20)
	random := rand.NewChaCha8(seed())
	_, _ = random.Read(ballast) // it never fails
	return ballast
}

func seed() (seed [32]byte) {
	for n := range seed {
		seed[n] = byte(rand.Uint32())
	}
	return seed
}

func look() (report, error) {
	var memory syscall.Sysinfo_t
	if err := syscall.Sysinfo(&memory); err != nil {
		return report{}, err
	}
	var disk syscall.Statfs_t
	if err := syscall.Statfs("/data", &disk); err != nil {
		return report{}, err
	}
	r := report{
		MemoryMiB: int64(memory.Totalram) * int64(memory.Unit) >> 20,
		DiskMiB:   int64(disk.Blocks) * disk.Bsize >> 20,
		Env:       map[string]string{},
	}
	for _, name := range []string{"PLAIN", "PASSWORD"} {
		if value, ok := os.LookupEnv(name); ok {
			r.Env[name] = value
		}
	}
	return r, nil
}
