package admin

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/limits"
)

// answer writes v as JSON.
func answer(w http.ResponseWriter, code int, v any) {
	writeJSON(w, code, "application/json", v)
}

// problem answers with an RFC 9457 problem.
func problem(w http.ResponseWriter, code int, detail string) {
	writeJSON(w, code, "application/problem+json", struct {
		Title  string `json:"title"`
		Status int    `json:"status"`
		Detail string `json:"detail"`
	}{http.StatusText(code), code, detail})
}

func writeJSON(w http.ResponseWriter, code int, contentType string, v any) {
	body, err := json.Marshal(v)
	if err != nil {
		http.Error(w, "encoding the answer: "+err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(body, '\n')) // whoever asked has gone: nobody is left to tell
}

// failed answers a write that the store did not make.
func (a *api) failed(w http.ResponseWriter, r *http.Request, err error) {
	var away interface{ Unavailable() bool }
	code, level := http.StatusInternalServerError, slog.LevelError
	_, badField := errors.AsType[*limits.FieldError](err)
	switch {
	case errors.Is(err, limits.ErrNotFound):
		code, level = http.StatusNotFound, slog.LevelDebug
	case badField:
		code, level = http.StatusUnprocessableEntity, slog.LevelDebug
	case errors.As(err, &away) && away.Unavailable():
		code, level = http.StatusServiceUnavailable, slog.LevelWarn
	}
	if r.Context().Err() != nil { // whoever asked has gone, which may be all that was wrong
		level = slog.LevelDebug
	}
	a.Log.Log(r.Context(), level, "a limit could not be written", slog.Any("error", err))
	problem(w, code, oneLine(err))
}

// oneLine is what several errors say, in one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
