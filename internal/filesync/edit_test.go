package filesync

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

func newSync(t *testing.T, body string) *Sync {
	t.Helper()
	path := filepath.Join(t.TempDir(), "limits.yaml")
	if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
	s, err := New(Config{Path: path}, limits.NewClock(), new(limits.Current), prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Somebody writes the file while an edit is being made: the edit begins anew upon that.
func TestEditLosesNoRace(t *testing.T) {
	s := newSync(t, "limits:\n- {gateway: shop, max_tps: 1}\n")
	rounds := 0
	err := s.edit(t.Context(), func(doc *document) error {
		if rounds++; rounds == 1 {
			write(t, s, "limits:\n- {gateway: shop, max_tps: 2}\n")
		}
		return doc.put(limits.Limit{Key: limits.Key{Gateway: "bank"}, MaxTPS: 5, Enabled: true})
	})
	if err != nil || rounds != 2 {
		t.Errorf("after %d rounds: %v", rounds, err)
	}
	if got := s.current.Load().Find(limits.Key{Gateway: "shop"}); got == nil || got.MaxTPS != 2 {
		t.Errorf("the row by hand is %v", got)
	}
	if s.current.Load().Len() != 2 {
		t.Errorf("%d rows are in force", s.current.Load().Len())
	}
}

// Somebody who never stops writing gets the file.
func TestEditGivesUp(t *testing.T) {
	s := newSync(t, "limits: []\n")
	by := ""
	err := s.edit(t.Context(), func(doc *document) error {
		by += "# again\n"
		write(t, s, "limits: []\n"+by)
		return doc.put(limits.Limit{Key: limits.Key{Gateway: "bank"}})
	})
	var away *UnavailableError
	if !errors.As(err, &away) || !strings.Contains(err.Error(), "is being changed by somebody else") {
		t.Errorf("edit: %v", err)
	}
	if got := strings.Count(by, "\n"); got != maxRaces {
		t.Errorf("it tried %d times", got)
	}
	body, err := os.ReadFile(s.cfg.Path)
	if err != nil || string(body) != "limits: []\n"+by {
		t.Errorf("the file is %q, %v", body, err)
	}
}

// What Put wrote is not loaded once more when the notification of it comes.
func TestOwnWriteIsKnown(t *testing.T) {
	s := newSync(t, "limits: []\n")
	if _, err := s.Put(t.Context(), limits.Limit{Key: limits.Key{Gateway: "shop"}}, "test"); err != nil {
		t.Fatal(err)
	}
	table := s.current.Load()
	s.check(t.Context())
	if s.current.Load() != table {
		t.Error("the same rows were put in force again")
	}
	if s.seen.info == nil {
		t.Error("the times of the file are not known, so that each poll would read it")
	}
}

// An edit whose result does not read as what it should hold is not made.
func TestEncodeRefuses(t *testing.T) {
	doc, err := parse([]byte("limits:\n- {gateway: shop}\n- {gateway: bank}\n"))
	if err != nil {
		t.Fatal(err)
	}
	doc.rows[1].MaxTPS++ // as an edit that hits another row, too
	if body, err := doc.encode(); err == nil || !strings.Contains(err.Error(), "edit it by hand") {
		t.Errorf("encode: %q, %v", body, err)
	}
	doc.items.Content[1].Content[0].Value = "gatway"
	if body, err := doc.encode(); err == nil || !strings.Contains(err.Error(), `key "gatway"`) {
		t.Errorf("encode: %q, %v", body, err)
	}
}

func write(t *testing.T, s *Sync, body string) {
	t.Helper()
	if err := os.WriteFile(s.cfg.Path, []byte(body), 0o644); err != nil {
		t.Fatal(err)
	}
}
