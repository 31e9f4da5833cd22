package admin

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/httpjson"
	"github.com/tps-agent/ratelimitd/internal/limits"
)

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
	httpjson.Problem(w, code, oneLine(err))
}

// oneLine is what several errors say, in one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }
