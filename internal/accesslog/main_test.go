package accesslog

import (
	"testing"

	"github.com/tps-agent/ratelimitd/internal/testenv"
)

func TestMain(m *testing.M) { testenv.Main(m) }
