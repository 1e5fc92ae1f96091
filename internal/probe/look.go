package main

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"os/signal"
	"strings"

	"golang.org/x/sys/unix"
)

// listDirectory names what is in path=.
func listDirectory(_ string, a *arguments) func(*nic) (string, error) {
	a.need("path")
	path := a.text("path")
	return func(*nic) (string, error) {
		entries, err := os.ReadDir(path)
		names := []string{"entries"}
		for _, e := range entries {
			names = append(names, e.Name())
		}
		return strings.Join(names, " "), err
	}
}

// readFile gives the first 4 KiB of path=, on one line.
func readFile(_ string, a *arguments) func(*nic) (string, error) {
	a.need("path")
	path := a.text("path")
	return func(*nic) (string, error) {
		f, err := os.Open(path)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		b := make([]byte, 4096)
		n, err := f.Read(b)
		return fmt.Sprintf("%q", b[:n]), err
	}
}

// writeFile writes the marker to path= and onto the disk beneath it, or to the device that it names.
func writeFile(mark string, a *arguments) func(*nic) (string, error) {
	a.need("path")
	path, times := a.text("path"), a.number("times", 32)
	return func(*nic) (string, error) {
		f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return "", err
		}
		defer func() { _ = f.Close() }()
		for range max(times, 1) {
			if _, err := f.WriteString(mark + "\n"); err != nil {
				return "", err
			}
		}
		_ = f.Sync() // a device need not know how
		return fmt.Sprintf("written %d", max(times, 1)), nil
	}
}

// readRandom gives 32 bytes of the guest's random numbers.
func readRandom(string, *arguments) func(*nic) (string, error) {
	return func(*nic) (string, error) {
		b := make([]byte, 32)
		_, err := rand.Read(b) // getrandom(2): the kernel's, as /dev/urandom
		return hex.EncodeToString(b), err
	}
}

// holdInMemory keeps a MiB of markers in memory until it is killed.
func holdInMemory(mark string, _ *arguments) func(*nic) (string, error) {
	return func(*nic) (string, error) {
		held := bytes.Repeat([]byte(mark+"\n"), (1<<20)/(len(mark)+1))
		end := make(chan os.Signal, 1)
		signal.Notify(end, unix.SIGTERM)
		<-end
		return fmt.Sprintf("held %d", bytes.Count(held, []byte(mark))), nil
	}
}
