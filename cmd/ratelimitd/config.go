package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/tps-agent/ratelimitd/internal/descriptors"
)

// configCmd are the commands on descriptor files.
type configCmd struct {
	Check struct {
		Dir string `arg:"" help:"Directory as TPS_CONFIG_DIR has it."`
	} `cmd:"" help:"Print the tree of all descriptor files of a directory, or all that is wrong with them."`
}

// errIncomplete ends a command with status 1 once it has said itself what is missing.
var errIncomplete = errors.New("incomplete")

func (c *configCmd) run(stdout, stderr io.Writer) error {
	files, err := descriptors.ReadDir(c.Check.Dir, nil)
	if err != nil {
		return err
	}
	if len(files) == 0 {
		return fmt.Errorf("the directory %s holds no file", c.Check.Dir)
	}
	set := descriptors.Update(nil, files)
	if err := set.Err(); err != nil {
		fmt.Fprintln(stderr, err)
		return errIncomplete
	}
	for src := range set.Sources() {
		printTree(stdout, src)
	}
	return nil
}

// printTree prints one file: each descriptor below that which it stands in.
func printTree(w io.Writer, src descriptors.Source) {
	how := ""
	if src.Domain.AllOrNothing() {
		how = ", all_or_nothing"
	}
	fmt.Fprintf(w, "%s: domain %s, %d limits%s\n", src.Name, shown(src.Domain.Name()), len(src.Domain.Rules()), how)
	src.Domain.Walk(func(n descriptors.Node) {
		line := strings.Repeat("  ", n.Depth+1) + shown(n.Key)
		if n.Value != "" {
			line += "=" + shown(n.Value)
		}
		if words := nodeWords(&n); len(words) > 0 {
			line += ": " + strings.Join(words, " ")
		}
		fmt.Fprintln(w, line)
	})
}
