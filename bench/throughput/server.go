package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
)

const ownServer = "ratelimitd"

// server is one of the processes that are compared.
type server struct {
	name    string
	addr    string // of its gRPC port
	metrics string // URL of its metrics; empty = it has none
	cmd     *exec.Cmd
	log     *bytes.Buffer
}

func start(ctx context.Context, name string, cmd *exec.Cmd) (*server, error) {
	s := &server{name: name, cmd: cmd, log: &bytes.Buffer{}}
	cmd.Stderr = s.log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return s, nil
}

// stop ends the process and waits for it.
func (s *server) stop() {
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.cmd.Wait()         // killed
}

// startConstant runs this very program as one of the other servers.
func startConstant(ctx context.Context, name string, answer []byte) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, self, "-serve", name) //nolint:gosec // this program
	cmd.Stdin = bytes.NewReader(answer)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s, err := start(ctx, name, cmd)
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		s.stop()
		return nil, fmt.Errorf("starting %s: %w: %s", name, err, s.log)
	}
	s.addr = strings.TrimSpace(line)
	return s, nil
}

// startRatelimitd runs the binary on the embedded default, and waits until it is ready.
func startRatelimitd(ctx context.Context, c config, dir string) (*server, error) {
	limits := filepath.Join(dir, "limits.yaml")
	if err := os.WriteFile(limits, limitsFile(c.rows), 0o600); err != nil {
		return nil, err
	}
	var addrs [2]string
	for i := range addrs {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		addrs[i] = addr
	}
	cmd := exec.CommandContext(ctx, c.binary, "serve") //nolint:gosec // what the flag says
	cmd.Env = []string{
		"TPS_GRPC_ADDR=" + addrs[0], "TPS_HTTP_ADDR=" + addrs[1], "TPS_DEBUG_ADDR=127.0.0.1:0",
		"TPS_LIMITS_FILE=" + limits, "TPS_DATA_DIR=" + filepath.Join(dir, "data"),
	}
	s, err := start(ctx, ownServer, cmd)
	if err != nil {
		return nil, err
	}
	s.addr, s.metrics = addrs[0], "http://"+addrs[1]+"/metrics"
	if err := ready(ctx, "http://"+addrs[1]+"/readyz"); err != nil {
		s.stop()
		return nil, fmt.Errorf("starting ratelimitd: %w\n%s", err, s.log)
	}
	return s, nil
}

// limitsFile has so many rows: the two that the request meets, and gateways nobody asks for.
func limitsFile(rows int) []byte {
	var b bytes.Buffer
	b.WriteString("limits:\n")
	fmt.Fprintf(&b, "- {gateway: %s, max_tps: 1000000000}\n", gateway)
	fmt.Fprintf(&b, "- {gateway: %s, endpoint: %s, max_tps: 1000000000}\n", gateway, endpoint)
	for i := range max(rows-2, 0) {
		fmt.Fprintf(&b, "- {gateway: gw-%d, max_tps: 100}\n", i)
	}
	return b.Bytes()
}

func ready(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		body, err := get(ctx, url)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s: %s", url, body), err)
		case <-ticker.C:
		}
	}
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody) //nolint:gosec // an address of this run
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req) //nolint:gosec // as above
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}

// answerOf is what the server answers to the request, in the wire format.
func answerOf(ctx context.Context, addr string) ([]byte, error) {
	answer, err := ask(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("asking ratelimitd once: %w", err)
	}
	if answer.GetOverallCode() != ratelimitv3.RateLimitResponse_OK || answer.GetStatuses()[0].GetCurrentLimit() == nil {
		return nil, fmt.Errorf("ratelimitd answered %v, not an OK with a limit", answer)
	}
	return proto.Marshal(answer)
}

func ask(ctx context.Context, addr string) (*ratelimitv3.RateLimitResponse, error) {
	conn, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close() //nolint:errcheck // the answer is there
	return ratelimitv3.NewRateLimitServiceClient(conn).ShouldRateLimit(ctx, requestMessage())
}

// decisions is how many requests ratelimitd has admitted.
func (s *server) decisions(ctx context.Context) (int, error) {
	body, err := get(ctx, s.metrics)
	if err != nil {
		return 0, err
	}
	series := fmt.Sprintf(`ratelimitd_decisions_total{code="ok",domain=%q,endpoint=%q,gateway=%q} `, domain, endpoint, gateway)
	_, rest, ok := strings.Cut(body, series)
	if !ok {
		return 0, fmt.Errorf("its metrics have no %s", series)
	}
	value, _, _ := strings.Cut(rest, "\n")
	n, err := strconv.ParseFloat(value, 64)
	return int(n), err
}
