package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM) //nolint:forbidigo // main makes the context
	err := run(ctx, os.Args, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "throughput:", err)
		os.Exit(1)
	}
}

// config is what the flags say.
type config struct {
	binary      string  // ratelimitd
	rounds      int     // of each server
	requests    int     // of one round
	connections int     // of h2load
	streams     int     // of each connection, at once
	rows        int     // of the limits file
	least       float64 // ratio to bare below which the run fails; 0 = it never does
	out         string  // Markdown file of the result; empty = none
	command     string  // as it was called
}

func parse(args []string) (config, string, error) {
	c := config{command: "go run ./bench/throughput " + strings.Join(args[1:], " ")}
	flags := flag.NewFlagSet("throughput", flag.ContinueOnError)
	flags.StringVar(&c.binary, "binary", "./ratelimitd", "ratelimitd, as make build makes it")
	flags.IntVar(&c.rounds, "rounds", 10, "rounds of each server")
	flags.IntVar(&c.requests, "n", 200_000, "requests of a round")
	flags.IntVar(&c.connections, "connections", 2, "connections")
	flags.IntVar(&c.streams, "streams", 100, "requests at once on each connection")
	flags.IntVar(&c.rows, "rows", 1000, "rows of the limits file")
	flags.Float64Var(&c.least, "least", 0.85, "fail where ratelimitd has less than this part of bare's throughput")
	flags.StringVar(&c.out, "out", "", "write the result to this Markdown file")
	serve := flags.String("serve", "", "be one of the servers that ratelimitd is compared with (bare or raw); the answer comes on standard input")
	if err := flags.Parse(args[1:]); err != nil {
		return c, "", err
	}
	if c.rounds < 1 || c.requests < 1 || c.connections < 1 || c.streams < 1 || c.rows < 1 {
		return c, "", errors.New("rounds, n, connections, streams and rows are at least 1")
	}
	return c, *serve, nil
}

func run(ctx context.Context, args []string, stdout io.Writer) error {
	c, serve, err := parse(args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return nil
	case err != nil:
		return err
	case serve != "":
		return serveConstant(ctx, serve, os.Stdin, stdout)
	}
	dir, err := os.MkdirTemp("", "throughput-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // it lies among temporary files
	return compare(ctx, c, dir, stdout)
}

// compare runs every server and all rounds, and prints the result.
func compare(ctx context.Context, c config, dir string, stdout io.Writer) error {
	frame := filepath.Join(dir, "frame")
	if err := os.WriteFile(frame, grpcFrame(requestBytes()), 0o600); err != nil {
		return err
	}
	servers, err := startAll(ctx, c, dir)
	defer stopAll(servers)
	if err != nil {
		return err
	}
	load := h2load{frame: frame, requests: c.requests, connections: c.connections, streams: c.streams}
	r := result{config: c, rounds: make(map[string][]measured)}
	for round := range c.rounds {
		for i := range servers { // each begins a round as often as the others
			s := servers[(i+round)%len(servers)]
			m, err := s.measure(ctx, load)
			if err != nil {
				return fmt.Errorf("%s, round %d: %w", s.name, round+1, err)
			}
			r.add(s.name, m)
			fmt.Fprintf(stdout, "round %2d  %-10s  %8.0f requests/s  %6.2f µs CPU per request\n", round+1, s.name, m.perSecond, m.cpuMicros)
		}
	}
	return r.finish(stdout)
}

func startAll(ctx context.Context, c config, dir string) (servers []*server, err error) {
	own, err := startRatelimitd(ctx, c, dir)
	if err != nil {
		return nil, err
	}
	servers = append(servers, own)
	answer, err := answerOf(ctx, own.addr)
	if err != nil {
		return servers, err
	}
	for _, name := range [...]string{bareServer, rawServer} {
		s, err := startConstant(ctx, name, answer)
		if err != nil {
			return servers, err
		}
		servers = append(servers, s)
	}
	return servers, nil
}

func stopAll(servers []*server) {
	for _, s := range servers {
		s.stop()
	}
}

// freeAddr is an address that nobody listens on at this instant.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("looking for a free port: %w", err)
	}
	defer l.Close() //nolint:errcheck // nothing was accepted
	return l.Addr().String(), nil
}
