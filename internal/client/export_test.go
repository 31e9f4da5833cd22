package client

import (
	"context"
	"net"
	"net/http"
)

// Dial makes c connect by other means.
func (c *Client) Dial(dial func(ctx context.Context, network, addr string) (net.Conn, error)) {
	c.http.Transport = &http.Transport{DialContext: dial, DisableKeepAlives: true}
}
