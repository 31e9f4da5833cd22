// Command ratelimitd is Envoy's external rate limit service: it decides, holds and measures
// transactions per second. It is the only package that knows all others.
//
//	settings --> serve --> listeners --> grpc: rls, recorder, health, reflection
//	                                 --> http: admin, /json
//	                  --> pgsync or filesync --> limits.Current --> buckets.Engine
//
// main itself only calls run, which tests call too.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"github.com/alecthomas/kong"
)

//go:generate go run . docs ../../README.md ../../docs/operations.md

func main() {
	os.Exit(run(context.Background(), os.Args[1:], asRatelimit(os.Args[0], os.Environ()), os.Stdout, os.Stderr))
}

// cli are the commands.
type cli struct {
	Serve   serveCmd   `cmd:"" default:"withargs" help:"Serve Envoy and the API (the default)."`
	Migrate migrateCmd `cmd:"" help:"Bring the schema of the database up to date, and end."`
	Limits  limitsCmd  `cmd:"" help:"List, set and delete limits through the API of a running server."`
	Config  configCmd  `cmd:"" help:"Check descriptor files."`
	Check   checkCmd   `cmd:"" help:"Ask a running server for a decision, and print it."`
	Top     topCmd     `cmd:"" help:"Show what a running server measures, in a table that is always new."`
	Ingest  ingestCmd  `cmd:"" help:"Bring an access log of Envoy in JSON, or a file of transactions, into a running server."`
	Version versionCmd `cmd:"" help:"Print the version."`
	Docs    docsCmd    `cmd:"" hidden:"" help:"Write the tables of settings and metrics into Markdown files."`
}

type (
	serveCmd struct {
		settings
	}
	migrateCmd struct {
		settings
	}
	versionCmd struct{}
)

const description = `ratelimitd is Envoy's external rate limit service: limits are rows in Postgres or in a file, buckets in memory.

  ratelimitd                                              serve, with limits from ./ratelimitd-limits.yaml
  TPS_DATABASE_URL=postgres://… ratelimitd                serve, with limits from Postgres
  ratelimitd limits set --gateway shop --max-tps 100      at most 100 requests per second to shop
  ratelimitd limits set --gateway shop --endpoint pay --max-tps 5 --max-wait-ms 2000
                                                          pay waits up to two seconds for its turn
  ratelimitd limits set --gateway shop --max-tps 50 --what-if
                                                          what would that have refused yesterday? (writes nothing)
  ratelimitd top                                          transactions per second and percentiles, live
  ratelimitd ingest access.log.gz                         count a log file of Envoy (started again, it counts nothing twice)
  ratelimitd config check DIR                             are these descriptor files of envoyproxy/ratelimit good?
  ratelimitd limits import DIR                            make rows of them, where that can be done
  ratelimitd check gateway=shop endpoint=pay              what would Envoy be told? (charges one hit)

Every setting of serve is a flag and an environment variable; the flag wins.`

// run does what args say and returns the exit status: 0 = done, 1 = failed or refused, 2 = args
// are wrong.
func run(ctx context.Context, args, env []string, stdout, stderr io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c, kong.Name("ratelimitd"), kong.Description(description), kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }), kong.ConfigureHelp(kong.HelpOptions{Compact: true}), kong.ValueFormatter(helpText))
	if err != nil {
		fmt.Fprintln(stderr, "ratelimitd:", err)
		return 2
	}
	kctx, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "ratelimitd: %v (ratelimitd --help tells more)\n", err)
		return 2
	}
	switch err := c.dispatch(ctx, kctx.Command(), env, stdout, stderr); {
	case errors.Is(err, errRefused), errors.Is(err, errIncomplete):
		return 1
	case err != nil:
		report(stderr, err)
		return 1
	}
	return 0
}

func (c *cli) dispatch(ctx context.Context, command string, env []string, stdout, stderr io.Writer) error {
	words := strings.Fields(command)
	switch words[0] {
	case "migrate":
		return c.Migrate.run(ctx, env, stderr)
	case "limits":
		return c.Limits.run(ctx, words[1], env, stdout)
	case "config":
		return c.Config.run(stdout, stderr)
	case "check":
		return c.Check.run(ctx, env, stdout)
	case "top":
		return c.Top.run(ctx, env, stdout)
	case "ingest":
		return c.Ingest.run(ctx, env, stdout, stderr)
	case "version":
		_, err := fmt.Fprintln(stdout, "ratelimitd", version())
		return err
	case "docs":
		return c.Docs.run(stdout)
	default:
		return c.Serve.run(ctx, env, stdout, stderr)
	}
}

// helpText adds variable and default to the help of a setting.
func helpText(v *kong.Value) string {
	setting := v.Tag.Get("setting")
	if setting == "" {
		return kong.DefaultHelpValueFormatter(v)
	}
	if fallback := v.Tag.Get("fallback"); fallback != "" {
		return fmt.Sprintf("%s (%s, default %s)", v.Help, setting, fallback)
	}
	return fmt.Sprintf("%s (%s)", v.Help, setting)
}

// version is that of the module, with the commit where the build knows it.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	if v == "" {
		v = "(devel)"
	}
	commit := ""
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			commit = s.Value[:min(12, len(s.Value))] + " "
		}
	}
	return v + " " + commit + info.GoVersion
}
