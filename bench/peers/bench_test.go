package peers_test

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"unsafe"
)

const endpointsPerGateway = 100

// BenchmarkDecide is one decision: of one hot key, and of keys drawn evenly, by as many goroutines
// as there are CPUs. x-rate is the time beside that of x/time/rate.
func BenchmarkDecide(b *testing.B) {
	for _, keys := range []int{1, 100_000} {
		first := make(map[int]float64) // nanoseconds of the first peer, by the number of CPUs
		for i, p := range peers {
			before := heapBytes()
			worker := p.open(b, keys)
			warmUp(b, worker(), keys)
			perKey := float64(heapBytes()-before) / float64(keys)
			b.Run(fmt.Sprintf("keys=%d/%s", keys, p.name), func(b *testing.B) {
				run(b, worker, keys)
				cpus, ns := runtime.GOMAXPROCS(0), float64(b.Elapsed().Nanoseconds())/float64(b.N)
				if i == 0 {
					first[cpus] = ns
				}
				if first[cpus] > 0 { // else -bench leaves it out
					b.ReportMetric(ns/first[cpus], "x-rate")
				}
				if keys > 1 {
					b.ReportMetric(perKey, "B/key")
				}
			})
			runtime.KeepAlive(worker)
		}
	}
}

// warmUp asks once for each key. Some peers keep the string.
func warmUp(b *testing.B, ask ask, keys int) {
	b.Helper()
	for i := range keys {
		if err := ask(keyOf(i)); err != nil {
			b.Fatal(err)
		}
	}
}

func run(b *testing.B, worker func() ask, keys int) {
	b.Helper()
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		ask, key, random := worker(), []byte(keyOf(0)), rand.New(rand.NewPCG(rand.Uint64(), 0))
		for pb.Next() {
			if err := ask(write(key, random.Uint32N(uint32(keys)))); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// heapBytes is what is reachable now.
func heapBytes() int64 {
	runtime.GC()
	var s runtime.MemStats
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

// keyOf is the name of a gateway and of an endpoint in one.
func keyOf(i int) string {
	return fmt.Sprintf("gateway-%05x/endpoint-%05x", i/endpointsPerGateway, i%endpointsPerGateway)
}

const gatewayLen = len("gateway-00000")

func gatewayOf(key string) string { return key[:gatewayLen] }

func endpointOf(key string) string { return key[gatewayLen+1:] }

// write is keyOf into the memory of another key, so that the key itself is in the cache of its
// core, as that of a request is which has just been decoded.
func write(key []byte, i uint32) string {
	writeHex(key[gatewayLen-5:gatewayLen], i/endpointsPerGateway)
	writeHex(key[len(key)-5:], i%endpointsPerGateway)
	return unsafe.String(unsafe.SliceData(key), len(key))
}

func writeHex(to []byte, n uint32) {
	for i := range to {
		to[len(to)-1-i] = "0123456789abcdef"[n>>(4*i)&15]
	}
}
