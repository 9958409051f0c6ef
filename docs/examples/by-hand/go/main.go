package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Calls a URL all the time until SIGTERM: <keys file> <control plane> <url>
func main() {
	client := &http.Client{Transport: &Transport{Path: os.Args[1], API: os.Args[2]}, Timeout: 30 * time.Second}
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, syscall.SIGTERM)
	served, failed := 0, 0
	for {
		select {
		case <-ending:
			fmt.Printf("served %d, failed %d\n", served, failed)
			return
		case <-time.After(50 * time.Millisecond):
		}
		response, err := client.Get(os.Args[3])
		if err != nil {
			failed++
			fmt.Println("failed", err)
			continue
		}
		_, _ = io.Copy(io.Discard, response.Body)
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			served++
		} else {
			failed++
			fmt.Println("failed", response.StatusCode)
		}
	}
}
