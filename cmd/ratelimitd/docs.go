package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strings"
)

// docsCmd writes the settings table into a Markdown file, between its markers.
type docsCmd struct {
	File string `arg:"" help:"Markdown file with the markers <!-- settings:begin --> and <!-- settings:end -->; - prints the table."`
}

const (
	settingsBegin = "<!-- settings:begin -->"
	settingsEnd   = "<!-- settings:end -->"
)

func (c *docsCmd) run(stdout io.Writer) error {
	if c.File == "-" {
		_, err := io.WriteString(stdout, settingsTable())
		return err
	}
	body, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("writing the settings table: %w", err)
	}
	before, rest, ok := strings.Cut(string(body), settingsBegin)
	_, after, ok2 := strings.Cut(rest, settingsEnd)
	if !ok || !ok2 {
		return errors.New("writing the settings table: " + c.File + " has no markers " + settingsBegin + " and " + settingsEnd)
	}
	text := before + settingsBegin + "\n" + settingsTable() + settingsEnd + after
	if text == string(body) {
		return nil
	}
	return os.WriteFile(c.File, []byte(text), 0o644) //nolint:gosec // a document
}

// settingsTable is every setting as a Markdown table.
func settingsTable() string {
	var b strings.Builder
	b.WriteString("| variable | flag | default | meaning |\n|---|---|---|---|\n")
	for field := range reflect.TypeFor[settings]().Fields() {
		tag := field.Tag
		fallback := "none"
		if f := tag.Get("fallback"); f != "" {
			fallback = "`" + f + "`"
		}
		fmt.Fprintf(&b, "| `%s` | `--%s` | %s | %s |\n", tag.Get("setting"), tag.Get("name"), fallback, tag.Get("help"))
	}
	return b.String()
}
