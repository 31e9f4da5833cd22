package main

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/http/httpguts"

	"github.com/tps-agent/ratelimitd/internal/descsync"
	"github.com/tps-agent/ratelimitd/internal/rls"
)

// descriptorConfig are the settings of domains that are not rows.
type descriptorConfig struct {
	dir   string             // empty = none
	xds   descsync.XDSConfig // Server is empty = none
	files rls.FileConfig
}

// configured tells whether there may be such domains.
func (c *descriptorConfig) configured() bool { return c.dir != "" || c.xds.Server != "" }

func (r *reader) descriptors() descriptorConfig {
	c := descriptorConfig{dir: r.values["TPS_CONFIG_DIR"], xds: r.xds(), files: rls.FileConfig{
		Headers: [3]string{r.header("TPS_LIMIT_HEADER"), r.header("TPS_REMAINING_HEADER"), r.header("TPS_RESET_HEADER")},
		Shadow:  r.bool("TPS_SHADOW_MODE"), Quota: r.bool("TPS_QUOTA_MODE"), Metadata: r.bool("TPS_RESPONSE_METADATA"),
		NearRatio: r.share("TPS_NEAR_LIMIT_RATIO"),
	}}
	if c.dir != "" && c.xds.Server != "" {
		r.fail("TPS_CONFIG_XDS", "is set, and TPS_CONFIG_DIR too: one of them names the domains")
	}
	c.files.Required = c.configured()
	return c
}

func (r *reader) xds() descsync.XDSConfig {
	c := descsync.XDSConfig{
		Server: r.optionalAddr("TPS_CONFIG_XDS"), Node: r.text("TPS_CONFIG_XDS_NODE"),
		Metadata: r.pairs("TPS_CONFIG_XDS_METADATA"), Headers: r.pairs("TPS_CONFIG_XDS_HEADERS"),
		TLS: r.bool("TPS_CONFIG_XDS_TLS"), CA: r.values["TPS_CONFIG_XDS_CA"], Cert: r.values["TPS_CONFIG_XDS_CERT"], Key: r.values["TPS_CONFIG_XDS_KEY"],
		ServerName: r.values["TPS_CONFIG_XDS_NAME"],
	}
	for _, name := range []string{"TPS_CONFIG_XDS_CA", "TPS_CONFIG_XDS_CERT", "TPS_CONFIG_XDS_KEY", "TPS_CONFIG_XDS_NAME"} {
		if r.values[name] != "" && !c.TLS && r.good("TPS_CONFIG_XDS_TLS") {
			r.fail(name, "is set, but TPS_CONFIG_XDS_TLS is not true")
		}
	}
	if c.Cert != "" && c.Key == "" {
		r.fail("TPS_CONFIG_XDS_CERT", "is set, but TPS_CONFIG_XDS_KEY is not")
	}
	if c.Key != "" && c.Cert == "" {
		r.fail("TPS_CONFIG_XDS_KEY", "is set, but TPS_CONFIG_XDS_CERT is not")
	}
	if strings.HasPrefix(c.Server, ":") && r.good("TPS_CONFIG_XDS") {
		r.fail("TPS_CONFIG_XDS", "names no host")
	}
	for name, value := range c.Headers {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(value) {
			r.fail("TPS_CONFIG_XDS_HEADERS", "has something that no header can be")
			break
		}
	}
	return c
}

// text is what a protobuf message can say.
func (r *reader) text(name string) string {
	if !isText(r.values[name]) {
		r.fail(name, "is no text in UTF-8 without control characters")
	}
	return r.values[name]
}

func isText(s string) bool { return utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl) }

// pairs reads key=value,key=value.
func (r *reader) pairs(name string) map[string]string {
	if r.values[name] == "" {
		return nil
	}
	pairs := make(map[string]string)
	for _, item := range r.list(name) {
		key, value, ok := strings.Cut(item, "=")
		if _, twice := pairs[key]; !ok || key == "" || twice || !isText(item) {
			r.fail(name, "is not key=value,key=value with different keys")
			return nil
		}
		pairs[key] = value
	}
	return pairs
}

// header is the name of a header of answers.
func (r *reader) header(name string) string {
	if !httpguts.ValidHeaderFieldName(r.values[name]) {
		r.fail(name, "is no name of a header")
	}
	return r.values[name]
}

// tlsPorts says which ports stay plain.
func (r *reader) tlsPorts(c *config) {
	ports := r.list("TPS_TLS_PORTS")
	for _, port := range ports {
		if port != "grpc" && port != "http" {
			r.fail("TPS_TLS_PORTS", fmt.Sprintf("%q is not grpc or http", port))
		}
	}
	c.grpcPlain, c.httpPlain = !slices.Contains(ports, "grpc"), !slices.Contains(ports, "http")
	if c.tls.ClientSAN != "" && c.tls.ClientCA == "" {
		r.fail("TPS_TLS_CLIENT_SAN", "is set, but TPS_TLS_CLIENT_CA is not")
	}
}
